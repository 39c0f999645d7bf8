"""Which inputs a predictor lives on: how much worse it gets when one of them tells nothing any more."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from models.evaluation import parts
from models.evaluation.families import families
from models.evaluation.metrics import losses
from models.evaluation.parts import Kind
from models.features.spec import FeatureSpec
from models.serving.predictor import BatchPredictor
from models.training.rows import Rows

#: Rows that are scored once for each input: the price of a family is one pass over them.
_ROWS_MAX = 4_000
_SEED = 7


class Importance(NamedTuple):
    """One family of columns: log loss (nats a row) with its values dealt out anew, minus that as it is; and its
    standard error. Inputs that tell the same stand in for each other, and all look unimportant then."""

    name: str
    loss: float
    error: float


class Spread(NamedTuple):
    """One input: how far it moves the log-odds of the rows, as the standard deviation of what each kind of model adds
    for it."""

    name: str
    parts: dict[Kind, float]

    @property
    def most(self) -> float:
        """Return the largest of these."""
        return max(self.parts.values())


def spread_of(files: Mapping[str, bytes], rows: Rows) -> list[Spread]:
    """Return the spread of what moves anything in a bundle's click model, largest first; none where it does not fall
    apart into its inputs. Of many rows an even choice is taken.
    """
    try:
        model = parts.model(files, "ctr")
    except (ValueError, msgspec.DecodeError):
        return []
    if not isinstance(model, parts.Parts) or not len(rows):
        return []
    chosen = _even(rows)
    _, told = parts.told(model, chosen.requests, chosen.ads)
    found = [Spread(name, {kind: float(all_.std()) for kind, all_ in each.items()}) for name, each in told.items()]
    return sorted((each for each in found if each.most > 0.0), key=lambda each: (-each.most, each.name))


def permuted(predictor: BatchPredictor, rows: Rows, spec: FeatureSpec) -> list[Importance]:
    """Return the importance of what varies for click rates, largest first, by permutation (Breiman 2001, section 10).

    Rows must be such as the predictor was not trained on. Of many an even choice is taken.
    """
    if not len(rows):
        return []
    chosen = _even(rows)
    generator = np.random.default_rng(_SEED)
    weights = chosen.weights / chosen.weights.mean()
    before = losses(predictor.predict_rows(chosen.requests, chosen.ads).pctr, chosen.labels)
    found = []
    for family in families(spec):
        dealt = generator.permutation(len(chosen))
        requests, ads = chosen.requests.copy(), chosen.ads.copy()
        requests[:, family.request] = requests[dealt][:, family.request]
        ads[:, family.ad] = ads[dealt][:, family.ad]
        if (requests == chosen.requests).all() and (ads == chosen.ads).all():
            continue
        gains = (losses(predictor.predict_rows(requests, ads).pctr, chosen.labels) - before) * weights
        found.append(Importance(family.name, float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))))
    return sorted(found, key=lambda each: (-each.loss, each.name))


def _even(rows: Rows) -> Rows:
    return rows[slice(None, None, -(-len(rows) // _ROWS_MAX))]
