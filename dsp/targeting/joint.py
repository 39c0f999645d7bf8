"""Groups of conditions folded into one row, worked out once for all that have in common what the group looks at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from dsp.catalog.reasons import Exclusion
from dsp.targeting.bitmap import Bits
from dsp.targeting.rows import Conditions

Asked = TypeVar("Asked", contravariant=True)
Kept = TypeVar("Kept", covariant=True)
#: A reason, and the line items that it leaves of any that came so far.
Step = tuple[Exclusion, Bits]

#: What the rows of one group may take, and their number where rows are short: a key takes memory as well.
_BYTES_MAX = 4_000_000
_ROWS_MAX = 4_096
#: Spellings of keys that are kept, how long one may be, and all of them: strangers decide what is sent, and a list of
#: short names takes many times its characters.
_SPELLINGS_MAX = 8_192
_SPELLING_CHARS_MAX = 1_024
SPELLINGS_CHARS_MAX = 1_000_000


def _rows_max(row_bytes: int) -> int:
    return max(1, min(_ROWS_MAX, _BYTES_MAX // max(1, row_bytes)))


class Group(ABC, Generic[Asked, Kept]):
    """Conditions folded into rows of `row_bytes`. Rows are kept by key, and found by what was asked; all go when they
    grow too many.

    A key is made of what makes a difference to some member. What was asked, as it is, finds the row without making it:
    `spelling` returns all that the group looks at, as it was asked.
    """

    def __init__(self, spelling: Callable[[Asked], Hashable], row_bytes: int) -> None:
        self._spelling = spelling
        self._rows: dict[Hashable, Kept] = {}
        self._rows_max = _rows_max(row_bytes)
        self._spelled: dict[Hashable, Kept] = {}
        self._spelled_chars = 0

    def row(self, asked: Asked) -> Kept:
        """Return the members for which all conditions hold. One object while the key is kept."""
        spelling = self._spelling(asked)
        row = self._spelled.get(spelling)
        if row is None:
            row = self._row(asked)
            chars = len(repr(spelling))
            if len(self._spelled) >= _SPELLINGS_MAX or self._spelled_chars + chars > SPELLINGS_CHARS_MAX:
                self._forget()
            if chars <= _SPELLING_CHARS_MAX:
                self._spelled[spelling] = row
                self._spelled_chars += chars
        return row

    def _row(self, asked: Asked) -> Kept:
        key = self.key(asked)
        row = self._rows.get(key)
        if row is None:
            out = Conditions()
            self.require(asked, out)
            row = self.fold(out)
            if len(self._rows) >= self._rows_max:
                self._rows.clear()
                self._forget()
            self._rows[key] = row
        return row

    def _forget(self) -> None:
        self._spelled.clear()
        self._spelled_chars = 0

    @abstractmethod
    def key(self, asked: Asked) -> Hashable:
        """Return a key that is equal only where the conditions are."""

    @abstractmethod
    def require(self, asked: Asked, out: Conditions) -> None:
        """Add the conditions that can bind, one by one with their reasons."""

    @abstractmethod
    def fold(self, conditions: Conditions) -> Kept:
        """Return what is kept of conditions, which may be none."""


class Reasons:
    """Steps, in the order of the funnel, by what they belong to: by identity. All go when they grow too many.

    `row_bytes` is what a step takes.
    """

    def __init__(self, row_bytes: int) -> None:
        self._steps: dict[Hashable, Sequence[Step]] = {}
        self._rows, self._rows_max = 0, _rows_max(row_bytes)

    def lost(self, members: Bits, owner: Hashable, steps: Callable[[], Sequence[Step]]) -> Exclusion:
        """Return the reason that loses the last of `members`; `steps` works out what is not known of the owner.

        All steps together must leave none.
        """
        known = self._steps.get(owner)
        if known is None:
            known = steps()
            self._rows += len(known)
            if self._rows > self._rows_max:
                self._steps, self._rows = {}, len(known)
            self._steps[owner] = known
        for reason, row in known:
            members &= row
            if not members:
                return reason
        raise AssertionError("members are left after steps that leave none")
