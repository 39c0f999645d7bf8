"""When requests come: a day's curve with noise, the same for the same seed."""

from collections.abc import Iterator
from random import Random

from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR

#: Requests by hour of the day, UTC, relative: the night brings a sixth of the evening, as in open bid logs.
CURVE = (
    0.46, 0.33, 0.25, 0.20, 0.17, 0.18, 0.24, 0.36, 0.50, 0.60, 0.66, 0.70,
    0.74, 0.72, 0.70, 0.70, 0.72, 0.76, 0.82, 0.90, 0.97, 1.00, 0.90, 0.68,
)  # fmt: skip
_MEAN = sum(CURVE) / len(CURVE)
#: For so long traffic is better or worse than usual, and by how much (standard deviation of the logarithm).
_WEATHER_MS = 600_000
_WEATHER = 0.2


def relative(at_ms: int) -> float:
    """Return the usual traffic at an instant, mean 1: the curve, straight from the middle of one hour to the next's."""
    hour, into = divmod((at_ms + MS_PER_HOUR // 2) / MS_PER_HOUR, 1.0)
    before, after = CURVE[int(hour - 1) % 24], CURVE[int(hour) % 24]
    return (before + (after - before) * into) / _MEAN


def arrivals(seed: int, begin_ms: int, end_ms: int, requests_per_day: float) -> Iterator[int]:
    """Yield the instants of requests, in order: Poisson, at a rate that follows the curve and the weather."""
    for slot_ms in range(begin_ms, end_ms, _WEATHER_MS):
        chance = Random(f"arrivals {seed} {slot_ms}")  # noqa: S311 - to be reproduced, not kept secret
        weather = chance.lognormvariate(-(_WEATHER**2) / 2, _WEATHER)
        per_ms = requests_per_day / MS_PER_DAY * relative(slot_ms + _WEATHER_MS // 2) * weather
        at_ms = slot_ms + chance.expovariate(per_ms)
        while at_ms < min(slot_ms + _WEATHER_MS, end_ms):
            yield int(at_ms)
            at_ms += chance.expovariate(per_ms)
