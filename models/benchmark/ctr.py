"""Click model benchmark: trains what the nightly run trains on one file, and scores it on a later one.

Nothing of the test file is seen before it is scored. Settings are chosen on the training file's last time block (its
last day), weights and calibration of the blend on predictions for its later blocks, each by models of earlier ones (of
one to three days: for the blocks of the last, each by models of all other rows).
"""

import argparse
import sys
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from dsp.kernel.errors import InputError
from models.benchmark.ctr_result import Result, Scored
from models.benchmark.formats import Format
from models.benchmark.formats.detect import detect
from models.evaluation.metrics import measure
from models.training.rows import Rows

HELP = "train the click models on one file of impressions, score them and their blend on a later one"
#: An advertiser's calibration is told once it has so many clicks.
CLICKS_MIN = 50
#: Fewer clicks cannot be learned from.
_POSITIVES_MIN = 20
#: Trees at most.
ROUNDS_MAX = 200
Floats = NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    kinds = "CSV in the season 2 format, Criteo display rows, or the attribution slice (Parquet)"
    parser.add_argument("--train", required=True, type=Path, help=f"impressions to learn from: {kinds}")
    parser.add_argument("--test", required=True, type=Path, help="later impressions of the same kind")
    parser.add_argument("--baselines", action="store_true", help="run plain LightGBM and logistic regression beside")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw reliability into this file")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark and print its result; return the exit status."""
    from models.benchmark import ctr_show

    format_ = detect(options.train)
    if detect(options.test) is not format_:
        raise InputError(f"{options.test} is of another kind than {options.train}", reason="benchmark_file")
    train, test = format_.read(options.train), format_.read(options.test)
    if format_.timed and (early := int((test.at_ms < train.at_ms.max()).sum())):
        print(f"{early} of {len(test)} test rows are earlier than the last one learned from", file=sys.stderr)
    result = compare(format_, train, test, baselines=options.baselines)
    if options.json:
        print(msgspec.json.encode(result.as_json()).decode())
    else:
        ctr_show.table(result)
    if options.plot is not None:
        ctr_show.draw(result, options.plot)
    return 0


def compare(format_: Format, train: Rows, test: Rows, *, baselines: bool = False) -> Result:
    """Train on one file's rows, score on the other's.

    Raises:
        InputError: too few clicks, no other rows, rows of one instant only, or nothing to test on.
    """
    from models.benchmark import ctr_baselines
    from models.training import ensemble
    from models.training.config import TrainingConfig

    if not len(test):
        raise InputError("no rows to test on", reason="benchmark_file")
    positives = int(train.labels.sum())
    if not _POSITIVES_MIN <= positives <= len(train) - _POSITIVES_MIN:
        raise InputError(f"{positives} clicks in {len(train)} rows: too few to learn from", reason="benchmark_file")
    rate = float(np.average(train.labels, weights=train.weights))
    config = TrainingConfig(rounds_max=ROUNDS_MAX)
    try:
        walked = ensemble.walk(train, format_.spec, rate, config)
        names = list(walked.predicted)
        fitted = ensemble.fit(train, format_.spec, rate, walked, names, config)
    except ValueError as fault:
        raise InputError(f"cannot be learned from: {fault}", reason="benchmark_file") from fault
    beside = ctr_baselines.predict(train, test, format_.spec) if baselines else {}
    took = {part: walked.seconds[part] + fitted.seconds.get(part, 0.0) for part in walked.logits}
    seconds = {name: sum(took[part] for part in walked.parts(name)) for name in names}
    scores = {
        name: _scored(format_, fitted.predict(name, test.requests, test.ads), test, seconds[name]) for name in names
    }
    *alone, last = names  # the blend is the last, unless there is but one kind of model
    choice = walked.choice
    return Result(
        models={name: scores[name] for name in alone or names},
        blend=scores[last],
        weights=fitted.blends[last].weights,
        winner=choice.winner,
        settings=choice.settings,
        baselines={name: _scored(format_, found, test, its) for name, (found, its) in beside.items()},
        absent=choice.absent,
    )


def _scored(format_: Format, predicted: Floats, test: Rows, train_seconds: float) -> Scored:
    by_advertiser = {}
    if format_.advertiser is not None:
        advertisers = test.ads[:, format_.spec.ad_columns.index(format_.advertiser)]
        for advertiser in np.unique(advertisers):
            own = advertisers == advertiser
            found = measure(predicted[own], test.labels[own], test.weights[own])
            if found.clicks >= CLICKS_MIN and found.pcoc is not None:
                by_advertiser[str(advertiser)] = {"clicks": found.clicks, "pcoc": found.pcoc}
    return Scored(measure(predicted, test.labels, test.weights), by_advertiser, train_seconds)
