"""When training runs ended, and how: what whoever watches the registry can tell of them without any training code."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from dsp.kernel.clock import MS_PER_SECOND

#: Below the registry's root; each run has a folder there, and this file in it once it is over.
FOLDER, END = "runs", "end.json"


class LastEnds(NamedTuple):
    """Unix seconds; 0.0 where no run that is kept ended so."""

    well: float = 0.0
    badly: float = 0.0


class _End(msgspec.Struct, frozen=True):
    """The part of a run's end that tells whether it failed; what it found is the trainer's."""

    fault: str = ""


def last_ends(root: Path) -> LastEnds:
    """Return when the registry's last runs ended. What cannot be read is no run: it may be being written or removed."""
    ends = LastEnds()
    for path in root.glob(f"{FOLDER}/*/{END}"):
        try:
            seconds = path.stat().st_mtime_ns / 1_000_000 / MS_PER_SECOND
            failed = bool(msgspec.json.decode(path.read_bytes(), type=_End).fault)
        except (OSError, msgspec.DecodeError):
            continue
        ends = ends._replace(badly=max(ends.badly, seconds)) if failed else ends._replace(well=max(ends.well, seconds))
    return ends
