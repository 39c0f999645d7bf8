"""Trains the network: DCN-v2 with a click and a conversion head (ESMM), in PyTorch, on the CPU.

The conversion head is learned over all impressions, through P(click and conversion) = pCTR * pCVR (Ma et al., 2018), so
it is not fitted to the selection of clicked impressions alone. How long to train is found on the last rows in time, and
then all rows are learned from anew, for as long. The same rows, settings and seed give the same network. This is the
one module that needs PyTorch.
"""

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from numpy.typing import NDArray

from models.features.spec import FeatureSpec
from models.serving.embedding import AGE_CLASSES, Floats, Inputs, Layout, Side, Tables
from models.serving.network import HEADS
from models.training.network_export import Cross, Dense, NetworkWeights
from models.training.network_layout import NetworkConfig, lay_out
from models.training.network_model import Network
from models.training.rows import Rows

_EMBEDDING_DEVIATION = 0.05
#: Rows are encoded, and evaluated, so many at a time.
_CHUNK_ROWS = 16_384
_RATE_MIN = 1e-6
_WARM_UP_STEPS = 9.0
#: Below it log(1 - p) is taken at it, which single precision tells from 0.
_LOG_P_MAX = -1e-6

Batch = dict[str, Any]


def fit(rows: Rows, spec: FeatureSpec, config: NetworkConfig, conversions: NDArray[np.bool_] | None = None) -> Network:
    """Train a network on rows in order of time, each as often as it weighs.

    Args:
        rows: impressions, labelled by whether they were clicked.
        spec: which columns are fields, numbers, matches and history.
        config: the network's shape and how it is trained.
        conversions: whether each row's click led to a conversion, bool (n,). Without them nothing is learned of
            conversions, and their logits mean nothing.

    Raises:
        ValueError: too few rows to hold some back.
    """
    held_back = int(np.searchsorted(rows.at_ms, rows.at_ms[int(len(rows) * (1.0 - config.validation_share))]))
    if not 0 < held_back < len(rows):
        raise ValueError("no rows are earlier than those held back")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        steps = Trainer(rows, spec, config, conversions).steps(held_back)
        trainer = Trainer(rows, spec, config, conversions)
        trainer.repeat(round(steps * len(rows) / held_back))
    finally:
        torch.set_num_threads(threads)
    return trainer.network(steps)


