"""What the click models have to beat: LightGBM on coded categories and plain logistic regression, as one runs them.

Their settings too are chosen on the last tenth of the training rows.
"""

import time
from itertools import product

import lightgbm
import msgspec
import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import losses
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import sigmoid
from models.training import ftrl
from models.training.rows import Rows

Floats = NDArray[np.float64]
_HELD_BACK = 0.1
_LEAVES = (8, 15, 31)
_SMOOTHINGS = (10.0, 50.0)
_ROUNDS = (25, 50, 100, 200, 300)
_PACES = ((0.01, 2), (0.02, 2), (0.05, 2), (0.02, 5), (0.05, 5), (0.1, 5))


def predict(train: Rows, test: Rows, spec: FeatureSpec) -> dict[str, tuple[Floats, float]]:
    """Return probabilities for the test rows, (n,), and seconds of training, by baseline."""
    found = {}
    for name, learn in (("lightgbm", _lightgbm), ("logistic_regression", _regression)):
        began = time.perf_counter()
        predicted = learn(train, test, spec)
        found[name] = (predicted, time.perf_counter() - began)
    return found


def _plain(spec: FeatureSpec) -> tuple[Group, ...]:
    """Return the groups that are no crosses."""
    return tuple(group for group in spec.groups if "_x_" not in group.name)


def _parts(train: Rows) -> tuple[slice, slice]:
    cut = int(len(train) * (1.0 - _HELD_BACK))
    return slice(0, cut), slice(cut, None)


def _loss(predicted: Floats, rows: Rows) -> float:
    return float(np.average(losses(predicted, rows.labels), weights=rows.weights))


def _lightgbm(train: Rows, test: Rows, spec: FeatureSpec) -> Floats:
    known, held_back = _parts(train)
    features, categorical = _coded(train, test, spec)

    def grow(part: slice, leaves: int, smoothing: float, rounds: int) -> lightgbm.Booster:
        parameters = {
            "objective": "binary",
            "learning_rate": 0.05,
            "num_leaves": leaves,
            "cat_smooth": smoothing,
            "cat_l2": smoothing,
            "num_threads": 1,
            "seed": 7,
            "verbosity": -1,
        }
        rows = train[part]
        data = lightgbm.Dataset(
            features[: len(train)][part],
            label=rows.labels.astype(np.float32),
            weight=rows.weights,
            categorical_feature=categorical,
            params=parameters,
        )
        return lightgbm.train(parameters, data, num_boost_round=rounds)

    tried = []
    for leaves, smoothing in product(_LEAVES, _SMOOTHINGS):
        booster = grow(known, leaves, smoothing, _ROUNDS[-1])
        for rounds in _ROUNDS:
            predicted = np.asarray(booster.predict(features[: len(train)][held_back], num_iteration=rounds))
            tried.append((_loss(predicted, train[held_back]), leaves, smoothing, rounds))
    _, leaves, smoothing, rounds = min(tried)
    booster = grow(slice(None), leaves, smoothing, rounds)
    return np.asarray(booster.predict(features[len(train) :]), dtype=np.float64)


def _coded(train: Rows, test: Rows, spec: FeatureSpec) -> tuple[Floats, list[int]]:
    """Return the columns of single-column groups as codes of values seen in training (-1: none), then the numbers."""
    sides = ((spec.request_columns, train.requests, test.requests), (spec.ad_columns, train.ads, test.ads))
    coded = {group.request + group.ad for group in _plain(spec) if len(group.request) + len(group.ad) == 1}
    categories, numbers = [], []
    for names, seen, unseen in sides:
        for place, name in enumerate(names):
            values = np.concatenate([seen[:, place], unseen[:, place]])
            if (name,) in coded:
                known = np.unique(seen[:, place])
                codes = np.minimum(np.searchsorted(known, values), len(known) - 1)
                categories.append(np.where(known[codes] == values, codes, -1))
            if name in spec.request_numbers + spec.ad_numbers:
                numbers.append(values)
    return np.column_stack([*categories, *numbers]).astype(np.float64), list(range(len(categories)))


def _regression(train: Rows, test: Rows, spec: FeatureSpec) -> Floats:
    """Learn one weight a value, without crosses."""
    plain = msgspec.structs.replace(spec, groups=_plain(spec))
    known, held_back = _parts(train)
    later = train[held_back]

    def loss(config: ftrl.FtrlConfig) -> float:
        return _loss(sigmoid(ftrl.fit(train[known], plain, config).logits(later.requests, later.ads)), later)

    configs = [ftrl.FtrlConfig(alpha=rate, epochs=epochs) for rate, epochs in _PACES]
    return sigmoid(ftrl.fit(train, plain, min(configs, key=loss)).logits(test.requests, test.ads))
