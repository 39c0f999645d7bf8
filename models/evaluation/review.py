"""Gathers all that a report on a model version shows, as plain data. Drawing it is models.evaluation.html."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsp.kernel.clock import MS_PER_DAY
from models.evaluation import drift, gates, slices
from models.evaluation.drift import Drift
from models.evaluation.importance import Importance, Spread
from models.evaluation.metrics import Bin, Metrics, measure
from models.evaluation.names import Names, words
from models.evaluation.slices import Slice
from models.features.spec import FeatureSpec, Group
from models.training.rows import Rows

#: Parts of the traffic drawn one by one, each with so many clicks at least; all others are one part.
PARTS_MAX = 11
CLICKS_MIN = 20
CONFIDENCE = 0.95


class Score(NamedTuple):
    """One predictor on the judged rows. `gauc` is the mean AUC within campaigns, or what `Judged.grouped` says."""

    name: str
    metrics: Metrics
    gauc: float | None
    low: float | None  # bounds of metrics.pcoc
    high: float | None


class Part(NamedTuple):
    """A part of the traffic by one column: the judged model's metrics there, and its baseline's calibration."""

    label: str
    found: Slice
    baseline_pcoc: float | None


class Parting(NamedTuple):
    """The traffic by one column."""

    name: str
    parts: tuple[Part, ...]


class Shift(NamedTuple):
    """What was trained on (or seen before) beside what came later: rows and times of both, drift of each input."""

    before: tuple[int, int, int]  # rows, first and last time in Unix milliseconds
    after: tuple[int, int, int]
    inputs: tuple[Drift, ...]
    predictions: Drift | None


class Review(NamedTuple):
    """A report's content. `subject` names the judged model, `baseline` what it is compared with."""

    version: str
    made_at_ms: int
    result: str
    reasons: tuple[str, ...]
    manifest: Mapping[str, Any]
    judged: str  # which rows these are, a sentence
    scores: tuple[Score, ...]
    grouped: str  # what GAUC goes by
    subject: str
    baseline: str
    difference: gates.Difference
    confidence: float  # of the difference's bounds, one-sided
    curve: tuple[Bin, ...]  # the subject's reliability on all judged rows
    partings: tuple[Parting, ...]
    shift: Shift
    importance: tuple[Importance, ...]
    spread: tuple[Spread, ...]


class Judged(NamedTuple):
    """Rows that none of the models was trained on, and what each predicts for them: the subject first, its baseline
    second. (n,) each."""

    rows: Rows
    predicted: Mapping[str, NDArray[np.float64]]
    sentence: str


class Earlier(NamedTuple):
    """Rows to see drift against, those that were trained on, and what the subject predicts for them: (n,), or none."""

    rows: Rows
    predicted: NDArray[np.float64]


class Inputs(NamedTuple):
    """What the judged model makes of its inputs; either may be empty."""

    importance: Sequence[Importance]
    spread: Sequence[Spread]


def gather(
    version: str,
    manifest: Mapping[str, Any],
    verdict: tuple[str, Sequence[str]],
    judged: Judged,
    earlier: Earlier,
    spec: FeatureSpec,
    names: Names,
    limits: gates.Limits,
    inputs: Inputs,
    made_at_ms: int,
) -> Review:
    """Return the review of a version.

    Args:
        version: its name; empty where it was not published.
        manifest: as the nightly writes it; `data`, `libraries` and `config` are shown, where there.
        verdict: the gate's result and its reasons.
        judged: rows and predictions to score, one row at least.
        earlier: what it was trained on; may be empty.
        spec: what the rows' columns are; the traffic is parted by `calibrate_by`.
        names: what is known of hashes and ids.
        limits: the gate's, for the interval of the difference.
        inputs: what models.evaluation.importance found.
        made_at_ms: now.
    """
    rows = judged.rows
    subject, baseline = list(judged.predicted)[:2]
    predicted = judged.predicted[subject]
    pair = gates.Pair(predicted, judged.predicted[baseline], rows.labels, rows.weights)
    finest = spec.calibrate_by[-1]
    keys = _keys(finest, rows, spec)
    return Review(
        version=version,
        made_at_ms=made_at_ms,
        result=verdict[0],
        reasons=tuple(verdict[1]),
        manifest=manifest,
        judged=judged.sentence,
        scores=tuple(_score(name, values, keys, rows) for name, values in judged.predicted.items()),
        grouped=words(finest.name),
        subject=subject,
        baseline=baseline,
        difference=gates.difference(pair, limits),
        confidence=limits.confidence,
        curve=slices.curve(*_scored(predicted, rows)),
        partings=tuple(_parting(group, judged, spec, names) for group in spec.calibrate_by),
        shift=_shift(earlier, judged, spec),
        importance=tuple(inputs.importance),
        spread=tuple(inputs.spread),
    )


def _score(name: str, predicted: NDArray[np.float64], keys: NDArray[np.int64], rows: Rows) -> Score:
    scored = _scored(predicted, rows)
    return Score(name, measure(*scored), slices.gauc(keys, *scored), *slices.pcoc_bounds(*scored, CONFIDENCE))


def _parting(group: Group, judged: Judged, spec: FeatureSpec, names: Names) -> Parting:
    rows = judged.rows
    keys = _keys(group, rows, spec)
    column = (*group.request, *group.ad)[0]
    found, beside = (
        slices.by_value(keys, *_scored(predicted, rows), CLICKS_MIN, PARTS_MAX, CONFIDENCE)
        for predicted in list(judged.predicted.values())[:2]
    )
    parts = []
    for part, other in zip(found, beside, strict=True):
        label = f"{part.parts} others" if part.value is None else names.value(column, part.value)
        parts.append(Part(label, part, other.metrics.pcoc))
    return Parting(words(group.name), tuple(parts))


def _shift(earlier: Earlier, judged: Judged, spec: FeatureSpec) -> Shift:
    """Compare what was trained on with the latest day of the judged rows."""
    latest = judged.rows.at_ms > judged.rows.at_ms[-1] - MS_PER_DAY
    after, predicted = judged.rows[latest], next(iter(judged.predicted.values()))[latest]
    moved = None
    if len(earlier.predicted):
        moved = drift.values_with_order("predicted click rate", earlier.predicted, predicted)
    return Shift(_span(earlier.rows), _span(after), tuple(drift.columns(earlier.rows, after, spec)), moved)


def _keys(group: Group, rows: Rows, spec: FeatureSpec) -> NDArray[np.int64]:
    """Return the values of a group's one column, (n,)."""
    if group.request:
        return rows.requests[:, spec.request_columns.index(group.request[0])]
    return rows.ads[:, spec.ad_columns.index(group.ad[0])]


def _scored(
    predicted: NDArray[np.float64], rows: Rows
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    return predicted, rows.labels, rows.weights


def _span(rows: Rows) -> tuple[int, int, int]:
    return (len(rows), int(rows.at_ms[0]), int(rows.at_ms[-1])) if len(rows) else (0, 0, 0)