class Trainer:
    """The parameters, the encoded rows, and the loop."""

    def __init__(
        self, rows: Rows, spec: FeatureSpec, config: NetworkConfig, conversions: NDArray[np.bool_] | None = None
    ) -> None:
        self._layout, self._keys, self._places, length = lay_out(rows, spec, config)
        self._spec = spec.content_hash
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        self._torch_rng = torch.Generator().manual_seed(config.seed)
        labels = [rows.labels] if conversions is None else [rows.labels, rows.labels & conversions]
        self._parameters = self._initial(length, labels, rows.weights)
        self._data = _encoded(Inputs(self._layout, self.tables()), rows)
        self._data["labels"] = torch.from_numpy(np.stack(labels, axis=1).astype(np.float32))
        weights, self._offset = _balanced(rows)
        self._data["weights"] = torch.from_numpy(weights.astype(np.float32))
        self._unknown = {"request": _unknown(self._layout.request), "ad": _unknown(self._layout.ad)}

    def _initial(self, length: int, labels: list[NDArray[np.bool_]], weights: NDArray[np.float64]) -> dict[str, Any]:
        config, layout = self._config, self._layout
        rates = [max(float(weights @ label) / float(weights.sum()), _RATE_MIN) for label in labels]
        bias = [math.log(rates[0] / (1.0 - min(rates[0], 1.0 - _RATE_MIN))), 0.0]
        if len(rates) > 1:
            given = min(rates[1] / rates[0], 1.0 - _RATE_MIN)
            bias[1] = math.log(given / (1.0 - given))
        width, history = layout.width, layout.history_width
        values = {
            "vectors": self._drawn(length, _widest(layout), deviation=_EMBEDDING_DEVIATION),
            "ages": np.zeros((AGE_CLASSES, history)),
            "query": np.eye(history),
            "cross_heads": np.zeros((width, HEADS)),
            "hidden_heads": np.zeros((config.hidden[-1], HEADS)),
            "bias": np.array(bias),
        }
        values["vectors"][0] = 0.0
        for number in range(config.cross_layers):
            values[f"down_{number}"] = self._drawn(width, config.cross_rank)
            values[f"up_{number}"] = self._drawn(config.cross_rank, width)
            values[f"cross_bias_{number}"] = np.zeros(width)
        before = width
        for number, after in enumerate(config.hidden):
            values[f"hidden_{number}"] = self._drawn(before, after, deviation=math.sqrt(2.0 / before))
            values[f"hidden_bias_{number}"] = np.zeros(after)
            before = after
        return {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in values.items()}

    def _drawn(self, *size: int, deviation: float | None = None) -> NDArray[np.float64]:
        return self._rng.normal(0.0, deviation or 1.0 / math.sqrt(size[0]), size)

    def steps(self, held_back: int) -> int:
        """Train until the rows from `held_back` on, which are not learned from, are no longer predicted better; return
        after how many steps they were predicted best.

        What is judged is the running average of the parameters: single steps move all rates up and down.
        """
        config = self._config
        count = len(self._data["labels"])
        best, best_step, waited = math.inf, 0, 0
        every = max(1, -(-held_back // config.batch_rows) // config.evaluations)
        for step, averaged in enumerate(self._learned(held_back), 1):
            if step % every:
                continue
            loss = self._evaluate(averaged, held_back, count)
            waited += 1
            if loss < best:
                best, best_step, waited = loss, step, 0
            if waited == config.patience:
                break
        return best_step

    def repeat(self, steps: int) -> None:
        """Train on all rows, for so many steps."""
        last = deque(islice(self._learned(len(self._data["labels"])), steps), maxlen=1)
        self._parameters = last[0] if last else self._parameters

    def _learned(self, count: int) -> Iterator[Batch]:
        """Learn from the first rows, batch by batch; yield the running average of the parameters after each step."""
        optimiser = torch.optim.Adagrad(self._parameters.values(), lr=self._config.learning_rate)
        averaged = self._copy()
        for step, batch in enumerate(self._shuffled(count), 1):
            self._step(optimiser, batch)
            keep = min(self._config.averaging, step / (step + _WARM_UP_STEPS))  # the first steps are soon forgotten
            with torch.no_grad():
                for name, value in averaged.items():
                    value.lerp_(self._parameters[name], 1.0 - keep)
            yield averaged

    def logits(self, rows: slice) -> Floats:
        """Return the logits of training rows, (n, 2), as PyTorch computes them."""
        with torch.no_grad():
            batch = {name: values[rows] for name, values in self._data.items()}
            found: Floats = self._logits(self._parameters, batch).numpy()
        return found

    def network(self, steps: int) -> Network:
        """Return what has been learned so far."""
        return Network(Inputs(self._layout, self.tables()), self.weights(), self._spec, steps)

    def tables(self) -> Tables:
        """Return what is learned of values."""
        learned = (self._array(name) for name in ("vectors", "ages", "query"))
        return Tables(self._keys, self._places, *learned)

    def weights(self) -> NetworkWeights:
        """Return the dense part."""
        cross = (
            Cross(self._array(f"down_{number}"), self._array(f"up_{number}"), self._array(f"cross_bias_{number}"))
            for number in range(self._config.cross_layers)
        )
        hidden = (
            Dense(self._array(f"hidden_{number}"), self._array(f"hidden_bias_{number}"))
            for number in range(len(self._config.hidden))
        )
        heads = (self._array(name) for name in ("cross_heads", "hidden_heads", "bias"))
        return NetworkWeights(tuple(cross), tuple(hidden), *heads)

    def _array(self, name: str) -> Floats:
        values: Floats = self._parameters[name].detach().numpy().copy()
        return values

    def _copy(self) -> Batch:
        return {name: value.detach().clone() for name, value in self._parameters.items()}

    def _shuffled(self, count: int) -> Iterator[Any]:
        """Yield batches of the first rows, all of them in an order of its own each epoch."""
        for _ in range(self._config.epochs_max):
            order = torch.from_numpy(self._rng.permutation(count))
            yield from order.split(self._config.batch_rows)

    def _step(self, optimiser: Any, rows: Any) -> None:
        batch = {name: values[rows] for name, values in self._data.items()}
        for side, unknown in self._unknown.items():
            drawn = torch.rand(batch[side].shape, generator=self._torch_rng) < self._config.unknown_share
            batch[side] = torch.where(drawn & (unknown > 0) & (batch[side] > 0), unknown, batch[side])
        optimiser.zero_grad()
        _losses(self._logits(self._parameters, batch, self._config.dropout), batch, self._offset).mean().backward()
        optimiser.step()

    def _evaluate(self, held: Batch, start: int, end: int) -> float:
        """Return the mean loss of rows from `start` to `end`, weighted."""
        total = 0.0
        with torch.no_grad():
            for first in range(start, end, _CHUNK_ROWS):
                rows = slice(first, min(first + _CHUNK_ROWS, end))
                batch = {name: values[rows] for name, values in self._data.items()}
                total += float(_losses(self._logits(held, batch), batch, self._offset).sum())
        return total / float(self._data["weights"][start:end].sum())

    def _logits(self, held: Batch, batch: Batch, dropout: float = 0.0) -> Any:
        """Return the logits (n, 2). As models.training.network_export and models.serving.embedding define them."""
        layout, table = self._layout, held["vectors"]
        requests, ads = _vectors(table, batch["request"], layout.request), _vectors(table, batch["ad"], layout.ad)
        parts = [*requests, batch["request_numbers"], *ads, batch["ad_numbers"], batch["matches"]]
        if layout.history:
            parts.append(self._attended(held, batch, ads[layout.history.field]))
        inputs = crossed = hidden = torch.cat(parts, dim=1)
        for number in range(self._config.cross_layers):
            product = crossed @ held[f"down_{number}"] @ held[f"up_{number}"]
            crossed = crossed + inputs * (product + held[f"cross_bias_{number}"])
        for number in range(len(self._config.hidden)):
            hidden = F.relu(hidden @ held[f"hidden_{number}"] + held[f"hidden_bias_{number}"])
            if dropout:
                kept = torch.rand(hidden.shape, generator=self._torch_rng) >= dropout
                hidden = hidden * kept / (1.0 - dropout)
        return crossed @ held["cross_heads"] + hidden @ held["hidden_heads"] + held["bias"]

    def _attended(self, held: Batch, batch: Batch, sought: Any) -> Any:
        width = self._layout.history_width
        vectors = F.embedding(batch["history"], held["vectors"])[..., :width] + held["ages"][batch["history_ages"]]
        query = sought @ held["query"] / math.sqrt(width)
        odds = torch.exp(torch.clamp((vectors * query[:, None, :]).sum(dim=2), max=60.0)) * batch["history_present"]
        weights = odds / (1.0 + odds.sum(dim=1, keepdim=True))
        return (weights[:, :, None] * vectors).sum(dim=1)


def _vectors(table: Any, places: Any, side: Side) -> list[Any]:
    """Return the fields' vectors, each (n, its width)."""
    vectors = F.embedding(places, table, padding_idx=0)
    found, slot = [], 0
    for field in side.fields:
        found.append(vectors[:, slot : slot + len(field.columns), : field.width].sum(dim=1))
        slot += len(field.columns)
    return found


def _balanced(rows: Rows) -> tuple[NDArray[np.float64], float]:
    """Return weights that are 1 on average over the clicked and over the others, and what that adds to the log-odds.

    Where the others are a sample, each standing for many, the few rows of a batch that weigh most would drown the rest.
    Weighing both kinds alike multiplies the odds of a click, everywhere, by the ratio of their mean weights. So to the
    log-odds that are learned its logarithm is added in training, and nowhere else. Conversions of clicks stay as rare.
    """
    clicked, others = (float(rows.weights[kind].mean()) if kind.any() else 1.0 for kind in (rows.labels, ~rows.labels))
    return rows.weights / np.where(rows.labels, clicked, others), math.log(others / clicked)


def _losses(logits: Any, batch: Batch, offset: float) -> Any:
    """Return the loss of each row: of the click and, where conversions are known, of click and conversion together."""
    labels, clicks = batch["labels"], logits[:, 0] + offset
    losses = F.binary_cross_entropy_with_logits(clicks, labels[:, 0], reduction="none")
    if labels.shape[1] > 1:
        log_p = F.logsigmoid(clicks) + F.logsigmoid(logits[:, 1])
        log_rest = torch.log(-torch.expm1(torch.clamp(log_p, max=_LOG_P_MAX)))
        losses = losses - torch.where(labels[:, 1] > 0, log_p, log_rest)
    return losses * batch["weights"]


def _encoded(inputs: Inputs, rows: Rows) -> Batch:
    """Return the rows as tensors: places in the table, numbers, matches, and the history's."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[slice(start, start + _CHUNK_ROWS)]
        encoded: dict[str, NDArray[Any]] = {
            "request": inputs.request.places(chunk.requests).astype(np.int32),
            "ad": inputs.ad.places(chunk.ads).astype(np.int32),
            "request_numbers": inputs.request.numbers(chunk.requests),
            "ad_numbers": inputs.ad.numbers(chunk.ads),
            "matches": inputs.matches(chunk.requests, chunk.ads),
        }
        if inputs.history is not None:
            encoded["history"] = inputs.history.places(chunk.requests).astype(np.int32)
            encoded["history_ages"] = inputs.history.ages(chunk.requests).astype(np.int32)
            encoded["history_present"] = inputs.history.present(chunk.requests)
        for name, values in encoded.items():
            parts.setdefault(name, []).append(values)
    return {name: torch.from_numpy(np.concatenate(values)) for name, values in parts.items()}


def _unknown(side: Side) -> Any:
    """Return the table's row of unknown values for each slot, 0 where there is none."""
    places = [0 if field.bits else field.first for field in side.fields for _ in field.columns]
    return torch.tensor(places, dtype=torch.int32)


def _widest(layout: Layout) -> int:
    return max((field.width for side in (layout.request, layout.ad) for field in side.fields), default=1)
