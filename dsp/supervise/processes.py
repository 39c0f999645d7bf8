"""Which processes make the platform on one host, and what they are told beyond the settings file."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dsp.kernel.config import require
from dsp.kernel.errors import ConfigError, Fault
from dsp.supervise.supervisor import Child
from dsp.workers.config import METERED, WORKERS

_METRICS_PORT_BASE = "DSP_WORKERS_METRICS_PORT_BASE"
BIDDER_STOP_SECONDS = 15.0  # it drains, and empties its outbox
#: Read what the platform's processes read when they start, settings and code, and fail where that is refused.
CHECKS = (("-m", "dsp", "check"), ("-m", "bidder", "--check"), ("-m", "models", "check"))
#: Where all share a host's processors, an exchange waits for the bidder, and nobody for a worker.
WORKER_NICE = 5


class UpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `dsp up` runs on this host."""

    #: Processes that answer bids and take notices on the same ports, about one for each core. Of several the n-th (from
    #: 0) has the bidder's `admin_port` + 2n, or + 2n + 1 after each second rolling restart.
    bidders: int = 1
    #: Processes of each worker, where more than one: `{ ledger = 2 }`. Partitions of the event log bound how many help.
    #: Each further one has its metrics port above those of all workers before it.
    workers: dict[str, int] = {}

    def __post_init__(self) -> None:
        unknown = sorted(self.workers.keys() - set(WORKERS))
        require(
            ("bidders", self.bidders >= 1, "must be above 0"),
            ("workers", not unknown, f"no such worker: {', '.join(unknown)}"),
            ("workers", all(count >= 1 for count in self.workers.values()), "must be above 0"),
        )


def platform(up: UpConfig, path: str | None, env: Mapping[str, str]) -> list[Child]:
    """Return the platform's processes, the bidders last, so that they stop first.

    Of the settings in the TOML file `path` and in `env` it reads where bidders and API answer `/readyz`, unchecked:
    the processes check their own tables.

    Raises:
        ConfigError: a port is no number.
    """
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}

    def address(table: str, prefix: str, default_port: int) -> tuple[str, int] | None:
        def setting(name: str, default: object) -> str:
            key = f"{prefix}{name}"
            return env.get(f"DSP_{table}_{key}".upper(), str(tables.get(table, {}).get(key, default)))

        port = _number(f"{table}.{prefix}port", setting("port", default_port))
        return (setting("host", "127.0.0.1"), port) if port else None  # port 0 is chosen by the process itself

    metrics_told = env.get(_METRICS_PORT_BASE, tables.get("workers", {}).get("metrics_port_base", 0))
    metrics_base = _number("workers.metrics_port_base", metrics_told)

    def metrics_port(number: int) -> dict[str, str]:
        """Two processes cannot listen on one port: from the second on a worker is told another base."""
        if number == 1 or not metrics_base:
            return {}
        return {_METRICS_PORT_BASE: str(metrics_base + (number - 1) * len(METERED))}

    workers = [
        Child(
            name if count == 1 else f"{name}-{number}",
            ("-m", "dsp", "worker", name),
            environment=metrics_port(number),
            nice=WORKER_NICE,
        )
        for name, count in ((name, up.workers.get(name, 1)) for name in WORKERS)
        for number in range(1, count + 1)
    ]
    workers.append(Child("online", ("-m", "models", "online")))
    api = Child("api", ("-m", "dsp", "api"), address("api", "", 8000))
    admin = address("bidder", "admin_", 9090)
    return [*workers, api, *(_bidder(number, up.bidders, admin) for number in range(up.bidders))]


def _number(setting: str, told: str | int) -> int:
    try:
        return int(told)
    except ValueError as fault:
        raise ConfigError([Fault(setting, f"must be a number, not {told!r}")]) from fault


def _bidder(number: int, of: int, admin: tuple[str, int] | None) -> Child:
    """Return the n-th of the bidders; where there are several, with the process that takes over from it."""
    if of == 1:
        return Child("bidder", ("-m", "bidder"), admin, BIDDER_STOP_SECONDS)

    def turn(which: int) -> Child:
        name = f"bidder-{number + 1}{'b' * which}"
        address = (admin[0], admin[1] + 2 * number + which) if admin is not None else None
        told = {
            "DSP_BIDDER_HOLDER": name,
            "DSP_BIDDER_REUSE_PORT": "true",
            "DSP_BIDDER_ADMIN_PORT": str(address[1] if address is not None else 0),
        }
        return Child(name, ("-m", "bidder"), address, BIDDER_STOP_SECONDS, told)

    return turn(0)._replace(relief=turn(1))
