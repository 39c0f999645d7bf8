"""The signing key is made once, is private, and every process ends up with the same one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError
from dsp.kernel.keys import signing_keys


def test_made_once_and_private(tmp_path: Path) -> None:
    platform = Platform(data_dir=str(tmp_path))
    first = signing_keys(platform)
    assert first == signing_keys(platform)
    assert len(first[0]) == 32
    assert (tmp_path / "keys" / "signing.key").stat().st_mode & 0o077 == 0


def test_racing_processes_agree(tmp_path: Path) -> None:
    platform = Platform(data_dir=str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: signing_keys(platform)[0], range(32)))
    assert len(set(keys)) == 1


def test_configured_keys_win_and_are_checked() -> None:
    assert signing_keys(Platform(signing_keys=["ab" * 16, "cd" * 16])) == [b"\xab" * 16, b"\xcd" * 16]
    for wrong in ("", "xyz", "abcd"):
        with pytest.raises(ConfigError, match=r"signing_keys\[0\]"):
            signing_keys(Platform(signing_keys=[wrong]))
