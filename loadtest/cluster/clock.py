"""The wall clock of the platform's processes, which a drill sets ahead while they run."""

import os
from collections.abc import Mapping
from pathlib import Path

from loadtest.cluster.skew.sitecustomize import CLOCK_FILE


class Clock:
    """Time as the processes see it that are given `settings`; monotonic time is left alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.ahead(0)

    @property
    def settings(self) -> Mapping[str, str]:
        """Return the environment of processes that live by this clock."""
        paths = [str(Path(__file__).parent / "skew"), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), CLOCK_FILE: str(self._file)}

    def ahead(self, seconds: int) -> None:
        """Set it so far ahead, within about a second."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(str(seconds), encoding="ascii")
        draft.replace(self._file)  # whole, for those who read it just then
