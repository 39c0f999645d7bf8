"""The nightly run: dataset, train, calibrate, evaluate, gate, report, register, landscape, notify. One at a time.

Each step leaves what it made in the run's folder (models.training.runs); a run that was killed goes on after the last
step that was done. A step that is run again does no harm.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dsp import registry
from dsp.kernel.clock import MS_PER_DAY
from dsp.kernel.errors import ConflictError
from dsp.kernel.locks import lock
from models.evaluation import compare, gates, report
from models.evaluation.metrics import measure
from models.features.columns import FEATURE_HASH
from models.features.platform import PLATFORM
from models.serving import bundle, npz
from models.serving.prior import CVR
from models.training import aliases, contest, dataset, ensemble, gbdt, landscapes, notice, package, reporting, runs
from models.training.config import TrainingConfig
from models.training.dataset import Dataset
from models.training.rows import Rows
from models.training.task import Seen

#: The night's report, in the run's folder and in the bundle.
_PAGE = "report.html"
_LIBRARIES = ("duckdb", "ibis-framework", "lightgbm", "numpy", "onnx", "onnxruntime", "pyarrow")
#: The click rate assumed before the first impression.
_BASE_CTR = 0.01
Progress = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: `published`, `shadowed` (it predicts beside the champion), `proven` (the challenger of
    earlier nights serves now), or why nothing changed (`little_data`, `nothing_new`, `refused`).
    """

    result: str
    reasons: tuple[str, ...]
    champion: str | None
    manifest: dict[str, Any] | None = None


@dataclass
class Night:
    """What steps work on. `found` holds the findings of those that are done."""

    data_dir: Path
    run: runs.Run
    config: TrainingConfig
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """Return the registry's folder."""
        return self.data_dir / "models"

    @cached_property
    def data(self) -> Dataset:
        """Return what the step `dataset` has collected."""
        account = msgspec.json.decode((self.run.folder / "account.json").read_bytes(), type=dataset.Account)
        with (self.run.folder / "dataset.parquet").open("rb") as file:
            return dataset.labelled(pq.ParquetFile(file).read(), account, self.config)

    @property
    def seen(self) -> Seen:
        """Return the impressions, and which of them were converted: what the clicks are a selection of."""
        impressions = self.data.impressions
        converted = np.zeros(len(impressions), dtype=np.bool_)
        converted[impressions.labels] = self.data.clicks.labels
        return Seen(impressions, converted)

    def walked(self, name: str) -> ensemble.Walk:
        """Return what the step `train` predicted out of time for a rate, and what it chose."""
        choice = msgspec.convert(self.found["train"][name], ensemble.Choice)
        return ensemble.restore(npz.read((self.run.folder / f"walk_{name}.npz").read_bytes()), choice)


def _dataset(night: Night) -> dict[str, Any]:
    """Join bids with their notices, and see whether there is enough to learn from."""
    config, now_ms = night.config, night.run.started_ms
    scratch = night.run.folder / "scratch"
    from_ms = now_ms - config.window_days * MS_PER_DAY
    table, account = dataset.collect(night.data_dir / "training", from_ms, now_ms + 1, now_ms, config, scratch)
    night.run.write("account.json", msgspec.json.encode(account))
    night.run.write("dataset.parquet", dataset.as_parquet(table))
    waits = _reason_to_wait(night.data, contest.champion(night.root), config)
    return {**night.data.summary.as_json(), **(waits or {})}


