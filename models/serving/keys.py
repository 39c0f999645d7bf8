"""What models read of an impression and its candidates, made once for all models that read the same.

Keys of values and pairs of values (models.serving.statistics says how they are made), and how often an ad matches what
is remembered of the user.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from models.features.spec import Group, Match
from models.serving.statistics import Columns, Slots, UInt64s

Int64s = NDArray[np.int64]
T = TypeVar("T")

#: Held by no row: the encoder bounds numbers above it.
_NO_VALUE = np.iinfo(np.int64).min


class Finder(Generic[T]):
    """Finds something of a request row (R,) and K rows of a table of ads, K at least 1; one thread at a time.

    Where several models ask in turn, what was found last is remembered by the numbers that were asked about: their
    arrays may be used again for others.
    """

    def __init__(self, find: Callable[[Int64s, Int64s], T]) -> None:
        self.find = find

    def remember(self) -> None:
        """From now on, do not find the same again."""
        if not isinstance(self.find, _Remembered):
            self.find = _Remembered(self.find)


class _Remembered(Generic[T]):
    """What was found last. Apart from the finder: a cycle would keep tables of megabytes until the collector comes."""

    def __init__(self, find: Callable[[Int64s, Int64s], T]) -> None:
        self._find = find
        self._latest_of = b""
        self._latest: T | None = None

    def __call__(self, request: Int64s, chosen: Int64s) -> T:
        asked = request.tobytes() + chosen.tobytes()
        if asked != self._latest_of:
            self._latest_of = b""  # finding may fail half-way, in memory that held what was found before
            self._latest = self._find(request, chosen)
            self._latest_of = asked
        return cast(T, self._latest)


F = TypeVar("F", bound=Finder[Any])


class Shared:
    """Finders for a table of ads, one for all models that ask for the same."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, what: Hashable, make: Callable[[], F]) -> F:
        """Return the finder that is known by this name; it is made where there is none."""
        if what not in self._made:
            self._made[what] = make()
        else:
            self._made[what].remember()
        return cast(F, self._made[what])


class MatchCounts:
    """Counts how many of a request's columns hold an ad's value; absent values (0) are no match.

    Of one request's candidates, for which whoever asks keeps what the ads look for, or of any rows.
    """

    def __init__(self, matches: Sequence[Match], columns: Columns) -> None:
        held = [columns.request.index(name) for match in matches for name in match.request]
        #: The request's columns that are compared, (W,): match after match.
        self.held = np.array(held, dtype=np.intp)
        self._starts = np.cumsum([0, *(len(match.request) for match in matches)], dtype=np.intp)[:-1]
        compared = [columns.ad.index(match.ad) for match in matches for _ in match.request]
        #: The ads' columns that are compared, (U,): many of the request's are compared with one of the ad's.
        self.used = np.unique(np.array(compared, dtype=np.intp))
        self._places = self.used.searchsorted(compared)

    def sought(self, ads: Int64s) -> Int64s:
        """Return what ads (n, A) look for, (n, U)."""
        # Rows lie together: numpy indexes columns into the other order, of which `take` copies the whole table.
        sought = ads.take(self.used, 1)
        sought[sought == 0] = _NO_VALUE
        return sought

    def __call__(self, seen: Int64s, sought: Int64s) -> Int64s:
        """Return the counts (K, M) of the values held, (W,) or (K, W), in what K ads look for (K, U)."""
        matching = sought.take(self._places, 1) == seen
        return np.add.reduceat(matching.view(np.int8), self._starts, 1, np.int64)

    def of_rows(self, requests: Int64s, ads: Int64s) -> Int64s:
        """Return the counts (n, M) of request rows (n or 1, R) and ad rows (n, A)."""
        return self(requests.take(self.held, 1), self.sought(ads))


class Found(NamedTuple):
    """One impression's half of all keys, and matches of its K candidates. The next impression overwrites the halves.

    `sought` holds the keys of the request alone and of the pairs, one after the other: what is looked up lies together.
    """

    halves: UInt64s  # (P + S,), of the slots that look at both sides, then those that look at the request alone: whole
    counts: Int64s | None  # (K, M), of each match; None where nothing is remembered that could match
    pairs: UInt64s  # (K, P), memory for the pairs' keys
    sought: UInt64s  # (S + K P,)


class PreparedKeys(Finder[Found]):
    """Finds the keys of one request's values and their pairs with those of ads of a fixed table (C, A).

    Memory for K rows is kept and used again. It takes 8 bytes an ad, and slot of pairs or column
    that is matched.
    """

    def __init__(
        self, of_request: Sequence[Group], of_both: Sequence[Group], matches: Sequence[Match], columns: Columns,
        ads: Int64s,
    ) -> None:  # fmt: skip
        self._slots = Slots([*of_request, *of_both], columns)
        self.ad_keys = self._slots.ad_keys(ads)  # (C, P), the ads' half of the pairs' keys
        self._counts = MatchCounts(matches, columns)
        self._sought = self._counts.sought(ads)
        self._bound: dict[int, Found] = {}
        super().__init__(self._halves)

    @classmethod
    def of(
        cls, groups: Sequence[Group], matches: Sequence[Match], columns: Columns, ads: Int64s, shared: Shared
    ) -> "PreparedKeys":
        """Return the keys of those of the groups that look at a request, for ads of this table, (C, A)."""
        of_request = tuple(group for group in groups if not group.ad)
        of_both = tuple(group for group in groups if group.ad and group.request)
        told = (of_request, of_both, tuple(matches), columns)
        return shared.once((cls, *told), lambda: cls(*told, ads))

    @property
    def starts(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the first slot of each group: of those of the request alone, and among the pairs."""
        slots = self._slots
        return slots.starts[: slots.shared_groups], slots.starts[slots.shared_groups :] - slots.shared

    def whole(self, found: Found, chosen: Int64s) -> UInt64s:
        """Return the keys of the request alone, (S,), then those of the pairs of K candidates, in one array."""
        pairs = found.pairs
        self.ad_keys.take(chosen, 0, pairs, "clip")  # with any other mode numpy copies once more
        pairs ^= found.halves[: pairs.shape[1]]
        return found.sought

    def _halves(self, request: Int64s, chosen: Int64s) -> Found:
        found = self._bound.get(len(chosen)) or self._bind(len(chosen))
        self._slots.request_keys(request, found.halves)
        seen = request.take(self._counts.held)
        if not np.count_nonzero(seen):  # absent values (0) are no match
            return found
        return found._replace(counts=self._counts(seen, self._sought.take(chosen, 0)))

    def _bind(self, rows: int) -> Found:
        pairs, shared = self.ad_keys.shape[1], self._slots.shared
        keys = np.zeros(pairs + shared + rows * pairs, dtype=np.uint64)
        found = Found(keys[: pairs + shared], None, keys[pairs + shared :].reshape(rows, pairs), keys[pairs:])
        self._bound[rows] = found
        return found
