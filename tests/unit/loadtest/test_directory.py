"""The demo removes what a demo has left, and nothing else; two demos do not share a directory."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from dsp.kernel import locks
from loadtest.directory import DEMO_LOCK, taken
from loadtest.platform import Platform, PlatformError


def left_by_a_demo(directory: Path) -> Path:
    with taken(directory):
        Platform(directory)
        (directory / "report.json").write_text("{}", encoding="utf-8")
    return directory


def test_what_an_earlier_demo_left_is_removed(tmp_path: Path) -> None:
    left_by_a_demo(tmp_path / "demo")
    with taken(tmp_path / "demo"):
        assert [one.name for one in (tmp_path / "demo").iterdir()] == [DEMO_LOCK]


def test_a_demo_that_was_killed_before_it_wrote_anything_is_in_nobodys_way(tmp_path: Path) -> None:
    for _ in range(2):
        with taken(tmp_path):
            pass


def test_what_an_earlier_release_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "up.lock").touch()
    with taken(tmp_path):
        assert [one.name for one in tmp_path.iterdir()] == [DEMO_LOCK]


@pytest.mark.parametrize("name", ["thesis.tex", "up.lock"])
def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    """`up.lock` alone is the data directory of a platform that no demo has started."""
    (tmp_path / name).touch()
    with pytest.raises(PlatformError, match="no demo has put there"), taken(tmp_path):
        pass
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_second_demo_is_refused_while_the_first_has_the_directory(tmp_path: Path) -> None:
    with taken(tmp_path):
        Platform(tmp_path)  # is being set up: nothing of it runs yet
        with pytest.raises(PlatformError, match="another demo runs"), taken(tmp_path):
            pass
        assert (tmp_path / "logs").is_dir()


def test_a_platform_that_runs_on_what_a_demo_left_is_left_alone(tmp_path: Path) -> None:
    left_by_a_demo(tmp_path)
    held = locks.lock(tmp_path / "up.lock")
    assert held is not None
    with pytest.raises(PlatformError, match="another platform runs"), taken(tmp_path):
        pass
    assert (tmp_path / "report.json").exists()


def test_a_fault_gives_the_directory_back(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), taken(tmp_path):
        raise KeyboardInterrupt
    with taken(tmp_path):
        pass


def test_a_terminal_without_our_characters_shows_others(tmp_path: Path) -> None:
    directory = tmp_path / "börse"
    directory.mkdir()
    (directory / "thesis.tex").touch()
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "demo", "--dir", str(directory)],
        cwd=Path(__file__).parents[3], env={"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"b?rse holds something" in done.stdout
    assert b"Traceback" not in done.stderr
