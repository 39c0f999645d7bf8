"""The picture of a demo: each campaign's spend against its plan, and how predictions hold, before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.lines import Line2D

from dsp.kernel.money import units_from_micros
from models.evaluation.report import or_dash

_INK = "#1f2933"
_FAINT = "#9aa5b1"
_GRID = "#e4e7eb"
_SPEND = "#0b7285"
_BEFORE = "#d9822b"
_AFTER = "#0b7285"
_BUDGET = "#c92a2a"
_DASHES = (0, (4, 2))
_COLUMNS = 4


@dataclass(slots=True)
class Curve:
    """One campaign's money over the demo: seconds since the start, and micros spent and planned by then."""

    name: str
    budget_micros: int
    seconds: list[float] = field(default_factory=list)
    spent_micros: list[int] = field(default_factory=list)
    planned_micros: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reliability:
    """A model's predictions in bins of equal size: mean prediction, observed rate, and how many impressions."""

    label: str
    predicted: Sequence[float]
    observed: Sequence[float]
    counts: Sequence[int]
    log_loss: float | None
    auc: float | None

    @classmethod
    def of(cls, label: str, scores: Mapping[str, Any]) -> "Reliability":
        """Return what `python -m models evaluate --json` says of one predictor."""
        bins = scores["reliability"]
        return cls(
            label=label,
            predicted=[one["predicted"] for one in bins],
            observed=[one["observed"] for one in bins],
            counts=[one["rows"] for one in bins],
            log_loss=scores["log_loss"],
            auc=scores["auc"],
        )


def draw(path: Path, curves: Sequence[Curve], models: Sequence[Reliability], swap_seconds: float | None) -> None:
    """Write the picture as PNG."""
    rows = max(1, -(-len(curves) // _COLUMNS))
    style: Any = {
        "font.size": 10,
        "font.family": "DejaVu Sans",
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with plt.rc_context(style):
        figure = plt.figure(figsize=(15.5, 2.9 * rows + 5.4), dpi=130, layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.9 * rows, 5.0])
        _spend(parts[0], rows, curves, swap_seconds)
        _reliabilities(parts[1], models)
        figure.savefig(path, facecolor="white")
        plt.close(figure)


def _spend(figure: SubFigure, rows: int, curves: Sequence[Curve], swap_seconds: float | None) -> None:
    figure.suptitle("Spend against plan, by campaign", x=0.01, ha="left", fontsize=14, fontweight="bold")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True)
    for number, axis in enumerate(axes.flat):
        if number >= len(curves):
            axis.set_visible(False)
            continue
        _campaign(axis, curves[number], swap_seconds)
        if number >= len(curves) - _COLUMNS:
            axis.set_xlabel("seconds since the start")
            axis.tick_params(labelbottom=True)
    figure.legend(
        handles=[
            Line2D([], [], color=_SPEND, linewidth=2.0, label="spent"),
            Line2D([], [], color=_INK, linewidth=1.3, linestyle=_DASHES, label="plan"),
            Line2D([], [], color=_BUDGET, linewidth=1.1, label="budget"),
            Line2D([], [], color=_FAINT, linewidth=1.0, linestyle=":", label="model swapped"),
        ],
        loc="upper right",
        ncols=4,
        frameon=False,
    )


def _campaign(axis: Axes, curve: Curve, swap_seconds: float | None) -> None:
    spent = [units_from_micros(amount) for amount in curve.spent_micros]
    planned = [units_from_micros(amount) for amount in curve.planned_micros]
    axis.fill_between(curve.seconds, spent, color=_SPEND, alpha=0.15, linewidth=0)
    axis.plot(curve.seconds, spent, color=_SPEND, linewidth=2.0)
    axis.plot(curve.seconds, planned, color=_INK, linewidth=1.3, linestyle=_DASHES)
    top = max([*spent, *planned, 0.01])
    budget = units_from_micros(curve.budget_micros)
    if 0 < budget <= 1.6 * top:
        axis.axhline(budget, color=_BUDGET, linewidth=1.1)
        top = max(top, budget)
    if swap_seconds is not None:
        axis.axvline(swap_seconds, color=_FAINT, linewidth=1.0, linestyle=":")
    axis.set_ylim(0, top * 1.15)
    axis.set_title(curve.name, loc="left", fontsize=10.5)
    axis.yaxis.set_major_formatter(lambda value, _: f"${value:,.2f}")
    _tidy(axis)


def _reliabilities(figure: SubFigure, models: Sequence[Reliability]) -> None:
    figure.suptitle(
        "Reliability of click predictions on the same later traffic", x=0.01, ha="left", fontsize=14, fontweight="bold"
    )
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    top = max([0.01, *(value for model in models for value in (*model.predicted, *model.observed))]) * 1.1
    for axis, model, colour in zip(axes, models, (_BEFORE, _AFTER), strict=False):
        axis.plot([0, top], [0, top], color=_FAINT, linewidth=1.2, linestyle=_DASHES)
        for predicted, observed, count in zip(model.predicted, model.observed, model.counts, strict=True):
            error = 1.96 * (max(observed * (1 - observed), 1e-6) / max(count, 1)) ** 0.5
            axis.plot([predicted, predicted], [max(0.0, observed - error), observed + error], color=colour, alpha=0.35)
        axis.plot(model.predicted, model.observed, color=colour, linewidth=1.6, marker="o", markersize=6)
        loss, auc = or_dash(model.log_loss, ".4f"), or_dash(model.auc, ".3f")
        axis.set_title(f"{model.label}\nlog loss {loss}    AUC {auc}", loc="left", fontsize=11)
        axis.set_xlabel("predicted click rate")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_xlim(0, top)
        axis.set_ylim(0, top)
        _tidy(axis)
    axes[0].set_ylabel("observed click rate")


def _tidy(axis: Axes) -> None:
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
