"""The command line: `python -m dsp --help` lists the commands. Each imports what it needs."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from dsp.kernel import config, limits
from dsp.kernel.clock import SystemClock
from dsp.kernel.errors import ConfigError, DspError, Fault, ValidationError
from dsp.workers.config import WORKERS

_PROGRESS_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 refused or failed, 2 misused."""
    options = _parser().parse_args(arguments)
    if options.config is not None:
        os.environ[config.ENV_FILE] = options.config  # children read it too
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        return command(options) or 0
    except ConfigError as fault:
        print(fault, file=sys.stderr)  # as the other programs that read the same tables say it
        return 1
    except ValidationError as fault:
        return _fail("refused:", *[f"  {each}" for each in fault.faults])
    except (DspError, OSError) as fault:
        return _fail(str(fault))
    except KeyboardInterrupt:
        return 130


def _fail(*lines: str) -> int:
    print("dsp:", "\n".join(lines), file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dsp", description="A demand-side platform.")
    parser.add_argument("--config", metavar="FILE", help="settings (TOML); else the file that DSP_CONFIG names")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        # Both `dsp --config FILE up` and `dsp up --config FILE`; the default must not undo the former.
        made.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        made.set_defaults(command=run)
        return made

    add("check", _check, "Check the settings of `up`, the API and the workers, and what they need, and do nothing.")
    add("migrate", _migrate, "Create the database or bring it to the newest schema.")
    load = add("load", _load, "Load a catalogue from a TOML file.")
    load.add_argument("file", metavar="FILE", type=Path)
    load.add_argument("--flight-seconds", metavar="N", type=int, help="let relative flights end N seconds from now")
    key = add("key", _key, "Make, list or revoke API keys.")
    key.add_argument("action", choices=("create", "list", "revoke"))
    key.add_argument("name", metavar="NAME", nargs="?", help="of the key to create or revoke")
    key.add_argument("--advertiser", metavar="ID", type=int, help="whose client the key is for")
    key.add_argument(
        "--role", choices=("client", "viewer", "member", "owner"), default="member", help="default: %(default)s"
    )
    backup = add("backup", _backup, "Copy the database to a file, while it is in use.")
    backup.add_argument("file", metavar="FILE", type=Path)
    restore = add("restore", _restore, "Fill an empty database from a backup, and migrate and audit it.")
    restore.add_argument("file", metavar="FILE", type=Path)
    add("audit", _audit, "Sum up the book: status 0 only if it is in balance.")
    leave = add("leave-log", _leave_log, "Let the book go on in another event log, once it has all of this one.")
    leave.add_argument("--unread", action="store_true", help="even if this one cannot be read to its end")
    letters = add("dead-letters", _dead_letters, "Look at records that no worker could use; bring them in again.")
    letters.add_argument("action", choices=("list", "show", "replay", "drop"))
    letters.add_argument("place", metavar="PLACE", nargs="?", help="of the one to show or replay, as listed; else all")
    add("api", _api, "Serve the REST API.")
    add("worker", _worker, "Run one worker.").add_argument("name", choices=WORKERS)
    add("up", _up, "Run the whole platform on this machine.")
    return parser


def _settings(**sections: type[msgspec.Struct]) -> Mapping[str, Any]:
    tables: dict[str, type[msgspec.Struct]] = {"platform": config.Platform, **sections}
    return config.load(tables, None, os.environ)


def _check(_options: argparse.Namespace) -> None:
    from dsp.api.config import ApiConfig
    from dsp.cache.connect import lease_store
    from dsp.store.database import create_engine, url
    from dsp.stream.connect import event_log
    from dsp.supervise import UpConfig
    from dsp.workers.config import WorkersConfig

    platform = _settings(up=UpConfig, api=ApiConfig, workers=WorkersConfig)["platform"]
    config.check(
        lambda: create_engine(url(platform)),
        lambda: event_log(platform, SystemClock()),
        lambda: lease_store(platform),
        *[partial(_module, name) for name in WORKERS],
    )


def _migrate(_options: argparse.Namespace) -> None:
    from dsp.store.database import url
    from dsp.store.migrate import upgrade

    address = url(_settings()["platform"])
    print(f"database is at revision {upgrade(address)}: {_shown(address)}")


def _load(options: argparse.Namespace) -> None:
    from dsp.store.load import Load, read

    tables = read(options.file)
    with _engine() as engine:
        load = Load(
            engine,
            f"load:{options.file.name}",
            SystemClock().now_ms(),
            options.flight_seconds,
            _progress(time.monotonic()),
        )
        try:
            load.run(tables)
        finally:
            for outcome in ("created", "updated", "unchanged"):
                counts = getattr(load.report, outcome)
                listed = ", ".join(f"{count} {kind.words}{'s' if count > 1 else ''}" for kind, count in counts.items())
                if listed:
                    print(f"{outcome}: {listed}")


def _progress(begin: float) -> Callable[[str, int, int], None]:
    """Return what tells of a long command every few seconds."""
    told = begin

    def tell(what: str, done: int, of: int) -> None:
        nonlocal told
        if (now := time.monotonic()) > told + _PROGRESS_SECONDS:
            told = now
            print(f"{what}: {done:,} of {of:,} after {now - begin:.0f} s", file=sys.stderr)

    return tell


def _key(options: argparse.Namespace) -> int | None:
    from dsp.store.keys import Role, create_key, list_keys, revoke_key

    now_ms = SystemClock().now_ms()
    if options.action != "list" and options.name is None:
        return _fail(f"key {options.action} needs the key's NAME")
    with _session() as session:
        if options.action == "create":
            key = create_key(session, options.name, Role(options.role), now_ms, options.advertiser)
        elif options.action == "revoke":
            revoke_key(session, options.name, "command line", now_ms)
        else:
            for each in list_keys(session):
                of = "" if each.advertiser_id is None else f"  of advertiser {each.advertiser_id}"
                print(f"{each.name:30} {each.role:8} {each.prefix}...{of}{'  revoked' if each.revoked_ms else ''}")
    if options.action == "create":
        print(f"key {options.name} ({options.role}); keep it, it is not shown again:", file=sys.stderr)
        print(key)
    elif options.action == "revoke":
        print(f"key {options.name} is revoked")
    return None


def _backup(options: argparse.Namespace) -> None:
    from dsp.store.backup import backup
    from dsp.store.database import url

    backup(url(_settings()["platform"]), options.file)
    print(f"the database is copied to {options.file}")


def _restore(options: argparse.Namespace) -> int:
    from dsp.store.backup import restore
    from dsp.store.database import url
    from dsp.store.migrate import upgrade

    address = url(_settings()["platform"])
    restore(address, options.file)
    print(f"database is at revision {upgrade(address)}: {_shown(address)}")
    return _audit(options)


def _audit(_options: argparse.Namespace) -> int:
    from dsp.store.book import BookRepository

    with _session(read_only=True) as session:
        book = BookRepository(session)
        count, imbalance, position = book.transactions(), book.imbalance(), book.position()
    print(f"the book holds {count} transactions; it is out of balance by {imbalance} micros")
    if position:
        read = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(position.items()))
        print(f"ledger goes on in notices at {read} (partition: offset)")
    return 0 if imbalance == 0 else 1


