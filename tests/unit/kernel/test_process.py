"""What every process tells of itself."""

import os
from math import isnan
from pathlib import Path

from prometheus_client import REGISTRY

from dsp.kernel import process
from dsp.kernel.config import Platform


def told(name: str) -> float:
    value = REGISTRY.get_sample_value(name)
    assert value is not None
    return value


def test_the_disk_of_data_dir_is_told_as_it_is_now(tmp_path: Path) -> None:
    process.describe({"platform": Platform(data_dir=str(tmp_path))})
    found = os.statvfs(tmp_path)
    assert told("dsp_data_dir_disk_bytes") == found.f_blocks * found.f_frsize
    assert 0 < told("dsp_data_dir_disk_free_bytes") <= told("dsp_data_dir_disk_bytes")


def test_a_process_without_a_data_dir_still_shows_its_metrics(tmp_path: Path) -> None:
    process.describe({"platform": Platform(data_dir=str(tmp_path / "none"))})
    assert isnan(told("dsp_data_dir_disk_free_bytes"))
    assert isnan(told("dsp_data_dir_disk_bytes"))
