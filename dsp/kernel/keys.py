"""The keys that sign notices and the one of hashes: from the settings, or made once and kept in the data directory."""

import os
from collections.abc import Sequence
from pathlib import Path

from dsp.kernel.config import KEY_RULE, Platform, key_from_hex
from dsp.kernel.errors import ConfigError, Fault
from dsp.kernel.files import write_synced

KEY_BYTES = 32


def signing_keys(platform: Platform) -> list[bytes]:
    """Return the keys, the signing one first.

    Raises:
        ConfigError: the file of the data directory does not hold a key.
    """
    if platform.signing_keys:
        return [key_from_hex(text) for text in platform.signing_keys]
    path = platform.data_path / "keys" / "signing.key"
    if not path.exists():
        _create(path)
    key = key_from_hex(path.read_text(encoding="ascii", errors="replace"))
    if not key:
        raise ConfigError([Fault(str(path), KEY_RULE)])
    return [key]


def hash_key(platform: Platform, signing: Sequence[bytes]) -> bytes:
    """Return the key that those of single purposes are made of."""
    return key_from_hex(platform.hash_key) if platform.hash_key else signing[-1]


def _create(path: Path) -> None:
    """Write a fresh key so that of several that start at once all end up with the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    draft.touch(mode=0o600)
    # Synced: else a power cut may leave it empty, and what it signed is lost.
    write_synced(draft, os.urandom(KEY_BYTES).hex().encode("ascii"))
    try:
        os.link(draft, path)  # fails if somebody else was first, and never shows a half-written key
    except FileExistsError:
        pass
    finally:
        draft.unlink()
