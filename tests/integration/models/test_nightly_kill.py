"""A nightly run that is killed, at the end of every step or in its middle, goes on where it stopped."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dsp import registry
from models.serving import bundle
from models.training import nightly, runs
from models.training.config import TrainingConfig

STEPS = [*nightly.STEPS]


def start(data_dir: Path, file_bytes_max: int = resource.RLIM_INFINITY) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name != "DSP_CONFIG"}
    env |= {"DSP_PLATFORM_DATA_DIR": str(data_dir), "DSP_TRAINING_MATURITY_SECONDS": "0"}
    # The log is of another year than the clock.
    settings = {"window_days": "20000", "rounds_max": "10", "runs_kept": "1", "log_loss_tolerance": "0.2"}
    env |= {f"DSP_TRAINING_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-W", "error", "-m", "models", "nightly", "--json"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit)


def finish(data_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run to the end; return the answer and the steps."""
    process = start(data_dir)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return json.loads(out), [json.loads(line) for line in err.splitlines()]


def kill(data_dir: Path, last: str | None, wait_seconds: float = 0.0) -> None:
    """Run until a step is done (None: until the run has a folder) and a little longer, then kill."""
    process = start(data_dir)
    assert process.stderr is not None
    if last is None:
        while not list((data_dir / "models" / "runs").glob("*/run.json")):
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()[1]
    else:
        for line in process.stderr:
            if json.loads(line)["step"] == last:
                break
        else:
            pytest.fail("it ended before it was killed")
    time.sleep(wait_seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def logged(write_log: Any, tmp_path: Path) -> Path:
    """A data directory with a training log and no model."""
    write_log(tmp_path / "data" / "training", 2_500)
    return tmp_path / "data"


@pytest.mark.platform
@pytest.mark.timeout(300)
def test_killed_after_each_step_it_ends_as_it_would_have(logged: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(logged, tmp_path / "whole"))
    expected, _ = finish(whole)
    assert expected["result"] == "published"
    for number, last in enumerate((None, *STEPS[:-1])):
        kill(logged, last, 0.15 if number % 2 == 0 and number < 6 else 0.0)  # in the middle of the next, or before it
        champion = registry.resolve(logged / "models", bundle.CHAMPION)
        assert champion is None or bundle.load(logged / "models", champion)
    answer, steps = finish(logged)
    assert [step["step"] for step in steps] == STEPS
    assert all(step.get("resumed") for step in steps[:-1])
    for name in ("result", "ctr", "cvr", "data"):
        assert answer[name] == expected[name]
    root = logged / "models"
    assert registry.resolve(root, bundle.CHAMPION) == answer["champion"]
    assert registry.resolve(root, bundle.PREVIOUS) is None
    assert len(registry.versions(root)) == 2  # the model's and the landscape's
    assert len(list((root / "runs").iterdir())) == 1
    again, steps = finish(logged)  # and once more does no harm
    assert (again["result"], again["champion"]) == ("nothing_new", answer["champion"])
    assert [step["step"] for step in steps] == ["dataset", "landscape", "notify"]
    assert len(list((root / "runs").iterdir())) == 1  # the older one was removed


def test_runs_of_other_settings_too_old_or_failed_are_not_gone_on_with(tmp_path: Path) -> None:
    hour_ms = 3_600_000
    first = runs.begin(tmp_path, 0, "a", 20)
    first.done("dataset", {"rows": 1})
    assert runs.begin(tmp_path, 20 * hour_ms, "a", 20).found("dataset") == {"rows": 1}
    other = runs.begin(tmp_path, hour_ms, "b", 20)
    assert other.found("dataset") is None
    assert runs.begin(tmp_path, 22 * hour_ms, "b", 20).folder != other.folder
    failed = runs.begin(tmp_path, 22 * hour_ms, "b", 20)
    failed.end({"fault": "no"})
    assert runs.begin(tmp_path, 22 * hour_ms, "b", 20).folder != failed.folder  # the same second
    runs.prune(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_had_hardly_begun_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "20250615T000000-000").mkdir()
    assert runs.begin(tmp_path, 1_750_000_000_000, "a", 20).started_ms == 1_750_000_000_000


def test_a_run_that_fails_is_begun_anew(logged: Path) -> None:
    config = TrainingConfig(maturity_seconds=0.0, rounds_max=10, log_loss_tolerance=0.2)

    def full_disk(step: str, found: dict[str, Any]) -> None:
        if step == "train":
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        nightly.run(logged, 1_750_000_082_000, config, full_disk)
    heard: list[bool] = []
    outcome = nightly.run(logged, 1_750_000_083_000, config, lambda step, found: heard.append("resumed" in found))
    assert outcome.result == "published"
    assert not any(heard)


@pytest.mark.platform
def test_a_disk_without_room_is_told_with_the_file_that_it_had_none_for(logged: Path) -> None:
    """And not with the note that the run has failed, for which there is no room either."""
    process = start(logged, file_bytes_max=100)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    told = err.splitlines()[-1]
    assert told.startswith("OSError: ")
    assert "/models/runs/" in told
    assert "end.json" not in told
    answer, _ = finish(logged)
    assert answer["result"] == "published"