def _leave_log(options: argparse.Namespace) -> int | None:
    import asyncio

    from dsp.events.topics import Topic
    from dsp.store.book import BookRepository
    from dsp.stream.connect import event_log

    async def unread() -> str:
        with _session(read_only=True) as session:
            book = BookRepository(session)
            known, position = book.log(), book.position()
        log = event_log(_settings()["platform"], SystemClock())
        await log.open()
        try:
            if known not in ("", found := await log.identity(Topic.NOTICES)):
                return f"the book goes on in the event log {known}, and stream_url leads to {found}"
            waiting = (await log.read(Topic.NOTICES, position, 1)).records
            return "the ledger has not read this log to its end" if waiting else ""
        finally:
            await log.close()

    if not options.unread and (reason := asyncio.run(unread())):
        return _fail(reason)
    with _session() as session:
        BookRepository(session).leave()
    print("the ledger begins with the oldest notice of whatever log it finds")
    return None


def _dead_letters(options: argparse.Namespace) -> int | None:
    import asyncio
    from datetime import UTC, datetime

    from dsp.kernel.clock import MS_PER_SECOND
    from dsp.stream.connect import event_log
    from dsp.workers import redrive

    action, place = options.action, options.place
    if place is not None and action in ("list", "drop"):
        return _fail(f"dead-letters {action} is for all that are open, and takes no PLACE")

    async def run() -> int | None:
        log = event_log(_settings()["platform"], SystemClock())
        await log.open()
        try:
            found = await redrive.find(log)
            if place is not None and place not in found.letters:
                return _fail(f"no letter is open from {place}")
            chosen = found.letters if place is None else {place: found.letters[place]}
            if action == "replay":
                await redrive.replay(log, list(chosen.values()))
            if action == "drop" or (action == "replay" and place is None):
                await redrive.leave(log, found)
        finally:
            await log.close()
        for each, letter in chosen.items():
            at = datetime.fromtimestamp(letter.appended_ms / MS_PER_SECOND, UTC).isoformat(timespec="seconds")
            print(f"{each}  {at}  {letter.group}: {letter.fault}")
            if action == "show":
                print(f"  key {letter.key!r}\n  value {letter.value!r}")
        done = {"replay": "brought in again", "drop": "dropped"}.get(action, "open")
        print(f"{len(chosen)} {done}{'; there are more' if found.more else ''}")
        return None

    return asyncio.run(run())


