"""A run's folder: what each step made and found, so that a run that was killed goes on where it stopped."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dsp.kernel.clock import MS_PER_HOUR
from dsp.kernel.files import replace
from dsp.registry.runs import END

_RUN = "run.json"


class _Begun(msgspec.Struct, frozen=True):
    """run.json. `identity` is of the settings and feature definitions: with others a run cannot go on."""

    started_ms: int
    identity: str


class Run:
    """One run. Files appear whole or not at all and survive a power cut; a step is done once its findings are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started_ms = msgspec.json.decode((folder / _RUN).read_bytes(), type=_Begun).started_ms

    def found(self, step: str) -> dict[str, Any] | None:
        """Return what a step found, or None while it is not done."""
        try:
            return msgspec.json.decode((self.folder / f"{step}.json").read_bytes(), type=dict[str, Any])
        except FileNotFoundError:
            return None

    def done(self, step: str, findings: Mapping[str, Any]) -> None:
        """Write down what a step found; it is not run again."""
        self.write(f"{step}.json", msgspec.json.format(msgspec.json.encode(findings), indent=1))

    def write(self, name: str, data: bytes) -> None:
        """Write a file of this name, which may be in a folder below."""
        replace(self.folder / name, data)

    def end(self, findings: Mapping[str, Any]) -> None:
        """Mark the run as over, well or badly: nobody goes on with it."""
        self.write(END, msgspec.json.encode(findings))


def begin(root: Path, now_ms: int, identity: str, hours_max: float) -> Run:
    """Return the latest run if it can go on: not over, of the same identity and not too old; otherwise a new one."""
    folders = _folders(root)
    if folders and not (folders[-1] / END).exists():
        begun = _begun(folders[-1])
        if begun is not None and begun.identity == identity and now_ms - begun.started_ms <= hours_max * MS_PER_HOUR:
            return Run(folders[-1])
    name = f"{datetime.fromtimestamp(now_ms // 1_000, UTC):%Y%m%dT%H%M%S}"
    number = sum(folder.name.startswith(name) for folder in folders)
    folder = root / f"{name}-{number:03d}"
    replace(folder / _RUN, msgspec.json.encode(_Begun(now_ms, identity)))
    return Run(folder)


def prune(root: Path, keep: int) -> None:
    """Remove all but the latest `keep` runs."""
    for folder in _folders(root)[:-keep]:
        shutil.rmtree(folder)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[0-9]*T*-*") if path.is_dir())


def _begun(folder: Path) -> _Begun | None:
    try:
        return msgspec.json.decode((folder / _RUN).read_bytes(), type=_Begun)
    except (OSError, msgspec.DecodeError):  # it had not begun properly
        return None
