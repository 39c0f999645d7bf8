"""The signing key is made once, is private, and every process ends up with the same one."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from bidder.wiring import Deployment
from dsp.kernel.config import Platform, SettingsError
from dsp.kernel.errors import ConfigError, TokenError
from dsp.kernel.ids import TokenSigner
from dsp.kernel.keys import signing_keys


def test_made_once_and_private(tmp_path: Path) -> None:
    platform = Platform(data_dir=str(tmp_path))
    first = signing_keys(platform)
    assert first == signing_keys(platform)
    assert len(first[0]) == 32
    (path,) = (tmp_path / "keys").iterdir()  # and no draft of it beside it
    assert path.name == "signing.key"
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("written", ["", "no key", "abcd"])
def test_a_key_file_that_holds_none_is_named(tmp_path: Path, written: str) -> None:
    platform = Platform(data_dir=str(tmp_path))
    signing_keys(platform)
    (tmp_path / "keys" / "signing.key").write_text(written)
    with pytest.raises(ConfigError, match=r"signing\.key"):
        signing_keys(platform)


def test_racing_processes_agree(tmp_path: Path) -> None:
    platform = Platform(data_dir=str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: signing_keys(platform)[0], range(32)))
    assert len(set(keys)) == 1


def test_configured_keys_win_and_are_checked() -> None:
    assert signing_keys(Platform(signing_keys=["ab" * 16, "cd" * 16])) == [b"\xab" * 16, b"\xcd" * 16]
    for wrong in ("", "xyz", "abcd", "ab" * 15):
        with pytest.raises(SettingsError, match=r"signing_keys\[0\]"):
            Platform(signing_keys=[wrong])


#: How docs/operations.md has keys rotate: processes are restarted one by one between two of these lists.
OLD, NEW = "ab" * 16, "cd" * 16
STEPS = ([OLD], [OLD, NEW], [NEW, OLD], [NEW])


def _read(writer: list[str], reader: list[str]) -> bytes:
    """Return what a process with one list of keys reads of a token that one with another list has signed."""
    signer, verifier = (TokenSigner(signing_keys(Platform(signing_keys=keys)), ["click"]) for keys in (writer, reader))
    return verifier.verify("click", signer.tokens(["click"], b"facts")[0])


@pytest.mark.parametrize(("before", "after"), list(pairwise(STEPS)))
def test_while_keys_rotate_every_process_reads_every_others_tokens(before: list[str], after: list[str]) -> None:
    assert [_read(one, other) for one in (before, after) for other in (before, after)] == [b"facts"] * 4


def test_users_are_known_while_keys_rotate() -> None:
    def found(keys: list[str], own: str) -> bytes:
        platform = Platform(signing_keys=keys, hash_key=own)
        return Deployment(platform, {}, signing_keys(platform)).secret(b"user-key")

    assert {found(keys, OLD) for keys in STEPS} == {found(STEPS[0], "")}
    assert found(STEPS[0], NEW) != found(STEPS[0], OLD)
    with pytest.raises(SettingsError, match="hash_key"):
        found(STEPS[0], "no key")


@pytest.mark.parametrize(("writer", "reader"), [(STEPS[2], STEPS[0]), (STEPS[1], STEPS[3]), (STEPS[3], STEPS[0])])
def test_a_step_left_out_would_lose_notices(writer: list[str], reader: list[str]) -> None:
    with pytest.raises(TokenError):
        _read(writer, reader)
