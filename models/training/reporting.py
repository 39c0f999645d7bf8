"""The night's report: the candidate beside what serves, on the rows that were compared, as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsp.kernel.errors import BundleError
from models.evaluation import compare, html, importance, known
from models.evaluation.report import time
from models.evaluation.review import Earlier, Inputs, Judged, gather
from models.features.platform import PLATFORM
from models.serving import bundle
from models.training import contest
from models.training.config import TrainingConfig
from models.training.dataset import Dataset
from models.training.ensemble import Walk

_JUDGED = "Impressions new to both, each predicted by what was learned from strictly earlier ones."


def page(
    data_dir: Path,
    data: Dataset,
    walked: Walk,
    files: Mapping[str, bytes],
    manifest: Mapping[str, Any],
    serving: str | None,
    verdict: tuple[str, Sequence[str]],
    config: TrainingConfig,
) -> str:
    """Return the page on a candidate.

    Args:
        data_dir: of the platform; its catalogue names what the rows hold.
        data: all impressions of the window, and the rates that they were bid with.
        walked: what was predicted for the later ones, each block knowing only earlier ones.
        files: the candidate's bundle, which was fitted to all rows; only what it makes of inputs is looked at.
        manifest: what is to be published with it.
        serving: the version that it was compared with; None: what the impressions were bid with.
        verdict: the gate's result and reasons.
        config: the gate's bounds are settings.
    """
    try:
        champion = bundle.load(data_dir / "models", serving) if serving is not None else None
    except BundleError:  # it became unreadable meanwhile: then it does not serve either
        champion = None
    rows = data.impressions
    since_ms = max(compare.trained_to_ms(champion) if champion is not None else 0, int(rows.at_ms[walked.start]))
    later = rows[slice(walked.start, None)]
    new = later.at_ms >= since_ms
    judged, before = later[new], rows[rows.at_ms < since_ms]
    if champion is not None:
        told = _JUDGED
        beside = {"champion": compare.pctr(champion.predictor, judged)}
    else:
        told = f"{_JUDGED} The live rate is what was bid with."
        beside = {"live rate": contest.bid_with(data.shadowed.champion[walked.start :][new], judged)}
    predicted = {"candidate": walked.chosen[new], **beside, "prior": walked.prior[new]}
    candidate = bundle.assemble("candidate", dict(files)).predictor
    review = gather(
        f"candidate of {time(manifest['built_at_ms'])}",
        manifest,
        verdict,
        Judged(judged, predicted, told),
        Earlier(before, compare.pctr(candidate, before)),
        PLATFORM,
        known.catalogued(data_dir),
        config.limits(),
        Inputs((), importance.spread_of(files, judged)),
        manifest["built_at_ms"],
    )
    return html.render(review)
