"""What several models read of an impression: made once, and never taken for another's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.platform import PLATFORM
from models.features.spec import FeatureSpec
from models.serving.calibration import platt
from models.serving.keys import Finder, PreparedKeys, Shared
from models.serving.linear import Coordinates, LinearModel
from models.serving.rate import ModelPredictor, Part, Rate
from models.serving.statistics import PLATFORM_COLUMNS

RNG = np.random.default_rng(5)
ADS = RNG.integers(0, 5, (30, len(PLATFORM.ad_columns)))
REQUESTS = RNG.integers(0, 5, (8, len(PLATFORM.request_columns)))


def linear(seed: int, spec: FeatureSpec = PLATFORM, bits: int = 12) -> LinearModel:
    weights = np.random.default_rng(seed).normal(0, 0.1, 1 << bits).astype(np.float32)
    return LinearModel(Coordinates(spec, bits), weights, -2.0)


def test_what_was_found_last_is_known_by_its_numbers_not_by_its_arrays() -> None:
    asked: list[int] = []

    def find(request: NDArray[np.int64], chosen: NDArray[np.int64]) -> int:
        asked.append(int(request.sum() + chosen.sum()))
        if asked[-1] == 13:
            raise ValueError("none")
        return asked[-1]

    finder, request, chosen = Finder(find), np.array([1, 2]), np.array([3])
    assert finder.find(request, chosen) == finder.find(request, chosen) == 6
    assert asked == [6, 6]  # nothing is remembered until several ask
    finder.remember()
    assert finder.find(request, chosen) == finder.find(request.copy(), chosen.copy()) == 6
    assert asked == [6, 6, 6]
    chosen[0] = 4  # the same arrays, used again
    assert finder.find(request, chosen) == 7
    assert finder.find(request, np.array([4, 0])) == 7
    assert asked == [6, 6, 6, 7, 7]
    chosen[0] = 10
    with pytest.raises(ValueError, match="none"):
        finder.find(request, chosen)
    chosen[0] = 4
    assert finder.find(request, chosen) == 7
    assert asked[-2:] == [13, 7]  # what failed half-way may have written over what was found before


def test_models_that_read_the_same_find_it_once() -> None:
    shared = Shared()
    groups, matches = PLATFORM.groups, PLATFORM.matches
    first = PreparedKeys.of(groups, matches, PLATFORM_COLUMNS, ADS, shared)
    by_side = sorted(groups, key=lambda group: bool(group.ad))  # as trees have them, where regressions do not
    assert first is PreparedKeys.of(by_side, matches, PLATFORM_COLUMNS, ADS, shared)
    assert first is not PreparedKeys.of(groups[::-1], matches, PLATFORM_COLUMNS, ADS, shared)
    assert first is not PreparedKeys.of(groups, matches[1:], PLATFORM_COLUMNS, ADS, shared)
    assert first is not PreparedKeys.of(groups, matches, PLATFORM_COLUMNS, ADS, Shared())
    chosen = np.array([3, 1])
    found = first.find(REQUESTS[0], chosen)
    assert first.find(REQUESTS[0], chosen) is found


def test_rates_that_share_say_what_each_says_alone() -> None:
    parts = [Part(linear(1)), Part(linear(2), 0.5), Part(linear(3, bits=9), 2.0)]
    ctr, cvr = Rate(parts, platt(0.9, 0.1)), Rate(parts[1:], platt())
    together = ModelPredictor("v", ctr, cvr).prepare(ADS)
    for chosen in (np.array([0]), np.array([7, 7, 2]), np.arange(30)):
        for request in REQUESTS:
            found = together.predict(request, chosen)
            assert np.array_equal(found.pctr, ctr.prepare(ADS, Shared())(request, chosen))
            assert np.array_equal(found.pcvr, cvr.prepare(ADS, Shared())(request, chosen))
            assert np.allclose(found.pctr, ctr.probabilities(request[np.newaxis], ADS[chosen]), atol=1e-6)
