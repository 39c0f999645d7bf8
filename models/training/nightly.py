"""The nightly run: dataset, walk through time, gate, fit, pack, register, move the alias. One at a time, repeatable."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import msgspec

from dsp import registry
from dsp.kernel.errors import BundleError, ConflictError
from models.evaluation import compare, gates, report
from models.evaluation.metrics import Metrics, measure
from models.features.columns import AD_COLUMNS, FEATURE_HASH
from models.features.platform import PLATFORM
from models.serving import bundle
from models.serving.prior import CVR, ConstantPredictor
from models.training import dataset, gbdt, landscapes, package
from models.training.config import TrainingConfig
from models.training.dataset import Dataset
from models.training.rows import Rows

MS_PER_DAY = 86_400_000
_LIBRARIES = ("lightgbm", "numpy", "onnx", "onnxruntime", "pyarrow")
#: The click rate assumed before the first impression.
_BASE_CTR = 0.01
_CAMPAIGN = AD_COLUMNS.index("campaign_id")
Progress = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: `published`, or why the champion was kept (`little_data`, `nothing_new`, `refused`)."""

    result: str
    reasons: tuple[str, ...]
    champion: str | None
    manifest: dict[str, Any] | None = None


def run(data_dir: Path, now_ms: int, config: TrainingConfig, progress: Progress) -> Outcome:
    """Train; replace the champion if the new model is no worse, and the landscapes of prices if there is news.

    `progress` hears each step and its findings.

    Raises:
        ConflictError: another run is going on.
        BundleError: the new model does not survive export.
    """
    root = data_dir / "models"
    with _alone(root):
        outcome = _challenge(root, data_dir, now_ms, config, progress)
        progress("landscape", landscapes.publish(data_dir, now_ms, config))
        return outcome


def _challenge(root: Path, data_dir: Path, now_ms: int, config: TrainingConfig, progress: Progress) -> Outcome:
    """Train click and conversion rates, and replace the champion if they are no worse."""
    data = dataset.load(data_dir / "training", now_ms - config.window_days * MS_PER_DAY, now_ms + 1, now_ms, config)
    progress("dataset", data.summary.as_json())
    champion = _champion(root, progress)
    kept = _reason_to_wait(data, champion, config)
    if kept is not None:
        return kept
    walked, features = gbdt.walk(data.impressions, PLATFORM, _BASE_CTR, config)
    scores, refused = _judge(data.impressions, walked, champion, config)
    progress("evaluate", {"scores": {name: score.as_json() for name, score in scores.items()}})
    if refused:
        return Outcome("refused", tuple(refused), champion.version if champion else None)
    ctr = gbdt.fit(data.impressions, PLATFORM, _BASE_CTR, walked, features, config)
    progress("fit", {"trees": ctr.booster.num_trees(), "statistics": len(ctr.transform.statistics.table())})
    cvr, about_cvr = _conversions(data.clicks, config)
    fitted = package.Fitted(
        ctr=ctr,
        cvr=cvr,
        prior_ctr=gbdt.fit_statistics(PLATFORM.hierarchy, data.impressions, PLATFORM, _BASE_CTR)[0],
        prior_cvr=gbdt.fit_statistics(PLATFORM.hierarchy, data.clicks, PLATFORM, CVR)[0],
    )
    about_ctr = {
        "scores": {name: score.as_json() for name, score in scores.items()},
        "trees": ctr.booster.num_trees(),
        "strengths": ctr.strengths,
    }
    manifest = _manifest(now_ms, data, about_ctr, about_cvr, config)
    published = _publish(root, package.pack(fitted, data.impressions, report.card(manifest)), manifest, champion)
    progress("publish", {"version": published})
    return Outcome("published", (), published, manifest)


def _champion(root: Path, progress: Progress) -> bundle.Bundle | None:
    try:
        version = registry.resolve(root, bundle.CHAMPION)
        return bundle.load(root, version) if version is not None else None
    except BundleError as fault:
        # It cannot serve either: the bidder answers with the prior until there is a new one.
        progress("champion", {"fault": str(fault)})
        return None


def _reason_to_wait(data: Dataset, champion: bundle.Bundle | None, config: TrainingConfig) -> Outcome | None:
    rows, clicks = len(data.impressions), data.summary.clicks
    version = champion.version if champion is not None else None
    if rows < config.rows_min or clicks < config.clicks_min or clicks == rows:
        found = f"{rows} impressions with {clicks} clicks; {config.rows_min} with {config.clicks_min} are needed"
        return Outcome("little_data", (found,), version)
    if len(gbdt.block_edges(data.impressions.at_ms, config.blocks)) < 4:
        return Outcome("little_data", ("the impressions do not spread over time",), version)
    if champion is None:
        return None
    fresh = _since(data.impressions, compare.trained_to_ms(champion))
    if fresh.labels.sum() < config.new_clicks_min:
        found = f"{fresh.labels.sum()} clicks since the champion was trained; {config.new_clicks_min} are needed"
        return Outcome("nothing_new", (found,), version)
    return None