def _reason_to_wait(data: Dataset, champion: bundle.Bundle | None, config: TrainingConfig) -> dict[str, Any] | None:
    rows, clicks, summary = len(data.impressions), data.summary.clicks, data.summary
    if rows < config.rows_min or clicks < config.clicks_min:
        found = f"{rows} impressions with {clicks} clicks; {config.rows_min} with {config.clicks_min} are needed"
        left_out = ((summary.immature, "are too young yet"), (summary.foreign, "have features of another definition"))
        others = [f"{count} more {why}" for count, why in left_out if count]
        return {"result": "little_data", "reasons": [found, *others]}
    if clicks == rows:
        return {"result": "little_data", "reasons": [f"all {rows} impressions were clicked"]}
    if not _spread(data.impressions, config):
        return {"result": "little_data", "reasons": ["the impressions do not spread over time"]}
    if champion is None:
        return None
    fresh = data.impressions.labels[data.impressions.at_ms >= compare.trained_to_ms(champion)].sum()
    if fresh < config.new_clicks_min:
        found = f"{fresh} clicks since the champion was trained; {config.new_clicks_min} are needed"
        return {"result": "nothing_new", "reasons": [found]}
    return None


def _train(night: Night) -> dict[str, Any]:
    """Let all kinds of models predict each block of time by what was before it, and choose the one to serve."""
    clicks, positives = night.data.clicks, int(night.data.clicks.labels.sum())
    enough = night.config.conversions_min <= positives < len(clicks) and _spread(clicks, night.config)
    serving = contest.champion(night.root)
    since_ms = compare.trained_to_ms(serving) if serving is not None else None
    walked = {"ctr": ensemble.walk(night.data.impressions, PLATFORM, _BASE_CTR, night.config, since_ms=since_ms)}
    if enough:
        walked["cvr"] = ensemble.walk(clicks, PLATFORM, CVR, night.config, night.seen)
    for name, made in walked.items():
        night.run.write(f"walk_{name}.npz", npz.write(ensemble.arrays(made)))
    return {name: msgspec.to_builtins(made.choice) for name, made in walked.items()}


def _calibrate(night: Night) -> dict[str, Any]:
    """Fit what was chosen to all rows, weigh and scale it as its predictions out of time ask for, and pack it."""
    data = night.data
    cvr, about_cvr = _conversions(night)
    ctr = _fitted(night, "ctr", data.impressions, _BASE_CTR, None)
    fitted = package.Fitted(
        ctr=ctr,
        cvr=cvr,
        prior_ctr=gbdt.fit_statistics(PLATFORM.hierarchy, data.impressions, PLATFORM, _BASE_CTR)[0],
        prior_cvr=gbdt.fit_statistics(PLATFORM.hierarchy, data.clicks, PLATFORM, CVR)[0],
    )
    files = package.pack(fitted, data.impressions)
    for name, content in files.items():
        night.run.write(f"bundle/{name}", content)
    return {"files": sorted(files), "ctr": _described(ctr), "cvr": about_cvr}


def _fitted(night: Night, name: str, rows: Rows, base_rate: float, seen: Seen | None) -> package.Rate:
    """Fit to all rows what the step `train` has chosen for a rate."""
    walked = night.walked(name)
    winner = walked.choice.winner
    made = ensemble.fit(rows, PLATFORM, base_rate, walked, [winner], night.config, seen)
    return package.Rate(made.models, made.blends[winner])


def _described(made: package.Rate) -> dict[str, Any]:
    """Return for the manifest what a rate is made of."""
    calibration = made.blend.calibration
    about: dict[str, Any] = {
        "weights": made.blend.weights,
        "slope": calibration.slope,
        "intercept": calibration.intercept,
    }
    trees = made.models.get("gbdt")
    if isinstance(trees, gbdt.Model):
        about |= {"trees": trees.booster.num_trees(), "strengths": trees.strengths}
    return about


