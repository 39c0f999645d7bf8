"""Money is a whole number of micros (1/1,000,000) of a currency; only this module converts.

Two quantities appear everywhere and differ by a factor of 1,000:
`price_micros_cpm` is a price per thousand impressions, `cost_micros` what one impression costs.
"""

from math import isfinite

Micros = int

MICROS_PER_UNIT = 1_000_000
IMPRESSIONS_PER_MILLE = 1_000

#: No real price comes near: 10,000 units per thousand impressions. Beyond it a number is noise or an attack.
PRICE_MICROS_CPM_MAX = 10_000 * MICROS_PER_UNIT


def price_micros_from_cpm(price: float) -> Micros:
    """Convert an OpenRTB price (units per thousand) to micros per thousand, rounded half up.

    Raises:
        ValueError: the price is negative, not finite or above `PRICE_MICROS_CPM_MAX`.
    """
    if not isfinite(price) or price < 0 or price > PRICE_MICROS_CPM_MAX / MICROS_PER_UNIT:
        raise ValueError("price out of range")
    return int(price * MICROS_PER_UNIT + 0.5)


def cpm_from_price_micros(price_micros_cpm: Micros) -> float:
    """Convert micros per thousand to the float that OpenRTB puts on the wire."""
    return price_micros_cpm / MICROS_PER_UNIT


def cost_micros(price_micros_cpm: Micros) -> Micros:
    """Return what one impression costs at a price per thousand, rounded up.

    Rounding up is monotone, so the cost at a clearing price never exceeds the cost reserved at the bid price.
    """
    return -(-price_micros_cpm // IMPRESSIONS_PER_MILLE)


def decimal_from_micros(amount: Micros) -> str:
    """Return an amount in units, exactly, such as `-0.000001`."""
    units, micros = divmod(abs(amount), MICROS_PER_UNIT)
    return f"{'-' if amount < 0 else ''}{units}.{micros:06}"


def units_from_micros(amount: Micros) -> float:
    """Convert micros to units, for people to read; never for arithmetic."""
    return amount / MICROS_PER_UNIT
