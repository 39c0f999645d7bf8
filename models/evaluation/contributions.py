"""Why a probability is what it is: its log-odds as a sum, with a term for each input.

Models of statistics and trees fall apart exactly (`of_model`); any other is asked what it would say if some inputs were
those of other impressions (`by_exchange`). Either way the terms add up to the log-odds that are served.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.evaluation import trees
from models.evaluation.families import families
from models.evaluation.names import Names, words
from models.evaluation.parts import Parts
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import Statistics
from models.serving.transform import Transform

#: Log-odds of n rows, requests (n, R) and ads (n, A), float64 (n,).
Logits = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]

ORDERS = 256


class Row(NamedTuple):
    """One bid's raw features: request (R,) and ad (A,)."""

    request: NDArray[np.int64]
    ad: NDArray[np.int64]


class Term(msgspec.Struct, frozen=True):
    """What one input adds to the log-odds, in all, and of that its statistics and the trees, where the model has those.

    `error` is the standard error of a term that is an average over orders drawn at random; 0 where it is exact.
    """

    name: str
    held: str  # what it held, in words
    log_odds: float
    statistics: float = 0.0
    trees: float = 0.0
    error: float = 0.0


class Explanation(msgspec.Struct, frozen=True):
    """`base`, the terms (largest first) and `calibration` add up to `log_odds`, that of the probability."""

    method: str
    base: float
    terms: tuple[Term, ...]
    calibration: float
    log_odds: float
    probability: float


def of_statistics(statistics: Statistics, row: Row, names: Names) -> Explanation:
    """Explain rates that are shrunk statistics alone, as the prior's are. Exact."""
    deltas = statistics.deltas(row.request[np.newaxis], row.ad[np.newaxis])[0].astype(np.float64)
    terms = [
        Term(words(group.name), held(group, row, statistics, names), float(delta), statistics=float(delta))
        for group, delta in zip(statistics.groups, deltas, strict=True)
    ]
    return _summed("exact: statistics", statistics.base_logit, terms)


def of_model(model: Parts, row: Row, names: Names) -> Explanation:
    """Explain a model of statistics and trees. Exact. A number that trees read is told with statistics of its name."""
    transform, statistics = model.transform, model.transform.statistics
    features = transform(row.request[np.newaxis], row.ad[np.newaxis])
    ensemble = trees.contributions(model.ensemble, features)
    shown = [held(group, row, statistics, names) for group in statistics.groups]
    shown += [_held(names, (column,), row, transform) for column in (*transform.request_numbers, *transform.ad_numbers)]
    shown += [f"{features[0, -len(transform.matches) + place]:.0f}" for place in range(len(transform.matches))]
    found: dict[str, Term] = {}
    for place, name in enumerate(transform.names):
        learned = float(features[0, place]) if place < len(statistics.groups) else 0.0
        grown = float(ensemble.columns[0, place])
        known = found.get(name, Term(words(name), shown[place], 0.0))
        found[name] = msgspec.structs.replace(
            known,
            log_odds=known.log_odds + learned + grown,
            statistics=known.statistics + learned,
            trees=known.trees + grown,
        )
    return _summed(
        "exact: statistics, and Shapley values of the trees",
        statistics.base_logit + ensemble.base,
        list(found.values()),
        lambda raw: float(model.calibration.logits(np.array([raw]), row.request[np.newaxis], row.ad[np.newaxis])[0]),
    )


def by_exchange(
    logits: Logits,
    row: Row,
    others: Sequence[Row],
    spec: FeatureSpec,
    names: Names,
    orders: int = ORDERS,
    seed: int = 7,
) -> Explanation:
    """Explain any model by Shapley values, sampled (Strumbelj and Kononenko 2014, algorithm 1).

    From one of the `others` to the row, families of columns are exchanged in an order drawn at random; what each
    changes is its term, on average over the orders. `base` is what the others get. Calibration lies within the model.
    """
    members = families(spec)
    generator = np.random.default_rng(seed)
    sequences = np.stack([generator.permutation(len(members)) for _ in range(orders)])
    requests = np.empty((orders, len(members) + 1, len(row.request)), dtype=np.int64)
    ads = np.empty((orders, len(members) + 1, len(row.ad)), dtype=np.int64)
    for sequence, start, request, ad in zip(
        sequences, generator.integers(0, len(others), orders), requests, ads, strict=True
    ):
        request[:], ad[:] = others[start]
        for step, place in enumerate(sequence, 1):
            request[step:, members[place].request] = row.request[members[place].request]
            ad[step:, members[place].ad] = row.ad[members[place].ad]
    said = logits(requests.reshape(-1, len(row.request)), ads.reshape(-1, len(row.ad))).reshape(orders, -1)
    changes = np.empty((orders, len(members)))
    np.put_along_axis(changes, sequences, np.diff(said, axis=1), axis=1)
    errors = changes.std(axis=0) / np.sqrt(orders)
    terms = [
        Term(
            words(family.name),
            _values(
                names,
                [(spec.request_columns[place], row.request[place]) for place in family.request]
                + [(spec.ad_columns[place], row.ad[place]) for place in family.ad],
            ),
            float(change),
            error=float(error),
        )
        for family, change, error in zip(members, changes.mean(axis=0), errors, strict=True)
    ]
    return _summed(f"sampled: Shapley values over {orders} orders", float(said[:, 0].mean()), terms)


def held(group: Group, row: Row, statistics: Statistics, names: Names) -> str:
    """Return in words what the columns of a group hold, both sides' where it looks at both."""
    columns = statistics.columns
    request = [(name, row.request[columns.request.index(name)]) for name in group.request]
    ad = [(name, row.ad[columns.ad.index(name)]) for name in group.ad]
    return " x ".join(_values(names, side) for side in (request, ad) if side)


def _held(names: Names, columns: Sequence[str], row: Row, transform: Transform) -> str:
    group = Group(
        name="",
        request=tuple(name for name in columns if name in transform.request_numbers),
        ad=tuple(name for name in columns if name in transform.ad_numbers),
    )
    return held(group, row, transform.statistics, names)


def _values(names: Names, columns: Sequence[tuple[str, np.int64]]) -> str:
    """Return the values of columns in words; of a set those that are there, each once."""
    shown = [names.value(name, int(value)) for name, value in columns]
    filled = dict.fromkeys(value for value in shown if value != "none")
    return ", ".join(filled) or "none"


def _summed(
    method: str, base: float, terms: Sequence[Term], calibrated: Callable[[float], float] = float
) -> Explanation:
    raw = base + sum(term.log_odds for term in terms)
    log_odds = calibrated(raw)
    ordered = sorted(terms, key=lambda term: (-abs(term.log_odds), term.name))
    probability = float(1.0 / (1.0 + np.exp(-log_odds)))
    return Explanation(method, base, tuple(ordered), log_odds - raw, log_odds, probability)
