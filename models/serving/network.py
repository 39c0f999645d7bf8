"""The network at serving: raw rows to log-odds, the first layers' work done once a request and once an ad.

What the graph takes is a row of state: the shares of the inputs x0 (x0 times a matrix, plus a bias). State is a sum:
the ad's row, made once for each ad of a snapshot, the request's, made once a request, and what the few inputs add that
look at both.
"""

import mmap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.serving import npz
from models.serving.embedding import Floats, Inputs, Int64s, Layout, Tables, getter
from models.serving.keys import Finder, MatchCounts, Shared
from models.serving.predictor import Asked
from models.serving.session import CPU, Device, Memory, Session
from models.serving.shares import RequestShares
from models.serving.stack import Stack
from models.serving.statistics import Columns

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
#: Several impressions are run together in a multiple of so many rows.
_ROWS_STEP = 32
#: Spreads small numbers over 64 bits.
_ODD = np.int64(0x1E3779B97F4A7C15)
#: Impressions remembered, for who comes after.
_ASKED = 512
#: Of what is worked out ahead, so many ads and so many requests at a time: each takes up to half a millisecond.
_ADS_AHEAD, _REQUESTS_AHEAD = 64, 8


class Shares(NamedTuple):
    """What is linear in the inputs: inputs @ matrix + bias; matrix (D, S), bias (S,)."""

    matrix: Floats
    bias: Floats


class NetworkModel:
    """The logits of both heads, of rows of any kind or prepared for a table of ads."""

    def __init__(self, model: bytes, inputs: Inputs, shares: Shares, device: Device = CPU) -> None:
        if shares.matrix.shape != (inputs.layout.width, len(shares.bias)):
            raise ValueError(f"shares of {shares.matrix.shape} do not fit {inputs.layout.width} inputs")
        self.session = Session(model, device.provider)
        if self.session.input_width != len(shares.bias):
            raise ValueError(f"the graph takes {self.session.input_width} columns, not {len(shares.bias)}")
        self.inputs = inputs
        self.shares = shares
        self.request_shares = RequestShares(inputs.layout.request, inputs.tables, shares.matrix[: inputs.request.width])
        self.stack = Stack.on(device, self.session)

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return logits before calibration, float64 (n, 2), of request rows (n or 1, R) and ad rows (n, A)."""
        found = np.empty((len(ads), HEADS))
        for start in range(0, len(ads), _CHUNK_ROWS):
            part = slice(start, start + _CHUNK_ROWS)
            inputs = self.inputs(requests[part] if len(requests) > 1 else requests, ads[part])
            found[part] = self.session.run(inputs @ self.shares.matrix + self.shares.bias)
        return found

    def prepare(self, ads: Int64s) -> "PreparedNetwork":
        """Return what scores ads of this table, (C, A)."""
        return PreparedNetwork(self, ads)


def restore(files: Mapping[str, bytes], device: Device = CPU) -> NetworkModel:
    """Return the model of a bundle's files.

    Raises:
        KeyError: a file or an array is missing.
        ValueError: the files do not fit each other.
    """
    layout = msgspec.json.decode(files[LAYOUT], type=Layout)
    arrays = npz.read(files[ARRAYS])
    tables = Tables(*(arrays[name] for name in Tables._fields))
    shares = Shares(*(arrays[name] for name in Shares._fields))
    return NetworkModel(files[GRAPH], Inputs(layout, tables), shares, device)


def _untouched(rows: int, width: int) -> Floats:
    """Return zeros that take memory where they are written to; the allocator's may be used memory that is cleared."""
    memory = mmap.mmap(-1, max(1, 4 * rows * width), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.float32, rows * width).reshape(rows, width)


def _said(ads: Int64s) -> Int64s:
    """Return a number for all that an ad says, (n,), of rows (n, A): seldom the same of two that differ."""
    factors: Int64s = np.arange(1, 1 + ads.shape[1]) * _ODD
    said: Int64s = (ads * factors).sum(axis=1)
    return said


class Sheet(NamedTuple):
    """Memory for K candidates: their rows of the table of ads, parts of those, and what is added to their states."""

    taken: Floats
    sought: Int64s  # (K, U), what is looked for in what is remembered of the user
    queries: Floats  # (K, history's width)
    states: Floats  # (K, S), the ads' part
    made: Floats  # (K, 1), 1 where the row has been worked out
    factors: Floats  # (K, 1 + matches + impressions): the first is 1
    added: Floats  # (K, S)


