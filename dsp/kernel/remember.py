"""Remember what is made of values that strangers send, within bounds on number and on size."""

from collections.abc import Callable, Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Remembered(dict[Key, Made]):
    """A pure function of one argument by its results: `squares[7]`. All are forgotten when they grow too many.

    A dictionary that makes what it lacks, so that finding something again takes no code of ours.
    """

    __slots__ = ("_chars_max", "_entries_max", "_make")

    def __init__(self, make: Callable[[Key], Made], *, entries_max: int = 4_096, chars_max: int = 2_048) -> None:
        super().__init__()
        self._make = make
        self._entries_max = entries_max
        self._chars_max = chars_max

    def __missing__(self, key: Key) -> Made:
        """Return what is made of `key`; keep it unless the key, written out, is longer than the bound."""
        made = self._make(key)
        if len(repr(key)) <= self._chars_max:
            if len(self) >= self._entries_max:
                self.clear()
            self[key] = made
        return made
