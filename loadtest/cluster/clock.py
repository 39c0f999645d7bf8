"""The clock of the platform's processes, which a drill sets ahead by libfaketime (deploy/dev/unpack libfaketime)."""

from collections.abc import Mapping
from pathlib import Path

from loadtest.platform import ROOT

_PLACES = (ROOT / ".tools" / "libfaketime", Path("/"))
_LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"


class Clock:
    """Time as the processes see it that are given `settings`; monotonic time is left alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._library = next((found for place in _PLACES for found in place.glob(_LIBRARY)), None)
        self.ahead(0)

    @property
    def missing(self) -> str:
        """Return why it cannot be set, or ""."""
        return "" if self._library is not None else "no libfaketime: deploy/dev/unpack libfaketime"

    @property
    def settings(self) -> Mapping[str, str]:
        """Return the environment of processes that live by this clock."""
        if self._library is None:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds; looking at every call would cost more than most calls
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def ahead(self, seconds: int) -> None:
        """Set it so far ahead, within about a second."""
        self._file.write_text(f"+{seconds}\n", encoding="ascii")
