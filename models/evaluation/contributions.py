"""Why a probability is what it is: its log-odds as a sum, with a term for each input.

Statistics, trees, regression and blends of them fall apart exactly (`of_model`). What has a network in it is asked what
it would say if some inputs were those of other impressions (`by_exchange`): that tells what each input does in the
whole, not what happens within the network. Either way the terms add up to the log-odds that are served.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.evaluation import parts
from models.evaluation.families import families
from models.evaluation.names import Names, words
from models.evaluation.parts import Kind, Parts
from models.features.spec import FeatureSpec, Group
from models.serving.statistics import Columns, Statistics

#: Log-odds of n rows, requests (n, R) and ads (n, A), float64 (n,).
Logits = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]

ORDERS = 256
_SEED = 7


class Row(NamedTuple):
    """One bid's raw features: request (R,) and ad (A,)."""

    request: NDArray[np.int64]
    ad: NDArray[np.int64]


class Term(msgspec.Struct, frozen=True):
    """What one input adds to the log-odds, in all, and what of that each kind of model adds, where that is known.

    `error` is the standard error of a term that is an average over orders drawn at random; 0 where it is exact.
    """

    name: str
    held: str  # what it held, in words
    log_odds: float
    parts: dict[Kind, float]
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
    deltas = statistics.deltas(row.request[np.newaxis], row.ad[np.newaxis])[0].tolist()
    terms = [
        Term(words(group.name), held(group, row, statistics.columns, names), delta, {"statistics": delta})
        for group, delta in zip(statistics.groups, deltas, strict=True)
    ]
    return _summed("exact: statistics", statistics.base_logit, terms)


def of_model(model: Parts, row: Row, spec: FeatureSpec, names: Names) -> Explanation:
    """Explain statistics, trees, regression, or a blend of them. Exact. What has one name is told together.

    `spec` is what the models were made from: it says what their inputs hold.
    """
    base, told = parts.told(model, row.request[np.newaxis], row.ad[np.newaxis])
    shown = _shown(row, spec, names)
    added = {name: {kind: float(values[0]) for kind, values in each.items()} for name, each in told.items()}
    terms = [Term(words(name), shown[name], sum(each.values()), each) for name, each in added.items()]
    kinds = dict.fromkeys(kind for each in added.values() for kind in each)
    method = ", ".join("Shapley values of the trees" if kind == "trees" else kind for kind in kinds)
    return _summed(
        f"exact: {method}",
        base,
        terms,
        lambda raw: float(model.calibration.logits(np.array([raw]), row.request[np.newaxis], row.ad[np.newaxis])[0]),
    )


def by_exchange(
    logits: Logits, row: Row, others: Sequence[Row], spec: FeatureSpec, names: Names, orders: int = ORDERS
) -> Explanation:
    """Explain any model by Shapley values, sampled (Strumbelj and Kononenko 2014, algorithm 1).

    From one of the `others` to the row, families of columns are exchanged in an order drawn at random; what each
    changes is its term, on average over the orders. `base` is what the others get. Calibration lies within the model.
    """
    members = families(spec)
    generator = np.random.default_rng(_SEED)
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
            {},
            error=float(error),
        )
        for family, change, error in zip(members, changes.mean(axis=0), errors, strict=True)
    ]
    return _summed(f"sampled: Shapley values over {orders} orders", float(said[:, 0].mean()), terms)


def held(group: Group, row: Row, columns: Columns, names: Names) -> str:
    """Return in words what the columns of a group hold, both sides' where it looks at both."""
    request = [(name, row.request[columns.request.index(name)]) for name in group.request]
    ad = [(name, row.ad[columns.ad.index(name)]) for name in group.ad]
    return " x ".join(_values(names, side) for side in (request, ad) if side)


def _shown(row: Row, spec: FeatureSpec, names: Names) -> dict[str, str]:
    """Return in words what each input holds, by its name."""
    columns = Columns(spec.request_columns, spec.ad_columns)
    inputs = [
        *(Group(name=name, request=(name,)) for name in spec.request_numbers),
        *(Group(name=name, ad=(name,)) for name in spec.ad_numbers),
        *spec.groups,
    ]
    shown = {group.name: held(group, row, columns, names) for group in inputs}
    for match in spec.matches:
        sought = row.ad[columns.ad.index(match.ad)]
        seen = [row.request[columns.request.index(name)] for name in match.request]
        shown[match.name] = str(sum(value == sought != 0 for value in seen))
    return shown


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
