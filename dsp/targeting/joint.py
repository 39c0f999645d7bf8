"""Groups of conditions folded into one row, worked out once for all that have in common what the group looks at."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Generic, TypeVar

from dsp.targeting import bitmap
from dsp.targeting.bitmap import Words
from dsp.targeting.rows import Conditions

Asked = TypeVar("Asked", contravariant=True)

#: What the rows of one group may take, and their number where rows are short: a key takes memory as well.
_BYTES_MAX = 4_000_000
_ROWS_MAX = 4_096
#: Spellings of keys that are kept, and how long one may be: strangers decide what is sent.
_SPELLINGS_MAX = 8_192
_SPELLING_CHARS_MAX = 1_024


class Group(ABC, Generic[Asked]):
    """Conditions on `size` members. Rows are kept by key, and found by what was asked; all go when they grow too many.

    A key is made of what makes a difference to some member. What was asked, as it is, finds the row without making it.
    """

    def __init__(self, size: int) -> None:
        self._everyone = bitmap.ones(size)
        self._rows: dict[Hashable, Words] = {}
        self._rows_max = max(1, min(_ROWS_MAX, _BYTES_MAX // self._everyone.nbytes))
        self._spelled: dict[Hashable, Words] = {}

    def row(self, asked: Asked) -> Words:
        """Return the members for which all conditions hold, to read. One object while the key is kept."""
        spelling = self.spelling(asked)
        row = self._spelled.get(spelling)
        if row is None:
            row = self._row(asked)
            if len(self._spelled) >= _SPELLINGS_MAX:
                self._spelled.clear()
            if len(repr(spelling)) <= _SPELLING_CHARS_MAX:
                self._spelled[spelling] = row
        return row

    def _row(self, asked: Asked) -> Words:
        key = self.key(asked)
        row = self._rows.get(key)
        if row is None:
            out = Conditions()
            self.require(asked, out)
            row = out.intersection() if out.rows else self._everyone
            if len(self._rows) >= self._rows_max:
                self._rows.clear()
                self._spelled.clear()
            self._rows[key] = row
        return row

    @abstractmethod
    def spelling(self, asked: Asked) -> Hashable:
        """Return all that the group looks at, as it was asked."""

    @abstractmethod
    def key(self, asked: Asked) -> Hashable:
        """Return a key that is equal only where the conditions are."""

    @abstractmethod
    def require(self, asked: Asked, out: Conditions) -> None:
        """Add the conditions that can bind, one by one with their reasons."""
