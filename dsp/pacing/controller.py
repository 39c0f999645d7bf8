"""How bids are scaled and auctions thinned so that spend follows its plan: the controls, and their law."""

from dataclasses import dataclass
from math import exp, inf, log
from typing import NamedTuple

import msgspec

from dsp.kernel.money import Micros
from dsp.pacing.dual import descend
from dsp.pacing.plan import Pace

#: The blob under which the pacing worker keeps `Controls`, for itself and for people; bidders follow columns.py's.
CONTROLS_BLOB = "controls"


class Bought(NamedTuple):
    """What a line item's money bought since the flight began, in micros; the target's side of the book.

    `realised` values what was counted at what a unit may cost; `unit` is that cost. A goal on impressions has realised
    what was expected.
    """

    expected_micros: Micros
    realised_micros: float
    unit_micros: Micros


class Control(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """How one line item or campaign is held to its plan and to its target.

    `multiplier` scales the value that is bid, and `left_micros` is what bids may still take of today's budgets, by the
    book. The rest lets a restarted controller go on, and people see spend against plan: money is micros since the
    flight began.
    """

    multiplier: float = 1.0  # 0: closed, nothing is bid
    left_micros: Micros | None = None  # None: no budget
    level: float = 0.0  # log of the multiplier that spends as the plan does, and comes back to it
    recovery: float = 1.0  # what of the level is to come back to plan; the rest is what was learned of the market
    urgency: float = 1.0  # the money left over what the plan has left: what chance spent is put right by as much more
    level_answered: float = 0.0  # the level that spend was last seen at
    mu_target: float | None = None  # the target's dual; None: no target, or nothing known of what was bought
    value_ratio: float = 1.0  # realised over expected value
    cold: bool = False  # spend has not yet come near the plan
    rate_micros_second: float = 0.0  # of spend, smoothed
    at_ms: int = 0
    spent_micros: Micros = 0
    impressions: int = 0
    cost_micros: float = 0.0  # of an average impression, lately
    value_micros: Micros = 0  # expected, of what was bought
    planned_micros: Micros | None = None  # None: no budget, no plan

    @property
    def closed(self) -> bool:
        """Tell whether nothing is bid, as nothing can be planned: no law takes a multiplier that low."""
        return self.multiplier == 0.0

    @property
    def level_now(self) -> float:
        """Return the log of the multiplier for the budget alone, whatever target or campaign allow."""
        return self.level + log(self.urgency)

    @property
    def highest(self) -> float:
        """Return the most that the target lets the multiplier be, but for what value proves to be."""
        return 1.0 if self.mu_target is None else 1.0 + 1.0 / self.mu_target


class Controls(msgspec.Struct, frozen=True, kw_only=True):
    """The controls of all line items at one instant. Those of campaigns are folded into their line items' already."""

    at_ms: int
    line_items: dict[int, Control] = {}
    campaigns: dict[int, Control] = {}
    predicted_by: tuple[str, ...] = ()  # predictors on whose values levels were learned, as told; the latest last


def encode(controls: Controls) -> bytes:
    """Return the blob's bytes (MessagePack)."""
    return msgspec.msgpack.encode(controls)


def decode(data: bytes) -> Controls:
    """Return the controls; raises msgspec.DecodeError for bytes that are none."""
    return msgspec.msgpack.decode(data, type=Controls)


@dataclass(frozen=True, slots=True)
class Law:
    """How briskly a controller acts; times in seconds, logs natural."""

    #: So far down that nothing is bought any more, and not so far that coming back takes a day.
    multiplier_min: float = 1e-4
    #: Above 1: as long as the average stays within the target, a single impression may cost more than it is worth.
    multiplier_max: float = 2.0
    #: A controller begins so far open that traffic `start_supply` times as rich as needed could not spend more than
    #: `start_share` of the day before the book shows it. A day begins wide open, two minutes nearly shut.
    start_supply: float = 20.0
    start_share: float = 0.05
    start_delay_seconds: float = 3.0
    #: One time constant is this share of today's part of the flight, at most so many seconds ...
    time_share: float = 1 / 12
    time_seconds_max: float = 600.0
    #: ... and at least so many control steps: spend shows in the book late, and a loop faster than that would swing.
    time_steps_min: float = 6.0
    #: However fast, so many average impressions are misspent before the level moves by 1: the noise of so many is a
    #: tenth. Or this share of today's part of the flight, if that is more: urgency and recovery keep to the plan, and
    #: a level that stays buys most. A share of today off plan says that they do not: that halves it, and twice as much
    #: off makes it a fifth, down to one time constant. Until so many impressions were bought, as many as were, so that
    #: a cold start finds its level in a few.
    memory_impressions: float = 150.0
    memory_impressions_start: float = 2.0
    memory_share: float = 0.2
    memory_off_plan: float = 0.01
    #: The cost of an average impression is the mean over about so many.
    cost_impressions: float = 50.0
    #: Over how many time constants a gap between spend and plan, or cost and value, is to be closed, and over the
    #: spend of how many average impressions at least: of so many in a small day, of fewer in proportion in one that
    #: has more impressions than the last number, or noise would stand for hours.
    catch_up: float = 4.0
    catch_up_impressions: float = 120.0
    catch_up_day_impressions: float = 200.0
    #: A gap of less than this share of what was planned today so far, or of so many impressions, is noise: it is spread
    #: over the rest of the day, where it costs least.
    slack_share: float = 0.005
    slack_impressions: float = 3.0
    #: The least and the most of the plan's rate that the money left makes of it.
    urgency_min: float = 0.25
    urgency_max: float = 2.0
    #: The least and the most that bids are scaled to come back to plan. Spend answers more than in proportion: where a
    #: sixth of the traffic is enough, 1.2 buys half as much again.
    recovery_min: float = 0.67
    recovery_max: float = 1.2
    #: Where the plan has less left than so many average impressions there is no mean to keep to: the money left goes
    #: for what comes, and nothing is learned from that. It is to be gone when the plan has this part of one left, as
    #: only whole impressions can be bought.
    end_impressions: float = 3.0
    end_whole: float = 0.3
    end_urgency_max: float = 1_000.0
    fall_max: float = 0.5  # the most that the level falls in one step
    cold_gain: float = 1.5  # how much faster a cold controller opens
    #: While bids go unanswered the level rises by so much, then by so much an hour: an exchange that is stuck owes the
    #: bills of bids that may have won, and who has been outbid finds the price all the same.
    unanswered_rise: float = 0.2
    unanswered_rise_hour: float = 0.15
    #: The target's dual begins where it hardly lets a bid exceed value, and ends where it does not at all. Before
    #: anything was bought it falls from there, so that bids rise as slowly as unanswered ones: who is outbid by line
    #: items that may exceed their value would never buy anything to learn from.
    mu_target_start: float = 10.0
    mu_target_max: float = 100.0
    #: So many of the goal's units weigh as much as all predictions: a few conversions, or none, prove little.
    units_prior: float = 20.0


def step(
    before: Control | None,
    spent_micros: Micros,
    impressions: int,
    pace: Pace,
    now_ms: int,
    law: Law,
    bought: Bought | None = None,
) -> Control:
    """Return the next control: mirror descent in log space on the duals of the budget and of the target.

    What the budget wants is the plan's own rate, as much more of it as there is more money left than planned, and as
    brings spend back to the plan; the target wants cost to be at most the value bought, now and since the flight began.

    Args:
        before: the control so far; None begins cold, and so does one of which nothing was planned yet.
        spent_micros: since the flight began, as the book has it.
        impressions: that were billed since the flight began.
        pace: what the plan has for now.
        now_ms: wall time.
        law: how briskly to act.
        bought: what the spend bought, if anything; None where there is no target, or no way to tell: bids then stay
            within value.
    """
    # A flight that is known before it begins has taught nothing yet, and had no day to tell how far open to begin.
    if before is None or (before.planned_micros == 0 and not before.spent_micros):
        level = _level_start(pace.day_seconds, law)
        value = bought.expected_micros if bought else 0
        before = Control(
            level=level, level_answered=level, cold=True, at_ms=now_ms, spent_micros=spent_micros,
            impressions=impressions, value_micros=value,
        )  # fmt: skip
    seconds = max(now_ms - before.at_ms, 0) / 1_000
    time = max(min(law.time_share * pace.day_seconds, law.time_seconds_max), law.time_steps_min * seconds)
    after = msgspec.structs.replace(
        before,
        at_ms=now_ms,
        spent_micros=spent_micros,
        impressions=impressions,
        cost_micros=_cost(before, spent_micros, impressions, law),
        planned_micros=pace.planned_micros,
        mu_target=None,
        value_ratio=1.0,
    )
    if pace.rate_micros_second > 0.0 and seconds > 0.0:
        spent = max(spent_micros - before.spent_micros, 0)
        rate = before.rate_micros_second + (spent / seconds - before.rate_micros_second) * seconds / time
        after = msgspec.structs.replace(after, rate_micros_second=rate)
        if pace.rate_micros_second == inf:
            level = log(law.multiplier_max)
            after = msgspec.structs.replace(after, level=level, recovery=1.0, urgency=1.0, cold=False)
        else:
            after = _budget(after, before, pace, seconds, time, law)
    if bought is not None:
        after = _target(after, before, bought, seconds, time, pace.rate_micros_second > 0.0, law)
    return hold(after, inf, law)


def _cost(before: Control, spent_micros: Micros, impressions: int, law: Law) -> float:
    more = impressions - before.impressions
    if more <= 0:
        return before.cost_micros
    each = max(spent_micros - before.spent_micros, 0) / more
    return before.cost_micros + (each - before.cost_micros) * min(more / min(impressions, law.cost_impressions), 1.0)


def _budget(after: Control, before: Control, pace: Pace, seconds: float, time: float, law: Law) -> Control:
    spent, plan_rate = max(after.spent_micros - before.spent_micros, 0), pace.rate_micros_second
    cold = before.cold and after.rate_micros_second < 0.5 * plan_rate
    ending = pace.rest_micros < law.end_impressions * after.cost_micros
    urgency, recovery = _urgency(after, pace, ending, law), _recovery(after, pace, time, law)
    learned = learned_before = before.level - log(before.recovery)
    if not ending or max(urgency, before.urgency) <= law.urgency_max:
        wanted = urgency * recovery * plan_rate * seconds
        memory = _memory(after, pace, seconds, time, law) / (law.cold_gain if cold and wanted > spent else 1.0)
        learned = descend(learned, spent, wanted, memory, law.fall_max, inf)
    answered = before.level_answered + law.unanswered_rise_hour * seconds / 3_600
    if spent:
        answered = before.level_now
    elif not cold and not ending:
        highest = max(answered + law.unanswered_rise, before.level_now)
        learned = min(learned, max(highest - log(recovery * urgency), learned_before))
        if learned + log(recovery * urgency) > highest:
            recovery = min(recovery, 1.0)
            urgency = min(urgency, max(exp(highest - learned) / recovery, law.urgency_min))
    level = min(max(learned, log(law.multiplier_min)), log(law.multiplier_max)) + log(recovery)
    return msgspec.structs.replace(
        after, level=level, recovery=recovery, urgency=urgency, level_answered=answered, cold=cold
    )


def _urgency(after: Control, pace: Pace, ending: bool, law: Law) -> float:
    """Return the money left over what the plan has left."""
    left = (after.planned_micros or 0) - after.spent_micros + pace.rest_micros
    rest = max(pace.rest_micros - law.end_whole * after.cost_micros, 1.0)
    return min(max(left / rest, law.urgency_min), law.end_urgency_max if ending else law.urgency_max)


def _recovery(after: Control, pace: Pace, time: float, law: Law) -> float:
    """Return the multiple of the rate that brings spend back to plan, as far as it is off by more than noise."""
    gap = (after.planned_micros or 0) - after.spent_micros
    slack = max(law.slack_share * pace.today_micros, law.slack_impressions * after.cost_micros)
    small_day = law.catch_up_day_impressions * after.cost_micros
    share = min(small_day / max(pace.today_micros + pace.rest_micros, 1.0), 1.0)
    least = law.catch_up_impressions * share * after.cost_micros
    horizon = max(law.catch_up * time * pace.rate_micros_second, least, 1.0)
    behind = (gap - min(max(gap, -slack), slack)) / horizon
    return min(max(1.0 + behind, law.recovery_min), law.recovery_max)


def _memory(after: Control, pace: Pace, seconds: float, time: float, law: Law) -> float:
    """Return how much money misspent moves the level by 1."""
    rate, cost = pace.rate_micros_second, after.cost_micros
    if cost <= 0.0:
        return time * rate
    gap = (after.planned_micros or 0) - after.spent_micros
    off_plan = gap / max(law.memory_off_plan * (pace.today_micros + pace.rest_micros), 1.0)
    settled = max(law.memory_share * pace.day_seconds / (1.0 + off_plan * off_plan), time)
    known = (after.impressions + law.memory_impressions_start) * cost
    return max(min(known, max(law.memory_impressions * cost, settled * rate)), law.time_steps_min * seconds * rate)


def _target(
    after: Control, before: Control, bought: Bought, seconds: float, time: float, bidding: bool, law: Law
) -> Control:
    """The target's dual, and what value proves to be: predictions weigh as much as `units_prior` units counted."""
    prior = law.units_prior * max(bought.unit_micros, 1)
    ratio = (bought.realised_micros + prior) / (bought.expected_micros + prior)
    if not bought.expected_micros:
        rise = law.unanswered_rise_hour * seconds / 3_600 if bidding else 0.0
        highest = log(1.0 + 1.0 / (before.mu_target or law.mu_target_max)) + rise
        mu = 1.0 / (exp(min(highest, log(law.multiplier_max))) - 1.0)
    elif before.mu_target is None or not before.value_micros:
        mu = law.mu_target_start
    else:
        mu = before.mu_target
    spent = max(after.spent_micros - before.spent_micros, 0)
    value = ratio * max(bought.expected_micros - before.value_micros, 0)
    surplus = ratio * bought.expected_micros - after.spent_micros
    memory = after.rate_micros_second * time
    if memory > 0.0:
        allowed = value + surplus * seconds / (law.catch_up * time)
        step_max = 2.0 * seconds / time
        mu = exp(-descend(-log(mu), spent, allowed, memory, step_max, step_max))
    return msgspec.structs.replace(
        after,
        mu_target=min(max(mu, 1.0 / (law.multiplier_max - 1.0)), law.mu_target_max),
        value_ratio=ratio,
        value_micros=bought.expected_micros,
    )


def _level_start(day_seconds: float, law: Law) -> float:
    share = law.start_share * day_seconds / (law.start_supply * law.start_delay_seconds)
    return log(min(max(share, law.multiplier_min), 1.0))


def hold(control: Control, campaign_level: float, law: Law) -> Control:
    """Return the control as bidders are to obey it: at its own level or its campaign's, whichever is lower.

    With duals mu_budget and mu_target an impression is worth (1 + mu_target) / (mu_budget + mu_target) times its value
    (Feng, Padmanabhan, Wang 2022; Balseiro et al. 2023), and value_ratio of that where value proves to be less or more.
    `level_now` is the log of that quotient as the budget wants it, and mu_budget follows from it; as that cannot be
    negative, the target has the quotient be at most 1 + 1 / mu_target.
    """
    worth = control.value_ratio * min(exp(min(control.level_now, campaign_level)), control.highest)
    return msgspec.structs.replace(control, multiplier=min(max(worth, law.multiplier_min), law.multiplier_max))
