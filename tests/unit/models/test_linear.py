"""The regression at serving: one request's answer equals that of rows, and weights survive being stored."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.features.platform import PLATFORM
from models.features.spec import FeatureSpec, Group, Match
from models.serving.keys import Shared
from models.serving.linear import Coordinates, LinearModel, restore

BITS = 14
SMALL = FeatureSpec(
    request_columns=("site", "floor", "tag_1", "tag_2", "seen_1", "seen_2"),
    ad_columns=("campaign", "width"),
    groups=(
        Group(name="campaign", ad=("campaign",)),
        Group(name="site", request=("site",)),
        Group(name="tag", request=("tag_1", "tag_2")),
        Group(name="tag_x_campaign", request=("tag_1", "tag_2"), ad=("campaign",)),
    ),
    hierarchy=(),
    request_numbers=("floor",),
    ad_numbers=("width",),
    matches=(Match(name="seen", request=("seen_1", "seen_2"), ad="campaign"),),
)


def drawn(spec: FeatureSpec, count: int, seed: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows whose values are absent now and then, few, or very large."""
    rng = np.random.default_rng(seed)

    def side(width: int) -> NDArray[np.int64]:
        values = rng.integers(0, 4, (count, width))
        large = rng.integers(-(2**63) + 1, 2**63 - 1, (count, width))
        return np.where(rng.random((count, width)) < 0.2, large, values).astype(np.int64)

    return side(len(spec.request_columns)), side(len(spec.ad_columns))


def model(spec: FeatureSpec, bits: int = BITS) -> LinearModel:
    rng = np.random.default_rng(3)
    return LinearModel(Coordinates(spec, bits), rng.normal(size=1 << bits).astype(np.float32), -3.0)


@pytest.mark.parametrize("spec", [PLATFORM, SMALL], ids=["platform", "small"])
@pytest.mark.parametrize("bits", [6, BITS, 20])
def test_one_request_is_answered_as_its_rows_are(spec: FeatureSpec, bits: int) -> None:
    requests, ads = drawn(spec, 40)
    requests[0], requests[1], ads[0] = 0, -(2**63) + 1, 0
    found = model(spec, bits)
    prepared = found.prepare(ads, Shared())
    for chosen in (np.arange(40), np.array([7]), np.array([3, 3, 39, 0]), np.empty(0, dtype=np.int64)):
        for request in requests:
            expected = found.logits(request[np.newaxis], ads[chosen])
            assert np.allclose(prepared.logits(request, chosen), expected, atol=1e-4)


def test_each_coordinate_is_read_where_it_is_said() -> None:
    """With one weight in the table, log-odds are how often a row says that."""
    coordinates = Coordinates(SMALL, 20)
    request, ad = np.array([[5, 1_000, 7, 0, 9, 9]]), np.array([[9, 300]])
    places, filled = coordinates(request, ad)
    # site, tag, campaign, tag x campaign, floor, width, two matches as one, the intercept; the absent tag twice not.
    assert filled.sum() == 8
    assert len(filled) == 10
    for place in places[filled]:
        weights = np.zeros(1 << 20, dtype=np.float32)
        weights[place] = 1.0
        found = LinearModel(coordinates, weights, 0.0)
        assert found.logits(request, ad) == [1.0]
        assert found.prepare(ad, Shared()).logits(request[0], np.array([0])) == [1.0]


def test_order_within_a_set_and_absent_matches_tell_nothing() -> None:
    found = model(SMALL)
    ads = np.array([[9, 300], [0, 300]])
    logits = [found.logits(np.array([[5, 10, *tags]]), ads) for tags in ([7, 8, 0, 9], [8, 7, 9, 0])]
    assert np.allclose(*logits)
    unseen = [found.logits(np.array([[5, 10, 7, 8, *seen]]), ads) for seen in ([0, 0], [3, 4])]
    assert np.array_equal(*unseen)
    assert not np.allclose(unseen[0][0], logits[0][0])


def test_magnitudes_tell_signs_and_doublings() -> None:
    coordinates = Coordinates(SMALL, 20)
    floors = [-5, -4, -1, 0, 1, 2, 3, 4, 7, 8]
    rows = np.array([[5, floor, 0, 0, 0, 0] for floor in floors])
    places, _ = coordinates(rows, np.tile([9, 300], (len(rows), 1)))
    varying = places[[len(set(slot)) > 1 for slot in places.tolist()]]
    levels = [-3, -3, -1, 0, 1, 2, 2, 3, 3, 4]
    assert len(varying) == 1
    assert [[a == b for b in levels] for a in levels] == [[a == b for b in varying[0]] for a in varying[0]]


def test_a_stored_model_is_the_same_and_keeps_only_what_it_learned() -> None:
    requests, ads = drawn(PLATFORM, 30)
    made = model(PLATFORM)
    made.weights[::2] = 0.0
    arrays = made.arrays()
    assert len(arrays["places"]) == 1 << (BITS - 1)
    assert np.array_equal(restore(PLATFORM, arrays).logits(requests, ads), made.logits(requests, ads))


@pytest.mark.parametrize(
    "broken",
    [
        {"weights": np.array([np.nan], dtype="<f4"), "places": np.array([1], dtype="<u4")},
        {"weights": np.array([1.0], dtype="<f4"), "places": np.array([1 << BITS], dtype="<u4")},
        {"weights": np.array([1.0], dtype="<f4")},
        {"weights": np.array([1.0], dtype="<f8"), "places": np.array([1], dtype="<u4")},
        {"base": np.array(np.inf)},
        {"bits": np.array(0)},
        {"bits": np.array(60)},
    ],
)
def test_weights_of_another_form_are_refused(broken: dict[str, NDArray[np.generic]]) -> None:
    with pytest.raises(ValueError, match=r"weight|table"):
        restore(PLATFORM, {**model(PLATFORM).arrays(), **broken})


def test_many_rows_are_scored_as_few_are() -> None:
    requests, ads = drawn(SMALL, 20_000)
    found = model(SMALL)
    whole = found.logits(requests, ads)
    assert np.array_equal(whole[9_000:9_010], found.logits(requests[9_000:9_010], ads[9_000:9_010]))
    assert found.logits(requests[:0], ads[:0]).shape == (0,)
