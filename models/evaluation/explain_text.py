"""An explanation of a bid as text: tables whose lines are inputs, the largest contributions first."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dsp.kernel.money import MICROS_PER_UNIT
from models.evaluation.contributions import Explanation, Term
from models.evaluation.explain import Found
from models.evaluation.parts import Kind
from models.evaluation.report import table, time

#: Inputs told one by one, how much they add at least, and characters of what they held.
_TERMS_MAX = 20
_TERM_MIN = 0.005
_HELD_MAX = 48
#: What is left over is told from so many log-odds on.
_ROUNDING = 1e-4


def explanation(found: Found) -> str:
    """Return why a bid was made as it was, for a terminal."""
    bid, rates = found.bid, found.rates
    parts = [
        f"Bid {bid['bid_id']} of {time(bid['at_ms'])} on {bid['exchange']}, campaign {bid['campaign_id']}, line item "
        f"{bid['line_item_id']}, creative {bid['creative_id']}; rates by {found.answered}",
        f"Click rate {rates.pctr.probability:.6f} ({rates.pctr.method})",
        _sum(rates.pctr),
    ]
    if abs(found.unexplained) > _ROUNDING:
        parts.append(
            f"The bid was logged with a click rate of {bid['pctr']:.6f}: {found.unexplained:+.6f} in log-odds are not "
            "explained by the model as it is published."
        )
    parts += [f"Conversions of clicks {rates.pcvr.probability:.6f} ({rates.pcvr.method})", _sum(rates.pcvr)]
    return "\n\n".join([*parts, _price(bid)])


def _sum(found: Explanation) -> str:
    """Return a sum of log-odds, line by line: what adds little is one line."""
    shown = [term for term in found.terms if abs(term.log_odds) >= _TERM_MIN][:_TERMS_MAX]
    little = found.terms[len(shown) :]
    kinds = dict.fromkeys(kind for term in found.terms for kind in term.parts)
    if len(little) == 1:
        shown.append(little[0])
    elif little:
        parts = {kind: sum(term.parts.get(kind, 0.0) for term in little) for kind in kinds}
        error = math.sqrt(sum(term.error**2 for term in little))
        shown.append(Term(f"{len(little)} others", "", sum(term.log_odds for term in little), parts, error))
    columns: dict[str, Callable[[Term], float]] = {}
    if len(kinds) > 1:
        columns = {f"of {kind}": partial(_of_kind, kind) for kind in kinds}
    if any(term.error for term in shown):
        columns = {"error +-": lambda term: term.error}
    rows = [_line("start", found.base)]
    rows += [
        [*_line(term.name, term.log_odds, term.held), *(f"{part(term):+.4f}" for part in columns.values())]
        for term in shown
    ]
    rows += [_line("calibration", found.calibration)] if found.calibration else []
    rows += [
        ["log-odds", f"rate {found.probability:.6f}", f"{found.log_odds:+.4f}", f"= {math.exp(found.log_odds):.5f}"]
    ]
    header = ["input", "held", "log-odds", "odds", *columns]
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def _of_kind(kind: Kind, term: Term) -> float:
    return term.parts.get(kind, 0.0)


def _line(name: str, log_odds: float, held: str = "") -> list[str]:
    short = held if len(held) <= _HELD_MAX else held[: _HELD_MAX - 1] + "…"
    return [name, short, f"{log_odds:+.4f}", f"x {math.exp(log_odds):.3f}"]


def _price(bid: Mapping[str, Any]) -> str:
    worth = bid["value_micros_cpm"] * bid["pacing_multiplier"]
    price, floor = bid["price_micros_cpm"], bid["floor_micros_cpm"]
    text = (
        f"Value {_money(bid['value_micros_cpm'])} x pacing {bid['pacing_multiplier']:.3f} = worth {_money(worth)} a "
        f"thousand impressions; bid {_money(price)}"
    )
    text += f", {price / worth:.0%} of the worth" if bid["first_price"] and worth > 0 else ""
    text += " in a first-price auction" if bid["first_price"] else " in a second-price auction"
    text += f"; floor {_money(floor)}"
    text += f"; moved by a factor of {bid['jitter']:.3f} to explore" if bid["jitter"] != 1.0 else ""
    return text + (f"; deal {bid['deal_id']}" if bid["deal_id"] else "")


def _money(micros_cpm: float) -> str:
    return f"{micros_cpm / MICROS_PER_UNIT:.4f}"