def _conversions(night: Night) -> tuple[package.Rate | None, dict[str, Any]]:
    """Fit a conversion model where data suffice, unless the smoothed rates beat it on later clicks with confidence.

    Some hundred clicks rank the two by chance, and of both the model is believed to be the better one.
    """
    clicks, config = night.data.clicks, night.config
    about = f"{int(clicks.labels.sum()):,} conversions of {len(clicks):,} clicks"
    kept = {"kind": "smoothed_rates", "scores": {}}
    if "cvr" not in night.found["train"]:
        few = f"{about} are too few for a model ({config.conversions_min})"
        return None, {**kept, "note": f"Rates smoothed along the hierarchy of ads: {few}."}
    walked = night.walked("cvr")
    later, bounds = clicks[slice(walked.start, None)], config.limits()
    candidate, prior = (measure(each, later.labels, later.weights) for each in (walked.chosen, walked.prior))
    scores = {"candidate": candidate.as_json(), "prior": prior.as_json()}
    beside = gates.difference(gates.Pair(walked.chosen, walked.prior, later.labels, later.weights), bounds)
    refused = gates.uncalibrated(candidate, bounds) + gates.beaten("the smoothed rates", beside, bounds)
    if refused:
        little = f"of {about} a model learned too little ({'; '.join(refused)})"
        return None, {**kept, "scores": scores, "note": f"Rates smoothed along the hierarchy of ads: {little}."}
    model = _fitted(night, "cvr", clicks, CVR, night.seen)
    told = {"kind": "model", "scores": scores, "note": f"Learned likewise, from {about}."}
    return model, {**told, "choice": night.found["train"]["cvr"], **_described(model)}


def _evaluate(night: Night) -> dict[str, Any]:
    """Measure the candidate, the prior, the champion, and what the challenger predicted in shadow."""
    found: dict[str, Any] = msgspec.to_builtins(contest.hold(night.root, night.data, night.walked("ctr"), night.config))
    return found


def _gate(night: Night) -> dict[str, Any]:
    """Decide, from the findings alone."""
    found = msgspec.convert(night.found["evaluate"], contest.Findings)
    return contest.decide(found, night.run.started_ms, night.config)._asdict()


def _report(night: Night) -> dict[str, Any]:
    """Draw what the gate saw, whatever it decided: a bundle carries the page, the run's folder keeps it."""
    decided, serving = night.found["gate"], night.found["evaluate"]["champion"]
    verdict = (decided["candidate"], decided["reasons"])
    data, walked = night.data, night.walked("ctr")
    page = reporting.page(
        night.data_dir, data, walked, _candidate(night), _manifest(night), serving, verdict, night.config
    )
    night.run.write(_PAGE, page.encode())
    return {"path": str(night.run.folder / _PAGE)}


def _candidate(night: Night) -> dict[str, bytes]:
    """Return the bundle's files as the step `calibrate` made them."""
    return {name: (night.run.folder / "bundle" / name).read_bytes() for name in night.found["calibrate"]["files"]}


def _register(night: Night) -> dict[str, Any]:
    """Publish what the gate let pass, and move the aliases."""
    decided, found = night.found["gate"], night.found["evaluate"]
    if decided["challenger"] == "promote":
        aliases.promote(night.root, found["live"]["version"])
        return {"result": "proven", "version": found["live"]["version"], "reasons": decided["reasons"]}
    if decided["challenger"] == "drop":
        aliases.shadow(night.root, None)
    if decided["candidate"] == "refuse":
        return {"result": "refused", "reasons": decided["reasons"]}
    manifest = _manifest(night)
    told = {"model_card.md": report.card(manifest).encode(), _PAGE: (night.run.folder / _PAGE).read_bytes()}
    version = registry.publish(night.root, {**_candidate(night), **told}, manifest)
    if decided["candidate"] == "shadow":
        aliases.shadow(night.root, version)
        return {"result": "shadowed", "version": version, "reasons": decided["reasons"]}
    serving = contest.champion(night.root)
    if serving is not None and serving.version not in (found["champion"], version):
        reason = f"the champion became {serving.version} while this run was going on: it was not compared with that one"
        return {"result": "refused", "reasons": [reason]}
    aliases.promote(night.root, version)
    return {"result": "published", "version": version, "reasons": []}


