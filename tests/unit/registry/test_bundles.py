"""The registry: whole versions, checksums, movable aliases, and nothing outside its folder."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsp import registry
from dsp.kernel.errors import BundleError

FILES = {"model.onnx": b"\x00\x01", "card.md": b"# card"}
BUILT = {"built_at_ms": 1_750_000_000_000}


def test_what_is_published_is_read(tmp_path: Path) -> None:
    version = registry.publish(tmp_path, FILES, {**BUILT, "note": "n"})
    assert version.startswith("20250615T150640-")
    assert registry.built_at_ms(version) == BUILT["built_at_ms"]
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
@pytest.mark.parametrize("change", ["flip", "truncate", "empty", "remove", "grow", "other", "folder"])
def test_any_changed_byte_is_noticed(tmp_path: Path, name: str, change: str) -> None:
    version = registry.publish(tmp_path, FILES, BUILT)
    path = tmp_path / "versions" / version / name
    data = path.read_bytes()
    path.unlink()
    if change == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif change == "truncate":
        path.write_bytes(data[:-1])
    elif change == "empty":
        path.touch()
    elif change == "grow":
        path.write_bytes(data + b" ")
    elif change == "other":
        path.write_bytes((path.parent / ("card.md" if name != "card.md" else "model.onnx")).read_bytes())
    elif change == "folder":
        path.mkdir()
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


def test_an_alias_can_name_nothing(tmp_path: Path) -> None:
    registry.clear_alias(tmp_path, "challenger")
    registry.set_alias(tmp_path, "challenger", registry.publish(tmp_path, FILES, BUILT))
    registry.clear_alias(tmp_path, "challenger")
    assert registry.resolve(tmp_path, "challenger") is None


WRITER = """
import sys
from pathlib import Path
from dsp import registry
root, seed = Path(sys.argv[1]), int(sys.argv[2])
for number in range(1_000_000):
    files = {"model.onnx": bytes(50_000), "card.md": b"%d %d" % (seed, number)}
    registry.set_alias(root, "champion", registry.publish(root, files, {"built_at_ms": 1_750_000_000_000}))
    print(flush=True)
"""


def test_the_champion_is_whole_whenever_writers_die(tmp_path: Path) -> None:
    first = registry.publish(tmp_path, FILES, BUILT)
    registry.set_alias(tmp_path, "champion", first)
    seen = set()
    for round_number in range(4):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(seed)], stdout=subprocess.PIPE)
            for seed in (2 * round_number, 2 * round_number + 1)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline()  # it is in its loop
        time.sleep(0.01 * round_number)  # another place to die at
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        champion = registry.resolve(tmp_path, "champion")
        assert champion is not None
        assert set(registry.read(tmp_path, champion)) == {"model.onnx", "card.md", "manifest.json"}
        seen.add(champion)
    assert first not in seen
    assert len(seen) == 4


def test_a_death_between_publication_and_alias_leaves_the_champion(tmp_path: Path) -> None:
    first = registry.publish(tmp_path, FILES, BUILT)
    registry.set_alias(tmp_path, "champion", first)
    second = registry.publish(tmp_path, FILES, {**BUILT, "number": 2})
    (tmp_path / "aliases" / ".champion.123").write_text(second)  # as far as a dead writer came
    assert registry.resolve(tmp_path, "champion") == first


def test_pruning_spares_the_newest_and_what_is_named(tmp_path: Path) -> None:
    made = [registry.publish(tmp_path, FILES, {"built_at_ms": BUILT["built_at_ms"] + 1_000 * n}) for n in range(6)]
    for alias, version in (("champion", made[1]), ("previous", made[0]), ("challenger", made[3])):
        registry.set_alias(tmp_path, alias, version)
    assert registry.prune(tmp_path, 1) == [made[2], made[4]]
    assert registry.versions(tmp_path) == [made[0], made[1], made[3], made[5]]
    assert registry.prune(tmp_path, 1) == []
    assert registry.prune(tmp_path, 0) == [made[5]]
    assert [path.name for path in (tmp_path / "versions").glob(".*")] == []


def test_pruning_removes_what_the_dead_left_and_no_living_draft(tmp_path: Path) -> None:
    version = registry.publish(tmp_path, FILES, BUILT)
    for name, days in (("old", 2), ("young", 0)):
        draft = tmp_path / "versions" / f".{version}.{name}"
        draft.mkdir()
        os.utime(draft, (time.time() - days * 86_400,) * 2)
    registry.prune(tmp_path, 5)
    assert [path.name for path in (tmp_path / "versions").glob(".*")] == [f".{version}.young"]


def test_a_broken_alias_protects_every_version(tmp_path: Path) -> None:
    registry.set_alias(tmp_path, "champion", registry.publish(tmp_path, FILES, BUILT))
    (tmp_path / "aliases" / "champion").write_text("20250615")
    assert registry.prune(tmp_path, 0) == []
    assert len(registry.versions(tmp_path)) == 1


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
