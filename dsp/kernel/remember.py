"""Remember what is made of values that strangers send, within bounds on number and on size."""

from collections.abc import Callable, Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Remembered(dict[Key, Made]):
    """A pure function of one argument by its results: `squares[7]`. All are forgotten when they grow too many.

    A dictionary that makes what it lacks, so that finding something again takes no code of ours.

    Args:
        chars_max: of a key, written out; what is made of a longer one is not kept.
        kept_chars_max: of all keys. A list of short names takes thirty bytes a character and more: as many entries as
            there may be, each as long as one may be, would fill the machine.
    """

    __slots__ = ("_chars", "_chars_max", "_entries_max", "_kept_chars_max", "_make")

    def __init__(
        self,
        make: Callable[[Key], Made],
        *,
        entries_max: int = 4_096,
        chars_max: int = 2_048,
        kept_chars_max: int = 1_000_000,
    ) -> None:
        super().__init__()
        self._make = make
        self._entries_max = entries_max
        self._chars_max = chars_max
        self._kept_chars_max = kept_chars_max
        self._chars = 0

    def __missing__(self, key: Key) -> Made:
        """Return what is made of `key`; keep it unless the key, written out, is longer than the bound."""
        made = self._make(key)
        chars = len(repr(key))
        if chars <= self._chars_max:
            self._chars += chars
            if len(self) >= self._entries_max or self._chars > self._kept_chars_max:
                self.clear()
                self._chars = chars
            self[key] = made
        return made