def _manifest(night: Night) -> dict[str, Any]:
    made = night.found["calibrate"]
    evaluated = night.found["evaluate"]
    return {
        "built_at_ms": night.run.started_ms,
        "feature_hash": FEATURE_HASH,
        "spec_hash": PLATFORM.content_hash,
        "data": night.data.summary.as_json(),
        "ctr": {**made["ctr"], "choice": night.found["train"]["ctr"], "scores": evaluated["scores"]},
        "cvr": made["cvr"],
        "gate": {name: evaluated[name] for name in ("champion", "difference", "slices")},
        "config": msgspec.to_builtins(night.config),
        "libraries": {name: library_version(name) for name in _LIBRARIES},
    }


def _landscape(night: Night) -> dict[str, Any]:
    """Learn the landscapes of prices and publish them, if there is news."""
    return landscapes.publish(night.data_dir, night.run.started_ms, night.config)


def _notify(night: Night) -> dict[str, Any]:
    """Tell whoever wants to know what became of the run, and tidy up."""
    outcome = _outcome(night)
    registry.prune(night.root, night.config.versions_kept)
    told = {name: getattr(outcome, name) for name in ("result", "reasons", "champion")}
    data = {name: night.found["dataset"][name] for name in ("impressions", "clicks", "skipped", "holes")}
    return notice.post(night.config.notify_url, {**told, "data": data})


Step = Callable[[Night], dict[str, Any]]
#: In this order. Those of the model are left out where there is nothing to learn from.
MODEL_STEPS: dict[str, Step] = {
    "dataset": _dataset, "train": _train, "calibrate": _calibrate, "evaluate": _evaluate, "gate": _gate,
    "report": _report, "register": _register,
}  # fmt: skip
STEPS: dict[str, Step] = {**MODEL_STEPS, "landscape": _landscape, "notify": _notify}


def run(data_dir: Path, now_ms: int, config: TrainingConfig, progress: Progress) -> Outcome:
    """Go on with a run that was killed, or begin one; `progress` hears each step and its findings.

    Raises:
        ConflictError: another run is going on.
        BundleError: the new model does not survive export.
    """
    root = data_dir / "models"
    with _alone(root):
        identity = sha256(msgspec.json.encode([config, FEATURE_HASH, PLATFORM.content_hash])).hexdigest()[:16]
        begun = runs.begin(root / "runs", now_ms, identity, config.run_hours_max)
        night = Night(data_dir, begun, config)
        try:
            for name, step in STEPS.items():
                if name in MODEL_STEPS and "result" in night.found.get("dataset", ()):
                    continue
                _do(night, name, step, progress)
        except Exception as fault:
            with suppress(OSError):  # a full disk has no room for this either: what it had none for first is told
                begun.end({"fault": f"{type(fault).__name__}: {fault}"})  # it would fail again
            raise
        outcome = _outcome(night)
        begun.end({"result": outcome.result})
        runs.prune(root / "runs", config.runs_kept)
        return outcome


def _do(night: Night, name: str, step: Step, progress: Progress) -> None:
    found = night.run.found(name)
    resumed = found is not None
    if found is None:
        night.run.done(name, step(night))
        found = night.run.found(name) or {}  # as a run that goes on would have it
    night.found[name] = found
    progress(name, {**found, "resumed": True} if resumed else found)


def _outcome(night: Night) -> Outcome:
    last = night.found.get("register", night.found["dataset"])
    serving = aliases.named(night.root, bundle.CHAMPION)
    made = _manifest(night) if last["result"] in ("published", "shadowed") else None
    return Outcome(last["result"], tuple(last["reasons"]), serving, made)


def _spread(rows: Rows, config: TrainingConfig) -> bool:
    """Tell whether the rows make blocks enough to walk through."""
    return len(gbdt.block_edges(rows.at_ms, config.blocks)) > gbdt.BLOCKS_MIN  # with both ends one more than blocks


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the registry's training lock; it goes with the process, however that ends."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = lock(root / ".nightly.lock")
    if descriptor is None:
        raise ConflictError("another nightly run is going on")
    try:
        yield
    finally:
        os.close(descriptor)
