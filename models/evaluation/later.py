"""Reviews a published version on the traffic that came after its training: what none of its rows can flatter."""

import numpy as np
from numpy.typing import NDArray

from dsp import registry
from dsp.kernel.config import Platform
from dsp.kernel.errors import InputError, NotFoundError
from models.evaluation import compare, importance, known
from models.evaluation.review import Earlier, Inputs, Judged, Review, gather
from models.features.platform import PLATFORM
from models.serving import bundle
from models.training import aliases, dataset
from models.training.config import TrainingConfig


def review(platform: Platform, wanted: str | None, now_ms: int, config: TrainingConfig) -> tuple[str, Review]:
    """Return a version's name, the champion's without one, and its review.

    It is compared with the previous champion where there is one other than it that was trained on none of that traffic,
    else with its own prior.

    Raises:
        NotFoundError: there is no champion.
        BundleError: the version is gone, or broken.
        InputError: no clicks are known that came after its training.
    """
    root = platform.data_path / "models"
    version = wanted or registry.resolve(root, bundle.CHAMPION)
    if version is None:
        raise NotFoundError("there is no champion to report on")
    served = bundle.load(root, version)
    trained_to_ms = compare.trained_to_ms(served)
    from_ms = int(served.manifest.get("data", {}).get("from_ms", 0))
    rows = dataset.load(platform.data_path / "training", from_ms, now_ms + 1, now_ms, config).impressions
    after = rows[rows.at_ms >= trained_to_ms]
    if not after.labels.any():
        raise InputError(f"{version}: no clicks are known on traffic after its training")
    before = rows[rows.at_ms < trained_to_ms]
    predicted: dict[str, NDArray[np.float64]] = {"model": compare.pctr(served.predictor, after)}
    previous = aliases.loaded(root, bundle.PREVIOUS)
    # After a rollback what served before is the newer one: what it was trained on would flatter it.
    if previous is not None and previous.version != version and compare.trained_to_ms(previous) <= trained_to_ms:
        predicted["previous champion"] = compare.pctr(previous.predictor, after)
    predicted["prior"] = compare.pctr(served.prior, after)
    sentence = "All impressions with a known outcome that came after the model's training, until this report."
    found = gather(
        version,
        served.manifest,
        ("", ()),
        Judged(after, predicted, sentence),
        Earlier(before, compare.pctr(served.predictor, before)),
        PLATFORM,
        known.load(platform),
        config.limits(),
        Inputs(
            importance.permuted(served.predictor, after, PLATFORM),
            importance.spread_of(registry.read(root, version), after),
        ),
        now_ms,
    )
    return version, found
