"""What every process tells of itself by its metrics: its settings, its version, and the room left on its disk."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from math import nan
from pathlib import Path
from typing import cast

import msgspec

from dsp.kernel import config, metrics
from dsp.kernel.config import Platform


def describe(settings: Mapping[str, msgspec.Struct]) -> None:
    """Set the metrics that all processes have alike. The disk is looked at whenever somebody asks for metrics."""
    platform = cast(Platform, settings["platform"])
    metrics.CONFIG.info({"hash": config.digest(settings)})
    metrics.BUILD.info({"version": version("dsp")})
    metrics.DISK.set_function(lambda: _room(platform.data_path)[0])
    metrics.DISK_FREE.set_function(lambda: _room(platform.data_path)[1])


def _room(folder: Path) -> tuple[float, float]:
    """Return the bytes of the file system that a folder is on, and those that are left for us; not a number if unknown.

    A process that keeps everything on servers may have no folder.
    """
    try:
        found = os.statvfs(folder)
    except OSError:
        return nan, nan
    return float(found.f_blocks * found.f_frsize), float(found.f_bavail * found.f_frsize)
