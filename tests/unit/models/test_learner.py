"""The online learner: it learns as a batch would, goes on after a kill as if nothing had been, and knows its worth."""

import numpy as np
import pytest

from dsp.events.schema import Decision, Notice, NoticeKind
from dsp.kernel.errors import BundleError
from models.features.platform import PLATFORM
from models.serving import online
from models.serving.predictor import predict
from models.serving.prior import CVR, ConstantPredictor, OnlinePredictor
from models.training import ftrl, learner
from models.training.learner import FTRL, SLICE_MS, Learner
from models.training.pending import Target
from models.training.rows import Rows
from tests.online import BEGIN_MS, DESKTOP, PHONE, Stamped, ad, decision, notice, request, tell, traffic

MATURITY_MS = 10_000
TERMS = MATURITY_MS, 100_000, 30


def rates(found: Learner) -> dict[int, tuple[float, float]]:
    """Return click and conversion rate by device, as the bidder would have them of the blob."""
    blob = found.blob()
    assert blob is not None
    prior = online.load(blob)
    predictor = OnlinePredictor(prior.version, prior.ctr, prior.cvr, ConstantPredictor())
    answers = {device: predict(predictor, request(device), ad()[np.newaxis]) for device in (PHONE, DESKTOP)}
    return {device: (float(answer.pctr[0]), float(answer.pcvr[0])) for device, answer in answers.items()}


def test_clicks_that_come_late_are_not_lost() -> None:
    """Nine of ten come when their impression has been learned as not clicked; without them rates would be .03."""
    found = learner.begin(300, 100_000, 30)
    events = list(traffic(8_000, BEGIN_MS))
    tell(found, events)
    found.advance(BEGIN_MS + 10**6)
    counts = found.pending.counts
    assert counts.learned == 8_000
    assert counts.late > 0.85 * counts.clicked
    assert counts.clicked == sum(isinstance(event, Notice) and event.kind is NoticeKind.CLICK for _, event in events)
    assert 0.2 < rates(found)[PHONE][0] < 0.45  # one world of few coordinates: the last clicks tell a lot


def test_the_same_rows_one_by_one_give_the_same_weights() -> None:
    """Without late clicks, and with an impression a slice, a batch of one and the learner are the same sums."""
    events = [one for one in traffic(300, BEGIN_MS, step_ms=SLICE_MS) if not _late(one)]
    found = learner.begin(MATURITY_MS, 100_000, 30)
    tell(found, events)
    found.advance(2**62)
    decisions = [event for _, event in events if isinstance(event, Decision)]
    clicked = {
        event.facts.bid_id for _, event in events if isinstance(event, Notice) and event.kind is NoticeKind.CLICK
    }
    batch = ftrl.begin(
        PLATFORM,
        ftrl.FtrlConfig(bits=FTRL[Target.CLICK].bits, alpha=FTRL[Target.CLICK].alpha, batch=1),
        base=float(np.log(0.01 / 0.99)),
    )
    batch.update(
        Rows(
            np.arange(300),
            np.stack([np.frombuffer(one.bids[0].request_features, "<i8") for one in decisions]),
            np.stack([np.frombuffer(one.bids[0].ad_features, "<i8") for one in decisions]),
            np.array([one.auction_id in clicked for one in decisions]),
            np.ones(300),
        )
    )
    assert np.allclose(found.models[Target.CLICK].sums, batch.sums, atol=1e-9)
    assert np.allclose(found.models[Target.CLICK].squares, batch.squares, atol=1e-9)


def _late(one: Stamped) -> bool:
    if not isinstance(one.event, Notice) or one.event.kind is not NoticeKind.CLICK:
        return False
    shown_ms = BEGIN_MS + 200 + SLICE_MS * int(one.event.facts.bid_id.partition("-")[2])
    return one.at_ms > shown_ms + MATURITY_MS


def test_what_is_published_knows_the_devices_and_is_calibrated() -> None:
    found = learner.begin(*TERMS)
    tell(found, list(traffic(8_000, BEGIN_MS)))
    known = rates(found)
    assert known[PHONE][0] == pytest.approx(0.3, rel=0.15)
    assert known[DESKTOP][0] == pytest.approx(0.01, abs=0.015)
    assert 0.13 < known[PHONE][1] < 0.45  # it began at .05, and most clicks are young
    assert found.gains[Target.CLICK].ratio < 0.7


def test_nothing_is_served_that_has_foretold_nothing() -> None:
    found = learner.begin(*TERMS)
    assert found.blob() is None
    tell(found, list(traffic(100, BEGIN_MS)))  # a few clicks
    found.advance(BEGIN_MS + 100_000)
    assert found.shown() == {}
    assert rates(found) == {device: (pytest.approx(0.01), pytest.approx(CVR)) for device in (PHONE, DESKTOP)}


@pytest.mark.parametrize("killed_ms", [0, 20_000, 61_234, 99_999])
def test_a_killed_learner_goes_on_as_if_nothing_had_been(killed_ms: int) -> None:
    """It is killed after its state was saved, and some steps later: those are done again."""
    events = list(traffic(2_000, BEGIN_MS))
    whole, first = learner.begin(*TERMS), learner.begin(*TERMS)
    tell(whole, events)
    tell(first, events, to_ms=BEGIN_MS + killed_ms)
    state = first.state()
    tell(first, events, from_ms=BEGIN_MS + killed_ms, to_ms=BEGIN_MS + killed_ms + 7_000)
    again = learner.resume(state, *TERMS)
    tell(again, events)
    for one in (whole, again):
        one.advance(BEGIN_MS + 10**9)
    assert again.learned_to_ms == whole.learned_to_ms
    for target in Target:
        assert np.allclose(again.models[target].sums, whole.models[target].sums, atol=1e-9)
        assert np.allclose(again.models[target].squares, whole.models[target].squares, atol=1e-9)
        assert again.gains[target].responses == pytest.approx(whole.gains[target].responses)


def test_positions_move_on_once_nothing_before_them_is_open() -> None:
    found = learner.begin(*TERMS)
    hour_ms = 3_600_000
    for minute in range(180):
        found.advance(BEGIN_MS + 60_000 * minute)
        found.note(BEGIN_MS + 60_000 * minute, {"decisions": {0: minute}, "notices": {0: 2 * minute}})
    kept = found.positions["decisions"][0]
    assert 179 - 45 < kept < 179 - 30
    assert found.positions["notices"] == {0: 2 * kept}
    assert learner.resume(found.state(), *TERMS).positions == found.positions
    assert found.learned_to_ms == BEGIN_MS + 3 * hour_ms - 60_000


def test_features_of_another_definition_are_not_learned() -> None:
    found = learner.begin(*TERMS)
    found.decided(decision("a", BEGIN_MS, PHONE, feature_hash="other"), BEGIN_MS)
    found.told(notice("a", NoticeKind.BILL, BEGIN_MS), BEGIN_MS)
    assert found.advance(BEGIN_MS + MATURITY_MS) == 0
    assert found.pending.counts.unmatched == 1


def test_a_state_that_is_not_whole_is_refused() -> None:
    state = learner.begin(*TERMS).state()
    for broken in (b"", state[:-1], state[:40], state[:50] + b"x" + state[51:], online.seal({})):
        with pytest.raises(BundleError):
            learner.resume(broken, *TERMS)