def _api(_options: argparse.Namespace) -> int:
    from dsp.api.config import ApiConfig
    from dsp.api.server import run
    from dsp.kernel import lifecycle

    return lifecycle.run(run(_settings(api=ApiConfig)))


def _worker(options: argparse.Namespace) -> int:
    from dsp.kernel import lifecycle
    from dsp.workers.config import WorkersConfig

    settings = _settings(workers=WorkersConfig)
    return lifecycle.run(_module(options.name).run(settings))


def _module(worker: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"dsp.workers.{worker}")
    except ModuleNotFoundError as fault:
        raise ConfigError([Fault(f"worker {worker}", f"needs an extra that is not installed: {fault}")]) from fault


def _up(_options: argparse.Namespace) -> int:
    from dsp import supervise
    from dsp.kernel import logging
    from dsp.store.database import url
    from dsp.store.migrate import upgrade

    try:
        settings = _settings(up=supervise.UpConfig)
        children = supervise.platform(settings["up"], os.environ.get(config.ENV_FILE), os.environ)
    except ConfigError:
        if supervise.refused(supervise.CHECKS):  # these have said it, and what is wrong in all other tables
            return 1
        raise
    platform: config.Platform = settings["platform"]
    logging.configure("supervisor", platform.log_level)

    def prepare() -> None:
        upgrade(url(platform))

    return supervise.run(children, platform.data_path, prepare, checks=supervise.CHECKS)


@contextmanager
def _session(*, read_only: bool = False) -> Iterator[Any]:
    """Hold one transaction on the migrated database."""
    from dsp.store.database import session_factory

    with _engine() as engine, session_factory(engine, read_only=read_only).begin() as session:
        yield session


@contextmanager
def _engine() -> Iterator[Any]:
    """Hold the migrated database."""
    from sqlalchemy.exc import DatabaseError

    from dsp.kernel.errors import UnavailableError
    from dsp.store.database import create_engine, url
    from dsp.store.migrate import current, serves

    engine = create_engine(url(_settings()["platform"]))
    try:
        if not serves(current(engine)):
            raise UnavailableError("the database's schema is not the newest; run `python -m dsp migrate`")
        yield engine
    except DatabaseError as fault:
        raise UnavailableError(f"the database does not answer: {fault.orig}") from fault
    finally:
        engine.dispose()


def _shown(address: str) -> str:
    from sqlalchemy import make_url

    return make_url(address).render_as_string(hide_password=True)


if __name__ == "__main__":
    limits.hide_files()
    sys.exit(main())
