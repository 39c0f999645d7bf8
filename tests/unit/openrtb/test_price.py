"""Price ciphers against published examples, forgery, and the price we quote."""

import pytest

from dsp.kernel.config import Secret
from dsp.kernel.errors import InputError
from dsp.kernel.money import cost_micros, price_micros_from_cpm
from dsp.openrtb.price import GooglePrice, PlainPrice, key_from_text, quote
from dsp.openrtb.profile import Profile, cipher

# The example that Google's documentation publishes for its price encryption.
ENCRYPTION = "skU7Ax_NL5pPAFyKdkfZjZz2-VhIN8bjj1rVFOaJ_5o="
INTEGRITY = "arO23ykdNqUQ5LEoQ0FVmPkBd7xB5CO89PDZlSjpFxo="
EXAMPLES = [
    ("YWJjMTIzZGVmNDU2Z2hpN7fhCuPemCce_6msaw", 100),
    ("YWJjMTIzZGVmNDU2Z2hpN7fhCuPemCAWJRxOgA", 1900),
    ("YWJjMTIzZGVmNDU2Z2hpN7fhCuPemC32prpWWw", 2700),
]
VECTOR = b"0123456789abcdef"


def _google() -> GooglePrice:
    return GooglePrice(key_from_text(ENCRYPTION), key_from_text(INTEGRITY))


def _reason(one: PlainPrice | GooglePrice, text: str) -> str:
    with pytest.raises(InputError) as caught:
        one.decrypt(text)
    return caught.value.reason


@pytest.mark.parametrize(("text", "micros"), EXAMPLES)
def test_published_examples(text: str, micros: int) -> None:
    """The micros are what one impression costs: 1,900 are a CPM of 1.90."""
    assert _google().decrypt(text) == micros / 1_000
    assert _google().encrypt(micros / 1_000, b"abc123def456ghi7") == text
    others = GooglePrice(key_from_text(ENCRYPTION), key_from_text(INTEGRITY), impressions=1_000)
    assert others.decrypt(text) == micros / 1_000_000
    assert others.encrypt(micros / 1_000_000, b"abc123def456ghi7") == text


@pytest.mark.parametrize("price", [0.0, 0.000001, 1.0, 2.345678, 16.1, 9_999.999999])
def test_ciphers_return_what_went_in(price: float) -> None:
    for one in (GooglePrice(b"e", b"i", impressions=1_000), PlainPrice()):
        assert one.decrypt(one.encrypt(price, VECTOR)) == pytest.approx(price, abs=1e-9)
    for one in (_google(), PlainPrice(), GooglePrice(b"e", b"i", impressions=1_000)):
        back = price_micros_from_cpm(one.decrypt(one.encrypt(price, VECTOR)))
        assert 0 <= back - price_micros_from_cpm(price) < one.rounding_micros_cpm
        assert cost_micros(back) == cost_micros(price_micros_from_cpm(price))


def test_every_changed_character_is_noticed() -> None:
    text = _google().encrypt(1.5, VECTOR)
    for position in range(len(text) - 1):  # the last character carries unused bits
        changed = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        assert _reason(_google(), changed) == "price_forged"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "price_missing"),
        ("${AUCTION_PRICE}", "price_missing"),
        ("%%WINNING_PRICE%%", "price_missing"),
        ("AUDIT", "price_missing"),
        ("1.5", "price_malformed"),
        ("x" * 37, "price_malformed"),
        ("é" * 38, "price_malformed"),
        ("!" * 38, "price_malformed"),
        ("A" * 37 + "!", "price_malformed"),
        ("A" * 42, "price_malformed"),
        ("A" * 38, "price_forged"),
    ],
)
def test_encrypted_rubbish(text: str, reason: str) -> None:
    assert _reason(_google(), text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-0.01", "price_absurd"),
        ("nan", "price_absurd"),
        ("inf", "price_absurd"),
        ("1e9", "price_absurd"),
        ("one", "price_malformed"),
        ("1_000", "price_malformed"),
        ("0" * 1_000, "price_malformed"),
        ("٣", "price_malformed"),
        ("${AUCTION_PRICE}", "price_missing"),
        ("-1", "price_missing"),
    ],
)
def test_plain_rubbish(text: str, reason: str) -> None:
    assert _reason(PlainPrice(), text) == reason


def test_a_profile_names_its_cipher() -> None:
    assert isinstance(cipher(Profile(name="x")), PlainPrice)
    keys = {"price_encryption_key": Secret(ENCRYPTION), "price_integrity_key": Secret(INTEGRITY)}
    google = cipher(Profile(name="x", price_cipher="google", **keys))
    assert google.decrypt(EXAMPLES[0][0]) == 0.1
    by_mille = cipher(Profile(name="x", price_cipher="google_cpm", **keys))
    assert by_mille.decrypt(EXAMPLES[0][0]) == 0.0001


def test_keys_rotate_without_a_price_that_cannot_be_read() -> None:
    """The exchange changes its keys at an instant of its own, and notices of before are still on their way."""
    old = {"price_encryption_key": Secret("ab" * 16), "price_integrity_key": Secret("cd" * 16)}
    new = {"price_encryption_key": Secret("01" * 16), "price_integrity_key": Secret("23" * 16)}
    ours = cipher(
        Profile(name="x", price_cipher="google", **new, **{f"{name}_before": key for name, key in old.items()})
    )
    for theirs in (old, new):
        assert ours.decrypt(cipher(Profile(name="x", price_cipher="google", **theirs)).encrypt(1.5, bytes(16))) == 1.5
    foreign = {"price_encryption_key": Secret("45" * 16), "price_integrity_key": Secret("67" * 16)}
    assert _reason(ours, cipher(Profile(name="x", price_cipher="google", **foreign)).encrypt(1.5, bytes(16))) == (
        "price_forged"
    )
    after = cipher(Profile(name="x", price_cipher="google", **new))
    for others in (cipher(Profile(name="x", price_cipher="google", **old)), GooglePrice(b"", b"")):
        assert _reason(after, others.encrypt(1.5, bytes(16))) == "price_forged"


def test_keys_in_hexadecimal_and_base64() -> None:
    assert key_from_text("00ff") == b"\x00\xff"
    assert key_from_text("_-8=") == key_from_text("/+8") == b"\xff\xef"
    assert key_from_text("not a key!") == b""


@pytest.mark.parametrize("floor", [0.01, 0.1, 0.3, 1.0, 1.23, 7.77, 0.000123])
@pytest.mark.parametrize("rate", [1.0, 1.0837, 0.0067, 151.2])
def test_a_quote_at_the_floor_reaches_the_floor(floor: float, rate: float) -> None:
    from math import ceil

    book = ceil(floor * rate * 1_000_000 - 1e-3)
    assert quote(book, rate) >= floor - 1e-12


def test_a_quote_has_six_decimals() -> None:
    assert quote(2_000_000, 3.0) == 0.666667
