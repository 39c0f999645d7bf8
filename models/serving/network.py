"""The network at serving: raw rows to log-odds, the first layers' work done once a request and once an ad.

What a graph takes is a row of state: the shares of the inputs x0 (x0 times a matrix, plus a bias), which the graph
"split" goes on from, or x0 itself, in the graph "full". State is a sum: the ad's row, made once for each ad of a
snapshot, the request's, made once a request, and what the few inputs add that look at both.
"""

import io
import mmap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.serving.embedding import Floats, Inputs, Int64s, Layout, Tables
from models.serving.keys import Finder, MatchCounts, Shared
from models.serving.session import CPU, Device, Memory, Session
from models.serving.stack import Stack
from models.serving.statistics import Columns

INPUT = "inputs"
OUTPUT = "logits"
#: Click, and conversion given a click.
HEADS = 2
#: A bundle's files: the graph, the learned vectors and shares, and the layout of the inputs.
GRAPH = "network.onnx"
ARRAYS = "network.npz"
LAYOUT = "network.json"
FILES = (GRAPH, ARRAYS, LAYOUT)
#: Key of the graph's metadata that holds the content hash of the feature spec.
SPEC_KEY = "feature_spec"
#: Rows of different impressions are scored so many at a time.
_CHUNK_ROWS = 4_096


class Shares(NamedTuple):
    """What is linear in the inputs: inputs @ matrix + bias; matrix (D, S), bias (S,). S is 0 for the graph "full"."""

    matrix: Floats
    bias: Floats


class NetworkModel:
    """The logits of both heads, of rows of any kind or prepared for a table of ads."""

    def __init__(self, model: bytes, inputs: Inputs, shares: Shares, device: Device = CPU) -> None:
        if shares.matrix.shape != (inputs.layout.width, len(shares.bias)):
            raise ValueError(f"shares of {shares.matrix.shape} do not fit {inputs.layout.width} inputs")
        self.session = Session(model, device.provider)
        taken = self.session.blank(1)[INPUT].shape[1]
        if taken == inputs.layout.width + len(shares.bias):
            shares = _with_inputs(shares)
        if taken != len(shares.bias):
            raise ValueError(f"the graph takes {taken} columns, not {len(shares.bias)}")
        self.inputs = inputs
        self.shares = shares
        self.stack = Stack(self.session, device.rows_max) if device.batches(self.session.provider) else None
        if self.stack is not None:
            self.stack.warm_up()

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return logits before calibration, float64 (n, 2), of request rows (n or 1, R) and ad rows (n, A)."""
        found = np.empty((len(ads), HEADS))
        for start in range(0, len(ads), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            inputs = self.inputs(requests[part] if len(requests) > 1 else requests, ads[part])
            found[part] = self.session.run(OUTPUT, {INPUT: inputs @ self.shares.matrix + self.shares.bias})
        return found

    def prepare(self, ads: Int64s) -> "PreparedNetwork":
        """Return what scores ads of this table, (C, A)."""
        return PreparedNetwork(self, ads)


def _with_inputs(shares: Shares) -> Shares:
    """Return the shares of a graph that takes the inputs themselves as well, before the others."""
    width = len(shares.matrix)
    matrix = np.concatenate([np.eye(width, dtype=np.float32), shares.matrix], axis=1)
    return Shares(matrix, np.concatenate([np.zeros(width, dtype=np.float32), shares.bias]))


def restore(files: Mapping[str, bytes], device: Device = CPU) -> NetworkModel:
    """Return the model of a bundle's files.

    Raises:
        KeyError: a file or an array is missing.
        ValueError: the files do not fit each other.
    """
    layout = msgspec.json.decode(files[LAYOUT], type=Layout)
    with np.load(io.BytesIO(files[ARRAYS]), allow_pickle=False) as arrays:
        tables = Tables(*(arrays[name] for name in Tables._fields))
        shares = Shares(*(arrays[name] for name in Shares._fields))
    return NetworkModel(files[GRAPH], Inputs(layout, tables), shares, device)


def _untouched(rows: int, width: int) -> Floats:
    """Return zeros that take memory where they are written to; the allocator's may be used memory that is cleared."""
    memory = mmap.mmap(-1, max(1, 4 * rows * width), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.float32, rows * width).reshape(rows, width)


