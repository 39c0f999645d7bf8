"""Remember what is made of values that strangers send, within bounds on number and on size."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Remembered(Generic[Key, Made]):
    """A pure function of one argument whose results are kept by it; all are forgotten when they grow too many."""

    __slots__ = ("_chars_max", "_entries_max", "_kept", "_make")

    def __init__(self, make: Callable[[Key], Made], *, entries_max: int = 4_096, chars_max: int = 2_048) -> None:
        self._make = make
        self._entries_max = entries_max
        self._chars_max = chars_max
        self._kept: dict[Key, Made] = {}

    def __call__(self, key: Key) -> Made:
        """Return what is made of `key`; keep it unless the key, written out, is longer than the bound."""
        made = self._kept.get(key)
        if made is None:
            made = self._make(key)
            if len(repr(key)) <= self._chars_max:
                if len(self._kept) >= self._entries_max:
                    self._kept.clear()
                self._kept[key] = made
        return made
