"""The registry: whole versions, checksums, movable aliases, and nothing outside its folder."""

import json
import multiprocessing
from pathlib import Path

import pytest

from dsp import registry
from dsp.kernel.errors import BundleError

FILES = {"model.onnx": b"\x00\x01", "card.md": b"# card"}
BUILT = {"built_at_ms": 1_750_000_000_000}


def test_what_is_published_is_read(tmp_path: Path) -> None:
    version = registry.publish(tmp_path, FILES, {**BUILT, "note": "n"})
    assert version.startswith("20250615T150640-")
    files = registry.read(tmp_path, version)
    manifest = json.loads(files.pop(registry.MANIFEST))
    assert files == FILES
    assert manifest["note"] == "n"
    assert manifest["files"]["model.onnx"]["bytes"] == 2


def test_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    versions = {registry.publish(tmp_path, FILES, BUILT) for _ in range(3)}
    assert registry.versions(tmp_path) == sorted(versions)
    assert len(versions) == 1


def test_two_publishers_at_once_agree(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        published = pool.starmap(registry.publish, [(tmp_path, FILES, BUILT)] * 8)
    assert len(set(published)) == 1
    assert registry.read(tmp_path, published[0])["card.md"] == b"# card"
    assert [path.name for path in (tmp_path / "versions").iterdir()] == [published[0]]


def test_an_interrupted_publication_is_no_version(tmp_path: Path) -> None:
    version = registry.publish(tmp_path, FILES, BUILT)
    folder = tmp_path / "versions" / version
    folder.rename(folder.with_name(f".{version}.123"))
    assert registry.versions(tmp_path) == []
    with pytest.raises(BundleError):
        registry.read(tmp_path, version)
    assert registry.publish(tmp_path, FILES, BUILT) == version


@pytest.mark.parametrize("name", ["model.onnx", "card.md", "manifest.json"])
@pytest.mark.parametrize("change", ["flip", "truncate", "remove", "grow"])
def test_any_changed_byte_is_noticed(tmp_path: Path, name: str, change: str) -> None:
    version = registry.publish(tmp_path, FILES, BUILT)
    path = tmp_path / "versions" / version / name
    data = path.read_bytes()
    path.unlink()
    if change == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif change == "truncate":
        path.write_bytes(data[:-1])
    elif change == "grow":
        path.write_bytes(data + b" ")
    with pytest.raises(BundleError):
        registry.read(tmp_path, version)
    with pytest.raises(BundleError):
        registry.set_alias(tmp_path, "champion", version)


def test_a_forged_manifest_does_not_fit_its_version(tmp_path: Path) -> None:
    version = registry.publish(tmp_path, FILES, BUILT)
    other = registry.publish(tmp_path, {**FILES, "card.md": b"# forged"}, BUILT)
    folder = tmp_path / "versions"
    for path in (folder / other).iterdir():
        (folder / version / path.name).write_bytes(path.read_bytes())
    with pytest.raises(BundleError, match=r"manifest\.json"):
        registry.read(tmp_path, version)


def test_aliases_move(tmp_path: Path) -> None:
    assert registry.resolve(tmp_path, "champion") is None
    first, second = (registry.publish(tmp_path, FILES, {**BUILT, "number": number}) for number in (1, 2))
    for version in (first, second, first):
        registry.set_alias(tmp_path, "champion", version)
        assert registry.resolve(tmp_path, "champion") == version
    assert registry.resolve(tmp_path, "previous") is None


@pytest.mark.parametrize("content", [b"", b"../../etc", b"20250615T150640-zz", b"\xff\xfe", b"a" * 10_000])
def test_an_alias_that_names_no_version_is_a_fault(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "aliases").mkdir()
    (tmp_path / "aliases" / "champion").write_bytes(content)
    with pytest.raises(BundleError):
        registry.resolve(tmp_path, "champion")


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", ".", "", "A", "a/b", "a\n"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError):
        registry.publish(tmp_path, {name: b""}, BUILT)
    with pytest.raises(BundleError):
        registry.read(tmp_path, name)
    with pytest.raises(BundleError):
        registry.resolve(tmp_path, name)
    assert not list(tmp_path.rglob("*"))