class PreparedNetwork:
    """The logits of ads of a fixed table. One thread at a time: memory for K rows is kept and used again.

    What an ad says alone is worked out when it is first asked for: preparing costs next to nothing, so bids need not
    wait for it, and of a large catalogue only what comes up takes memory, 4 S bytes an ad.
    """

    def __init__(self, model: NetworkModel, ads: Int64s) -> None:
        inputs, (matrix, bias) = model.inputs, model.shares
        layout = inputs.layout
        self._inputs = inputs
        self._session = model.session
        of_request = slice(0, layout.request.width)
        of_ad = slice(of_request.stop, of_request.stop + layout.ad.width)
        self._ads = ads
        self._ad_shares, self._bias = matrix[of_ad], bias
        self._made = np.zeros(len(ads), dtype=np.bool_)  # which rows of the following tables are there
        self._states = _untouched(len(ads), len(bias))
        self._request_shares = np.ascontiguousarray(matrix[of_request])
        self._both_shares = np.ascontiguousarray(matrix[of_ad.stop :])
        columns = Columns(layout.request.columns, layout.ad.columns)
        self._counts = MatchCounts(layout.matches, columns, ads)
        self._matches = len(layout.matches)
        most = max((len(match.request) for match in layout.matches), default=0)
        self._logs = np.log1p(np.arange(most + 1)).astype(np.float32)  # of every count there can be
        self._history = inputs.history
        self._queries = _untouched(len(ads), layout.history_width) if inputs.history else None
        self._of_request = np.zeros(layout.request.width, dtype=np.float32)
        self._row = np.zeros(len(bias), dtype=np.float32)  # the request's shares
        self._bound: dict[int, tuple[Memory, Floats, Floats]] = {}

    def logits(self, request: Int64s, chosen: Int64s) -> Floats:
        """Return logits, float32 (K, 2), of a request row (R,) and K rows of the table; the next call overwrites them.

        K is 1 or more.
        """
        memory, states, logits = self._bound.get(len(chosen)) or self._bind(len(chosen))
        self.state(request, chosen, states)
        memory()
        return logits

    def state(self, request: Int64s, chosen: Int64s, out: Floats) -> None:
        """Write the graph's input, float32 (K, S), of a request row (R,) and K rows of the table."""
        if np.count_nonzero(self._made.take(chosen)) < len(chosen):
            self._make(chosen)
        self._states.take(chosen, 0, out, "clip")  # with any other mode numpy copies once more
        values = request.tolist()
        self._inputs.request.one(request, values, self._of_request)
        out += np.dot(self._of_request, self._request_shares, self._row)
        both = self._both(request, values, chosen)
        if both is not None:
            out += both @ self._both_shares

    def _make(self, chosen: Int64s) -> None:
        """Work out what is not there yet of the rows chosen."""
        rows = np.unique(chosen[~self._made[chosen]])
        inputs = self._inputs.ad(self._ads[rows])
        self._states[rows] = inputs @ self._ad_shares + self._bias
        if self._history is not None and self._queries is not None:
            self._queries[rows] = self._history.queries(inputs)
        self._made[rows] = True

    def _both(self, request: Int64s, values: Sequence[int], chosen: Int64s) -> Floats | None:
        """Return the inputs that look at request and ad, (K, matches + history); None where all are 0."""
        counts = self._counts(request, chosen)
        vectors = None if self._history is None else self._history.one(request, values)
        if counts is None and vectors is None:
            return None
        both = np.zeros((len(chosen), len(self._both_shares)), dtype=np.float32)
        if counts is not None:
            both[:, : self._matches] = self._logs.take(counts)
        if vectors is not None and self._history is not None and self._queries is not None:
            products = self._queries.take(chosen, 0) @ vectors.T
            both[:, self._matches :] = self._history.weights(products) @ vectors
        return both

    def _bind(self, rows: int) -> tuple[Memory, Floats, Floats]:
        states = np.zeros((rows, self._states.shape[1]), dtype=np.float32)
        memory = self._session.bind({INPUT: states})
        self._bound[rows] = memory, states, memory.outputs[OUTPUT]
        return self._bound[rows]

    def blank(self, rows: int) -> Floats:
        """Return memory for the state of K candidates."""
        return np.empty((rows, self._states.shape[1]), dtype=np.float32)


