"""What pacing does when another predictor makes other values of the same impressions: levels are scaled against it.

A level was learned on the values that it multiplies. Bidders compare both predictors on what they scored last and tell
the pacing worker, before they serve another. The worker scales its own state, once however many tell it, and says with
its columns whom they are meant for (`Paced.predicted_by`). Without a word from anybody all goes on as it is.
"""

from collections.abc import Mapping
from math import isfinite, log

import msgspec

from dsp.pacing.controller import Control, Controls, Law

#: The blob under which bidders say what they are about to serve. The last to write is read: they all say the same.
REVALUED_BLOB = "revalued"
#: The most that a level is moved, in logs: a factor of twenty. What is left of more is for the controller.
_SHIFT_MAX = 3.0
#: Predictors gone through that are remembered: what is told late of one of them is no news.
_PASSED_MAX = 8


class Revalued(msgspec.Struct, frozen=True, kw_only=True, tag="revalued.1"):
    """Predictors by version, and by line item the log of the values that `after` sees over those that `before` saw."""

    before: str
    after: str
    log_ratios: dict[int, float]  # of those that there is evidence of


def encode(revalued: Revalued) -> bytes:
    """Return the blob's bytes (MessagePack)."""
    return msgspec.msgpack.encode(revalued)


def decode(data: bytes) -> Revalued:
    """Return what was told; raises msgspec.DecodeError for bytes that tell nothing."""
    found = msgspec.msgpack.decode(data, type=Revalued)
    if not all(map(isfinite, found.log_ratios.values())):
        raise msgspec.DecodeError("ratios of values are not finite")
    return found


def rescale(controls: Controls, told: Revalued, campaigns: Mapping[int, int], law: Law) -> Controls:
    """Return the controls meant for the values of `told.after`; `campaigns` are those of the line items, by id.

    They are scaled if they were meant for `told.before`, as they are taken to be before anything was told. Otherwise
    nobody knows by how much: they are said to be meant for `told.after` as they are, unless they are or were already.
    """
    passed = controls.predicted_by
    known = not passed or passed[-1] == told.before
    if not known and told.after in passed:
        return controls
    stamped = msgspec.structs.replace(controls, predicted_by=(*passed, told.after)[-_PASSED_MAX:])
    if not known:
        return stamped
    shifts = {number: min(max(ratio, -_SHIFT_MAX), _SHIFT_MAX) for number, ratio in told.log_ratios.items()}
    # A campaign's level multiplies the values of all its line items: it follows those that the money goes to.
    spent: dict[int, float] = {}
    revalued: dict[int, float] = {}
    for number, control in controls.line_items.items():
        campaign, rate = campaigns.get(number, 0), control.rate_micros_second
        spent[campaign] = spent.get(campaign, 0.0) + rate
        revalued[campaign] = revalued.get(campaign, 0.0) + rate * shifts.get(number, 0.0)
    means = {campaign: revalued[campaign] / rate for campaign, rate in spent.items() if rate > 0.0}
    return msgspec.structs.replace(
        stamped,
        line_items={
            number: _shifted(control, shifts.get(number, 0.0), control.highest, law)
            for number, control in controls.line_items.items()
        },
        campaigns={
            number: _shifted(control, means.get(number, 0.0), law.multiplier_max, law)
            for number, control in controls.campaigns.items()
        },
    )


def _shifted(control: Control, shift: float, highest: float, law: Law) -> Control:
    """Return the control at the level that bids as much on the new values, if it is the budget that holds the bid.

    A target is on what a unit may cost: where it holds, a unit that is likelier now is to be bid more for. Who is cold
    found nothing to buy at the old values, and is open as far as can be; the budget has not had to hold it yet.
    """
    if not shift or (control.level_now >= log(highest) and not control.cold):
        return control
    recovery = log(control.recovery)
    level = min(max(control.level - shift, log(law.multiplier_min) + recovery), log(law.multiplier_max) + recovery)
    return msgspec.structs.replace(control, level=level, level_answered=control.level_answered + level - control.level)