class PreparedNetwork:
    """The logits of ads of a fixed table. One thread at a time: memory for K rows is kept and used again.

    What an ad says alone is worked out when it is first asked for: preparing costs next to nothing, so bids need not
    wait for it, and of a large catalogue only what comes up takes memory. All of it lies in one row of a table: 4 S
    bytes, 8 for each column that is matched, 4 for each number that attends to the history.

    What is added to an ad's state is a sum over the request's share, which counts for one, the matches' shares and the
    impressions', which count for what the ad makes of them.
    """

    def __init__(self, model: NetworkModel, ads: Int64s) -> None:
        inputs, (matrix, bias) = model.inputs, model.shares
        layout = inputs.layout
        self._session = model.session
        of_ad = slice(layout.request.width, layout.request.width + layout.ad.width)
        of_matches = slice(of_ad.stop, of_ad.stop + len(layout.matches))
        self._ads = ads
        self._ad_inputs = inputs.ad
        self._ad_shares, self._bias = matrix[of_ad], bias
        self._request_shares = model.request_shares
        self._history_shares = np.ascontiguousarray(matrix[of_matches.stop :])
        self._history = inputs.history
        self._counts = MatchCounts(layout.matches, Columns(layout.request.columns, layout.ad.columns))
        self._held = getter(self._counts.held.tolist())
        most = max((len(match.request) for match in layout.matches), default=0)
        self._logs = np.log1p(np.arange(most + 1)).astype(np.float32)  # of every count there can be
        # Of the request, the matches, the impressions.
        impressions = len(layout.history.ids) if layout.history else 0
        self._shares = np.zeros((1 + len(layout.matches) + impressions, len(bias)), dtype=np.float32)
        self._row = self._shares[0]
        self._matched = slice(1, 1 + len(layout.matches))
        self._shares[self._matched] = matrix[of_matches]
        ends = np.cumsum([2 * len(self._counts.used), layout.history_width, len(bias), 1])
        self._parts = [slice(start, end) for start, end in pairwise([0, *ends.tolist()])]
        # Whole words a row, for what is sought.
        self._table = _untouched(len(ads), int(ends[-1] + ends[-1] % 2))
        self._sheets: dict[int, Sheet] = {}
        self._bound: dict[int, tuple[Memory, Floats, Floats]] = {}
        self._asked: deque[Asked] = deque(maxlen=_ASKED)

    def logits(self, request: Int64s, chosen: Int64s) -> Floats:
        """Return logits, float32 (K, 2), of a request row (R,) and K rows of the table; the next call overwrites them.

        K is 1 or more.
        """
        memory, states, logits = self._bound.get(len(chosen)) or self._bind(len(chosen))
        self.state(request, chosen, states)
        memory()
        return logits

    def logits_of_all(self, asked: Sequence[Asked]) -> Floats:
        """Return the logits, float32 (n, 2), of several impressions in one run; the next call overwrites them."""
        rows = sum(len(chosen) for _, chosen in asked)
        padded = rows + -rows % _ROWS_STEP  # memory for some numbers of rows serves them all
        memory, states, logits = self._bound.get(padded) or self._bind(padded)
        start = 0
        for request, chosen in asked:
            end = start + len(chosen)
            self.state(request, chosen, states[start:end])
            start = end
        memory()
        return logits[:rows]

    def state(self, request: Int64s, chosen: Int64s, out: Floats) -> None:
        """Write the graph's input, float32 (K, S), of a request row (R,) and K rows of the table."""
        self._asked.append((request, chosen))
        sheet = self._sheets.get(len(chosen)) or self._blank(len(chosen))
        self._table.take(chosen, 0, sheet.taken, "clip")  # with any other mode numpy copies once more
        if np.count_nonzero(sheet.made) < len(chosen):
            self._make(np.unique(chosen.compress(sheet.made[:, 0] == 0.0)))
            self._table.take(chosen, 0, sheet.taken, "clip")
        values = request.tolist()
        self._request_shares(request, values, self._row)
        terms = self._look(request, values, sheet)
        if terms == 1:
            np.add(sheet.states, self._row, out)
        else:
            np.dot(sheet.factors[:, :terms], self._shares[:terms], sheet.added)
            np.add(sheet.states, sheet.added, out)

    def follow(self, before: "PreparedNetwork") -> Iterator[None]:
        """Work out the ads that another was asked for last, as far as they say the same in both tables, and the
        requests' shares; see models.serving.predictor.Follower. Before this one is asked itself.
        """
        asked = list(before._asked)
        if not asked:
            return
        wanted = before._ads.take(np.concatenate([chosen for _, chosen in asked]), 0)
        rows = np.isin(_said(self._ads), _said(wanted)).nonzero()[0]
        rows = rows.compress(self._table[rows, self._parts[-1].start] == 0.0)
        if not len(rows):  # it has followed before
            return
        for start in range(0, len(rows), _ADS_AHEAD):
            self._make(rows[start : start + _ADS_AHEAD])
            yield
        for size in list(before._bound):  # the first run for a number of rows takes longer
            memory, _, _ = self._bind(size)
            memory()
            yield
        if self._request_shares is before._request_shares:  # which is asked meanwhile, and knows them
            return
        for start in range(0, len(asked), _REQUESTS_AHEAD):
            for request, _ in asked[start : start + _REQUESTS_AHEAD]:
                self._request_shares(request, request.tolist(), self._row)
            yield

    def _make(self, rows: Int64s) -> None:
        """Work out rows of the table."""
        ads = self._ads[rows]
        inputs = self._ad_inputs(ads)
        sheet = self._sheet(np.zeros((len(rows), self._table.shape[1]), dtype=np.float32))
        sheet.sought[...] = self._counts.sought(ads)
        if self._history is not None:
            sheet.queries[...] = self._history.queries(inputs)
        np.add(inputs @ self._ad_shares, self._bias, sheet.states)
        sheet.made[...] = 1.0
        self._table[rows] = sheet.taken

    def _look(self, request: Int64s, values: Sequence[int], sheet: Sheet) -> int:
        """Write factors, and shares of impressions, of what looks at request and ad; return how many there are."""
        vectors = None if self._history is None else self._history.one(request, values)
        if any(self._held(values)):  # absent values (0) are no match
            counts = self._counts(request.take(self._counts.held), sheet.sought)
            sheet.factors[:, self._matched] = self._logs.take(counts)
        elif vectors is None:
            return 1
        else:
            sheet.factors[:, self._matched] = 0.0
        if vectors is None or self._history is None:
            return self._matched.stop
        terms = self._matched.stop + len(vectors)
        weights = self._history.weights(sheet.queries @ vectors.T)
        sheet.factors[:, self._matched.stop : terms] = weights
        np.dot(vectors, self._history_shares, self._shares[self._matched.stop : terms])
        return terms

    def _sheet(self, taken: Floats) -> Sheet:
        """Return the parts of rows of the table, with memory for what is added to them."""
        sought, queries, states, made = (taken[:, part] for part in self._parts)
        factors = np.ones((len(taken), len(self._shares)), dtype=np.float32)
        return Sheet(taken, sought.view(np.int64), queries, states, made, factors, self.blank(len(taken)))

    def _blank(self, rows: int) -> Sheet:
        self._sheets[rows] = self._sheet(np.zeros((rows, self._table.shape[1]), dtype=np.float32))
        return self._sheets[rows]

    def _bind(self, rows: int) -> tuple[Memory, Floats, Floats]:
        states = np.zeros((rows, self._shares.shape[1]), dtype=np.float32)
        memory = self._session.bind(states)
        self._bound[rows] = memory, states, memory.output
        return self._bound[rows]

    def blank(self, rows: int) -> Floats:
        """Return memory for the state of K candidates."""
        return np.empty((rows, self._shares.shape[1]), dtype=np.float32)


