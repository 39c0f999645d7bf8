"""The keys that sign notices and the one of hashes: from the settings, or made once and kept in the data directory."""

import os
from collections.abc import Sequence
from pathlib import Path

from dsp.kernel.config import Platform
from dsp.kernel.errors import ConfigError, Fault

KEY_BYTES = 32


def signing_keys(platform: Platform) -> list[bytes]:
    """Return the keys, the signing one first.

    Raises:
        ConfigError: a key is not hexadecimal or is shorter than 16 bytes.
    """
    if platform.signing_keys:
        return [_from_hex(text, f"platform.signing_keys[{place}]") for place, text in enumerate(platform.signing_keys)]
    path = platform.data_path / "keys" / "signing.key"
    if not path.exists():
        _create(path)
    return [_from_hex(path.read_text(encoding="ascii", errors="replace"), str(path))]


def hash_key(platform: Platform, signing: Sequence[bytes]) -> bytes:
    """Return the key that those of single purposes are made of; raises as `signing_keys` does."""
    return _from_hex(platform.hash_key, "platform.hash_key") if platform.hash_key else signing[-1]


def _from_hex(text: str, name: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < 16:
        raise ConfigError([Fault(name, "must be 32 or more hexadecimal digits")])
    return key


def _create(path: Path) -> None:
    """Write a fresh key so that of several that start at once all end up with the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    draft.touch(mode=0o600)
    with draft.open("w", encoding="ascii") as file:
        file.write(os.urandom(KEY_BYTES).hex())
        file.flush()
        os.fsync(file.fileno())  # else a power cut may leave it empty, and what it signed is lost
    try:
        os.link(draft, path)  # fails if somebody else was first, and never shows a half-written key
    except FileExistsError:
        pass
    finally:
        draft.unlink()
