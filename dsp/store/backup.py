"""Copies a database to a file while it is in use, and back into a new one: catalogue, book and positions together.

SQLite is copied by itself, PostgreSQL by its own programs pg_dump and pg_restore, which must be on PATH.
"""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, inspect, make_url

from dsp.kernel.errors import InputError, UnavailableError
from dsp.kernel.files import sync
from dsp.store.database import create_engine

#: Of an SQLite file's beginning; anything else is taken for an archive of pg_dump's.
_SQLITE_MAGIC = b"SQLite format 3\0"


def backup(url: str, file: Path) -> None:
    """Write the database, as it is at one instant, to a file that is not there yet; only its owner may read it.

    Raises:
        InputError: there is such a file already.
        UnavailableError: the database does not answer, the disk is full, or a program is missing.
    """
    if file.exists():
        raise InputError(f"{file} exists already")
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    parsed = make_url(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            _copy(parsed, part)
        else:
            _run("pg_dump", parsed, "--format=custom", "--no-owner", "--no-privileges", f"--file={part}")
        sync(part)
        part.rename(file)
        sync(file.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def restore(url: str, file: Path) -> None:
    """Fill an empty database from a backup of the same kind of database. The schema is the backup's: migrate next.

    Raises:
        InputError: the file is no such backup, or the database has tables already.
        UnavailableError: the database does not answer, the disk is full, or a program is missing.
    """
    parsed = make_url(url)
    to_sqlite = parsed.get_backend_name() == "sqlite"
    with file.open("rb") as opened:
        if (opened.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC) is not to_sqlite:
            raise InputError(f"{file} is no backup of such a database")
    engine = create_engine(url)
    try:
        if inspect(engine).get_table_names():
            raise InputError("the database has tables already; a backup is restored to an empty one")
    finally:
        engine.dispose()
    if to_sqlite:
        _fill(file, parsed)
    else:
        options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
        _run("pg_restore", parsed, *options, str(file))


def _copy(parsed: URL, part: Path) -> None:
    database = str(parsed.database)
    if not Path(database).exists():
        raise UnavailableError(f"there is no database {database}")
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
    except sqlite3.Error as fault:
        raise UnavailableError(f"cannot copy the database {database}: {fault}") from fault


def _fill(file: Path, parsed: URL) -> None:
    """Copy into the file that is there, which is empty: nobody sees a part of it, and it keeps its owner."""
    try:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(str(parsed.database))) as target:
            (verdict,) = source.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise InputError(f"{file} is damaged: {verdict}")
            source.backup(target)
    except sqlite3.Error as fault:
        raise UnavailableError(f"cannot fill the database: {fault}") from fault


def _run(program: str, parsed: URL, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on the database; its password is in no command line."""
    found = shutil.which(program)
    if found is None:
        raise UnavailableError(f"{program} is not on PATH: it comes with PostgreSQL, and must be as new as the server")
    given = parsed.get_dialect()().create_connect_args(parsed)[1]  # as libpq has them
    password = given.pop("password", None)
    environment = os.environ | ({} if password is None else {"PGPASSWORD": str(password)})
    database = " ".join(f"{name}={_quoted(str(value))}" for name, value in given.items())
    command = [found, f"--dbname={database}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise UnavailableError(f"{program}: {done.stderr.strip()}")


def _quoted(value: str) -> str:
    """Return a value as libpq's connection strings have it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
