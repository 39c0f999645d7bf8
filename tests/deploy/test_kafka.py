"""The broker for development: what fetches its jars is heard of only where it fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "deploy/dev/kafka"


@pytest.mark.parametrize("status", [0, 1])
def test_maven_is_heard_of_only_where_it_fails(status: int, tmp_path: Path) -> None:
    """It ends the colours of a terminal whether or not there is one, which made a drill's JSON unreadable."""
    folder = tmp_path / "deploy/dev/kafka"
    shutil.copytree(SOURCE, folder)
    maven = tmp_path / "mvn"
    maven.write_text(f"#!/bin/sh\nprintf '\\033[0m'\necho offline >&2\nexit {status}\n")
    maven.chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(folder / "broker.py"), "fetch"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0, done.stdout) == (status == 0, "")
    assert ("RuntimeError: jars not fetched" in done.stderr, "offline" in done.stderr) == (status == 1, status == 1)