class NetworkHead:
    """One head's log-odds, at the price of both; the other head of the same network then costs nothing."""

    def __init__(self, network: NetworkModel, head: int) -> None:
        self.network = network
        self.head = head

    def logits(self, requests: Int64s, ads: Int64s) -> NDArray[np.float64]:
        """Return log-odds, float64 (n,), of request rows (n or 1, R) and ad rows (n, A)."""
        return self.network.logits(requests, ads)[:, self.head]

    def prepare(self, ads: Int64s, shared: Shared) -> "PreparedHead":
        """Return what gives the log-odds of ads of this table, (C, A)."""
        stack = self.network.stack
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
            found = self._stack(staged)
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
        self.head = head

    @property
    def network(self) -> PreparedNetwork:
        """Return the network whose head it is."""
        return self._both.network

    def follow(self, before: object) -> Iterator[None]:
        """Work out what the network of another head was asked last; the second head of one finds it worked out."""
        if isinstance(before, PreparedHead) and self.network is not before.network:
            yield from self.network.follow(before.network)

    def logits(self, request: Int64s, chosen: Int64s) -> Floats:
        """Return log-odds, float32 (K,), as PreparedNetwork.logits does."""
        return self._both.find(request, chosen)[:, self.head]


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
        return [found[:, self.head] for found in self._staging.run(staged)]
