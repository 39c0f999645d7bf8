"""A registry as a folder: `versions/<version>/` are immutable, `aliases/<alias>` are small files that name a version.

A version's name ends in the hash of its manifest, which holds the hash of every file: so a name pins all the bytes.
A reader sees a version or an alias whole or not at all, whenever a writer dies.
"""

import hashlib
import os
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dsp.kernel.errors import BundleError
from dsp.kernel.files import replace, sync, write_synced

MANIFEST = "manifest.json"
FILE_BYTES_MAX = 256 * 1024 * 1024
_HASH_CHARS = 16
_DRAFT_SECONDS_MAX = 86_400
_VERSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{16}")
_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9]+)?")


class _File(msgspec.Struct, frozen=True):
    sha256: str
    bytes: int


class _Manifest(msgspec.Struct, frozen=True):
    """The part of a manifest that the registry reads; the rest belongs to the publisher."""

    files: dict[str, _File]


def publish(root: Path, files: dict[str, bytes], manifest: dict[str, Any]) -> str:
    """Store a new version and return its name; the same content again gives the same version.

    `manifest["built_at_ms"]` dates the version; the registry adds `files` with their checksums.
    """
    for name in files:
        _check_name(name)
    listing = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(files.items())
    }
    text = msgspec.json.format(msgspec.json.encode({**manifest, "files": listing}), indent=2)
    built_at = datetime.fromtimestamp(manifest["built_at_ms"] // 1_000, UTC)
    version = f"{built_at:%Y%m%dT%H%M%S}-{hashlib.sha256(text).hexdigest()[:_HASH_CHARS]}"
    folder = root / "versions" / version
    if folder.exists():
        return version
    draft = folder.with_name(f".{version}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, data in {**files, MANIFEST: text}.items():
        write_synced(draft / name, data)
    sync(draft)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not folder.exists():  # otherwise somebody published the same content meanwhile
            raise
    sync(folder.parent)
    return version


def read(root: Path, version: str) -> dict[str, bytes]:
    """Return a version's files, its manifest among them.

    Raises:
        BundleError: there is no such version, or a byte of it differs from what was published.
    """
    folder = root / "versions" / _check_version(version)
    text = _read(folder / MANIFEST)
    if hashlib.sha256(text).hexdigest()[:_HASH_CHARS] != version[-_HASH_CHARS:]:
        raise BundleError(f"{version}: {MANIFEST} is not what was published")
    try:
        manifest = msgspec.json.decode(text, type=_Manifest)
    except msgspec.DecodeError as fault:
        raise BundleError(f"{version}: {MANIFEST}: {fault}") from fault
    files = {MANIFEST: text}
    for name, entry in manifest.files.items():
        data = _read(folder / _check_name(name))
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{version}: {name} is not what was published")
        files[name] = data
    return files


def built_at_ms(version: str) -> int:
    """Return when a version was built, to the second; its name says so."""
    return int(datetime.strptime(_check_version(version)[:15] + "+0000", "%Y%m%dT%H%M%S%z").timestamp()) * 1_000


def versions(root: Path) -> list[str]:
    """Return the names of all versions, oldest first."""
    folder = root / "versions"
    return sorted(path.name for path in folder.iterdir() if _VERSION.fullmatch(path.name)) if folder.exists() else []


def resolve(root: Path, alias: str) -> str | None:
    """Return the version an alias names, or None where there is no such alias.

    Raises:
        BundleError: the alias holds something that is no version.
    """
    try:
        text = (root / "aliases" / _check_name(alias)).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as fault:
        raise BundleError(f"alias {alias}: {fault}") from fault
    return _check_version(text.strip())


def set_alias(root: Path, alias: str, version: str) -> None:
    """Point an alias to a version.

    Raises:
        BundleError: there is no such version, or it is corrupt.
    """
    read(root, version)
    replace(root / "aliases" / _check_name(alias), version.encode("ascii"))


def clear_alias(root: Path, alias: str) -> None:
    """Let an alias name nothing; it need not exist."""
    target = root / "aliases" / _check_name(alias)
    target.unlink(missing_ok=True)
    if target.parent.exists():
        sync(target.parent)


def prune(root: Path, keep: int) -> list[str]:
    """Remove all but the newest `keep` versions and those that an alias names; return the names of what is gone.

    What writers that died have left is removed too, once it is a day old. A broken alias protects everything: it is
    not known what it named.
    """
    folder = root / "versions"
    if not folder.exists():
        return []
    try:
        named = {resolve(root, path.name) for path in (root / "aliases").glob("[!.]*")}
    except BundleError:
        return []
    gone = [version for version in versions(root)[: -keep or None] if version not in named]
    for version in gone:
        # A rename first, so that nobody sees half of a version.
        (folder / version).rename(folder / f".{version}.gone")
    for path in folder.glob(".*"):
        if path.name.endswith(".gone") or time.time() - path.stat().st_mtime > _DRAFT_SECONDS_MAX:
            shutil.rmtree(path, ignore_errors=True)
    return gone


def _check_version(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise BundleError(f"not a version: {version[:80]!r}")
    return version


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BundleError(f"not a file name: {name[:80]!r}")
    return name


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BundleError(f"{path.name} is larger than {FILE_BYTES_MAX} bytes")
        return path.read_bytes()
    except OSError as fault:
        raise BundleError(f"{path.parent.name}: {path.name}: {fault.strerror}") from fault