def _judge(
    rows: Rows, walked: gbdt.Walk, champion: bundle.Bundle | None, config: TrainingConfig
) -> tuple[dict[str, Metrics], list[str]]:
    """Measure the candidate beside the prior on all walked rows, and beside what serves on those new to both."""
    later = rows[slice(walked.start, None)]
    limits = _limits(config)
    scores = {
        "candidate": measure(walked.predicted, later.labels, later.weights),
        "prior": measure(walked.prior, later.labels, later.weights),
    }
    new = later.at_ms >= (compare.trained_to_ms(champion) if champion is not None else 0)
    serving = champion.predictor if champion is not None else ConstantPredictor()
    name = "champion" if champion is not None else "constant"
    both = later[new]
    pair = gates.Pair(walked.predicted[new], compare.pctr(serving, both), both.labels, both.weights)
    scores[name] = measure(pair.baseline, pair.labels, pair.weights)
    scores[f"candidate beside {name}"] = measure(pair.candidate, pair.labels, pair.weights)
    parts = gates.slices("campaign", both.ads[:, _CAMPAIGN], pair, limits)
    objections = gates.uncalibrated(scores["candidate"], limits)
    objections += gates.worse_than_prior(scores["candidate"], scores["prior"], limits)
    verdict = gates.judge(f"the {name}", gates.difference(pair, limits), parts, objections, limits)
    return scores, list(verdict.reasons)


def _limits(config: TrainingConfig) -> gates.Limits:
    return gates.Limits(
        confidence=config.gate_confidence,
        resamples=config.gate_resamples,
        rows_min=config.gate_rows_min,
        clicks_min=config.new_clicks_min,
        log_loss_tolerance=config.log_loss_tolerance,
        pcoc_min=config.pcoc_min,
        pcoc_max=config.pcoc_max,
        slice_clicks_min=config.gate_slice_clicks_min,
        seed=config.seed,
    )


def _conversions(clicks: Rows, config: TrainingConfig) -> tuple[gbdt.Model | None, dict[str, Any]]:
    """Fit a conversion model where data suffice and it beats the smoothed rates on later clicks."""
    positives = int(clicks.labels.sum())
    about = f"{positives:,} conversions of {len(clicks):,} clicks"
    apart = len(gbdt.block_edges(clicks.at_ms, config.blocks)) >= 4
    if positives < config.conversions_min or positives == len(clicks) or not apart:
        note = f"Rates smoothed along the hierarchy of ads: {about} are too few for a model ({config.conversions_min})."
        return None, {"kind": "smoothed_rates", "scores": {}, "note": note}
    walked, features = gbdt.walk(clicks, PLATFORM, CVR, config)
    labels = clicks.labels[walked.start :]
    scores = {"candidate": measure(walked.predicted, labels), "prior": measure(walked.prior, labels)}
    limits = _limits(config)
    refused = gates.uncalibrated(scores["candidate"], limits)
    refused += gates.worse_than_prior(scores["candidate"], scores["prior"], limits)
    described = {name: score.as_json() for name, score in scores.items()}
    if refused:
        note = (
            f"Rates smoothed along the hierarchy of ads: of {about} a model learned too little ({'; '.join(refused)})."
        )
        return None, {"kind": "smoothed_rates", "scores": described, "note": note}
    model = gbdt.fit(clicks, PLATFORM, CVR, walked, features, config)
    return model, {"kind": "model", "scores": described, "note": f"A model of the same kind, from {about}."}


def _manifest(
    now_ms: int, data: Dataset, ctr: dict[str, Any], cvr: dict[str, Any], config: TrainingConfig
) -> dict[str, Any]:
    return {
        "built_at_ms": now_ms,
        "feature_hash": FEATURE_HASH,
        "data": data.summary.as_json(),
        "ctr": ctr,
        "cvr": cvr,
        "config": msgspec.to_builtins(config),
        "libraries": {name: library_version(name) for name in _LIBRARIES},
    }


def _publish(root: Path, files: dict[str, bytes], manifest: dict[str, Any], champion: bundle.Bundle | None) -> str:
    version = registry.publish(root, files, manifest)
    bundle.load(root, version)
    if champion is not None and champion.version != version:
        registry.set_alias(root, bundle.PREVIOUS, champion.version)
    registry.set_alias(root, bundle.CHAMPION, version)
    return version


def _since(rows: Rows, from_ms: int) -> Rows:
    return rows[rows.at_ms >= from_ms]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the registry's training lock; it goes with the process, however that ends."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / ".nightly.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as fault:
            raise ConflictError("another nightly run is going on") from fault
        yield
    finally:
        os.close(descriptor)
