"""When training runs ended is told from their folders, as the trainer writes them."""

import os
from pathlib import Path

from dsp import registry
from dsp.registry.runs import FOLDER
from models.training import runs

HOUR_MS = 3_600_000


def end(root: Path, started_ms: int, found: dict[str, str], at_seconds: float) -> None:
    run = runs.begin(root / FOLDER, started_ms, "identity", 1.0)
    run.end(found)
    os.utime(run.folder / runs.END, (at_seconds, at_seconds))


def test_the_last_good_and_the_last_bad_end_are_told_apart(tmp_path: Path) -> None:
    assert registry.last_ends(tmp_path) == (0.0, 0.0)
    end(tmp_path, 1 * HOUR_MS, {"result": "published"}, 1_000.0)
    end(tmp_path, 2 * HOUR_MS, {"result": "refused"}, 2_000.0)  # no new champion, but no failure
    assert registry.last_ends(tmp_path) == (2_000.0, 0.0)
    end(tmp_path, 3 * HOUR_MS, {"fault": "OSError: disk full"}, 3_000.0)
    runs.begin(tmp_path / FOLDER, 4 * HOUR_MS, "identity", 1.0)  # still going on
    assert registry.last_ends(tmp_path) == (2_000.0, 3_000.0)


def test_a_broken_end_is_none(tmp_path: Path) -> None:
    end(tmp_path, HOUR_MS, {"result": "published"}, 1_000.0)
    end(tmp_path, 2 * HOUR_MS, {"result": "published"}, 2_000.0)
    newest = sorted((tmp_path / FOLDER).iterdir())[-1]
    (newest / runs.END).write_bytes(b"{")
    assert registry.last_ends(tmp_path) == (1_000.0, 0.0)