class NetworkHead:
    """One head's log-odds, at the price of both; the other head of the same network then costs nothing."""

    def __init__(self, network: NetworkModel, head: int) -> None:
        self.network = network
        self.head = head

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return log-odds, float64 (n,), of request rows (n or 1, R) and ad rows (n, A)."""
        return self.network.logits(requests, ads)[:, self.head]

    def prepare(self, ads: Int64s, shared: Shared | None = None) -> "PreparedHead":
        """Return what gives the log-odds of ads of this table, (C, A)."""
        shared, stack = shared or Shared(), self.network.stack
        both = shared.once((PreparedNetwork, id(self.network)), lambda: Both(self.network.prepare(ads)))
        if stack is None:
            return PreparedHead(both, self.head)
        staged = shared.once((Stack, id(self.network)), lambda: Staging(both.network, stack))
        return BatchedHead(both, self.head, staged)


class Both(Finder[Floats]):
    """Finds both heads' log-odds, (K, 2)."""

    def __init__(self, network: PreparedNetwork) -> None:
        super().__init__(network.logits)
        self.network = network


class Staging(Finder[Floats]):
    """Finds the graph's input for an impression, and runs it for several; one thread each at a time."""

    def __init__(self, network: PreparedNetwork, stack: Stack) -> None:
        super().__init__(self._stage)
        self._network = network
        self._stack = stack
        self._latest_run: tuple[list[Floats], list[Floats]] = [], []

    def run(self, staged: Sequence[Floats]) -> list[Floats]:
        """Return both heads' log-odds, (K, 2), of each that was staged."""
        states, found = self._latest_run
        if len(states) != len(staged) or any(one is not other for one, other in zip(states, staged, strict=True)):
            found = self._stack([{INPUT: state} for state in staged], OUTPUT)
            self._latest_run = list(staged), found
        return found

    def _stage(self, request: Int64s, chosen: Int64s) -> Floats:
        state = self._network.blank(len(chosen))  # it outlives the next impression's
        self._network.state(request, chosen, state)
        return state


class PreparedHead:
    """One head's log-odds of ads of a fixed table. One thread at a time."""

    def __init__(self, both: Both, head: int) -> None:
        self._both = both
        self._head = head

    def logits(self, request: Int64s, chosen: Int64s) -> Floats:
        """Return log-odds, float32 (K,), as PreparedNetwork.logits does."""
        return self._both.find(request, chosen)[:, self._head]


class BatchedHead(PreparedHead):
    """A head that can also be asked of several impressions at once: `stage` here, `run` in another thread."""

    def __init__(self, both: Both, head: int, staging: Staging) -> None:
        super().__init__(both, head)
        self._staging = staging

    def stage(self, request: Int64s, chosen: Int64s) -> Floats:
        """Return the graph's input for a request row (R,) and K rows of the table."""
        return self._staging.find(request, chosen)

    def run(self, staged: Sequence[Floats]) -> list[Floats]:
        """Return the log-odds, float32 (K,), of each impression that was staged."""
        return [found[:, self._head] for found in self._staging.run(staged)]
