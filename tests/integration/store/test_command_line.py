"""`python -m dsp`: what it does, what it says, and how it refuses."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from dsp.events.topics import Topic
from dsp.kernel.clock import SystemClock
from dsp.store.book import BookRepository
from dsp.store.database import create_engine, session_factory
from dsp.stream.local import LocalEventLog
from dsp.stream.port import Entry
from tests.commands import dsp, environment

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "config" / "demo" / "catalogue.toml"


class Shell:
    """Runs commands on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = {"DSP_PLATFORM_DATA_DIR": str(data_dir)}

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run a command that must end with `status`; return what it said."""
        out, err = dsp(self.settings, *arguments, status=status)
        return err if status else out


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "data")


def test_the_demo_catalogue_loads_and_loading_again_changes_nothing(shell: Shell) -> None:
    assert "migrate" in shell.run("load", str(DEMO), status=1)
    shell.run("migrate")
    first = shell.run("load", str(DEMO))
    counts = dict(reversed(part.split(" ", 1)) for part in first.removeprefix("created: ").strip().split(", "))
    assert int(counts["advertisers"]) >= 3
    assert int(counts["campaigns"]) >= 6
    assert int(counts["line items"]) >= 20
    assert shell.run("load", str(DEMO)) == first.replace("created", "unchanged")
    squeezed = shell.run("load", str(DEMO), "--flight-seconds", "90").splitlines()
    assert squeezed[0] == f"updated: {counts['campaigns']} campaigns, {counts['line items']} line items"


def test_a_file_is_refused_whole_with_every_fault(shell: Shell, tmp_path: Path) -> None:
    shell.run("migrate")
    file = tmp_path / "bad.toml"
    file.write_text(
        '[[advertiser]]\nexternal_id = "a"\nname = "A"\ndomain = "a.example"\n'
        '[[campaign]]\nexternal_id = "c"\nadvertiser = "nobody"\nname = "C"\nflight = { start_in_seconds = "now" }\n'
        '[[advertiser]]\nname = "B"\ndomain = "b"\nstatus = "asleep"\n[surprise]\n'
    )
    said = shell.run("load", str(file), status=1)
    for field in ("advertiser[1].external_id", "campaign[0].advertiser", "surprise"):
        assert field in said
    file.write_text('[[advertiser]]\nexternal_id = "a"\nname = "A"\ndomain = "a.example"\n')
    assert shell.run("load", str(file)) == "created: 1 advertiser\n"  # nothing of the refused file was kept


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[[", b"x = 1", b"advertiser = 1", b"advertiser = [1]", b""])
def test_files_that_are_no_catalogue(shell: Shell, tmp_path: Path, content: bytes) -> None:
    shell.run("migrate")
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    shell.run("load", str(file), status=1 if content else 0)


def test_the_book_leaves_a_log_only_when_it_has_all_of_it(shell: Shell, tmp_path: Path) -> None:
    shell.run("migrate")

    async def append() -> None:
        log = LocalEventLog(tmp_path / "data" / "log", SystemClock())
        await log.open()
        await log.append(Topic.NOTICES, [Entry("key", b"value")])
        await log.close()

    asyncio.run(append())
    assert "has not read this log to its end" in shell.run("leave-log", status=1)
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'dsp.db'}")

    def at(log: str) -> None:
        with session_factory(engine).begin() as session:
            BookRepository(session).apply([], {0: 1 << 60}, log=log)

    at("kafka:one/notices")
    assert "kafka:one/notices, and stream_url leads to local" in shell.run("leave-log", status=1)
    shell.run("leave-log", "--unread")
    assert "goes on" not in shell.run("audit")
    engine.dispose()


def test_keys(shell: Shell) -> None:
    shell.run("migrate")
    key = shell.run("key", "create", "ci", "--role", "viewer").strip()
    assert key.startswith("dsp_")
    assert "ci" in shell.run("key", "create", "ci", status=1)
    listed = shell.run("key", "list")
    assert "viewer" in listed
    assert key not in listed
    shell.run("key", "revoke", "ci")
    assert "revoked" in shell.run("key", "list")
    shell.run("key", "revoke", "nobody", status=1)
    shell.run("key", "create", status=1)


def test_keys_of_clients(shell: Shell, tmp_path: Path) -> None:
    shell.run("migrate")
    create = ("key", "create", "acme", "--role", "client", "--advertiser", "1")
    assert "there is no advertiser 1" in shell.run(*create, status=1)
    file = tmp_path / "catalogue.toml"
    file.write_text('[[advertiser]]\nexternal_id = "a"\nname = "A"\ndomain = "a.example"\n', encoding="utf-8")
    shell.run("load", str(file))
    shell.run(*create)
    assert "of advertiser 1" in shell.run("key", "list")


def test_refusals(shell: Shell, tmp_path: Path) -> None:
    config = tmp_path / "dsp.toml"
    config.write_text("[api]\nport = 'x'\nprot = 1\n[platfrom]\n")
    said = shell.run("--config", str(config), "api", status=1)
    for field in ("api.port", "api.prot", "platfrom"):
        assert field in said
    assert str(tmp_path / "none.toml") in shell.run("migrate", "--config", str(tmp_path / "none.toml"), status=1)
    shell.run("load", str(tmp_path / "none.toml"), status=1)
    shell.run("dance", status=2)
    shell.settings["DSP_PLATFORM_DATABASE_URL"] = "nonsense"
    assert "database_url" in shell.run("migrate", status=1)
    shell.settings["DSP_PLATFORM_DATABASE_URL"] = "sqlite:////proc/nowhere/dsp.db"
    shell.run("migrate", status=1)


def test_what_is_written_is_nothing_for_strangers_on_the_host(shell: Shell, tmp_path: Path) -> None:
    env = environment(shell.settings)
    for command in (["migrate"], ["backup", str(tmp_path / "copy.db")]):
        subprocess.run([sys.executable, "-m", "dsp", *command], env=env, umask=0o022, timeout=180, check=True)
    written = [tmp_path / "data", *(tmp_path / "data").rglob("*"), tmp_path / "copy.db"]
    assert [path.name for path in written if path.stat().st_mode & 0o007] == []
