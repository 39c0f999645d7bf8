"""Which processes make the platform on one host, and what they are told beyond the settings file."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from dsp.kernel.config import require
from dsp.kernel.errors import ConfigError, Fault
from dsp.supervise.ports import Address
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

    Of the settings in the TOML file `path` and in `env` it reads where they listen, unchecked: the processes check
    their own tables.

    Raises:
        ConfigError: a port is no number.
    """
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8")) if path else {}

    def setting(table: str, name: str, default: object) -> str:
        return env.get(f"DSP_{table}_{name}".upper(), str(tables.get(table, {}).get(name, default)))

    def address(table: str, port: str, default_port: int, host: str = "host") -> Address | None:
        number = _number(f"{table}.{port}", setting(table, port, default_port))
        return (setting(table, host, "127.0.0.1"), number) if number else None  # port 0 is chosen by the process itself

    metrics = address("workers", "metrics_port_base", 0, "metrics_host")

    workers = [
        Child(
            name if count == 1 else f"{name}-{number}",
            ("-m", "dsp", "worker", name),
            # Two processes cannot listen on one port: from the second on a worker is told another base.
            environment={_METRICS_PORT_BASE: str(_base(metrics, number))} if metrics and number > 1 else {},
            nice=WORKER_NICE,
            listens=_metrics(metrics, name, number),
        )
        for name, count in ((name, up.workers.get(name, 1)) for name in WORKERS)
        for number in range(1, count + 1)
    ]
    workers.append(Child("online", ("-m", "models", "online"), listens=_metrics(metrics, "online", 1)))
    serves = address("api", "port", 8000)
    api = Child("api", ("-m", "dsp", "api"), serves, listens=(serves,) if serves else ())
    shared = [each for each in (address("bidder", "bid_port", 8080), address("bidder", "notice_port", 8081)) if each]
    admin = address("bidder", "admin_port", 9090, "admin_host")
    return [*workers, api, *(_bidder(number, up.bidders, shared, admin) for number in range(up.bidders))]


def _base(metrics: Address, number: int) -> int:
    return metrics[1] + (number - 1) * len(METERED)


def _metrics(metrics: Address | None, name: str, number: int) -> tuple[Address, ...]:
    return ((metrics[0], _base(metrics, number) + METERED.index(name)),) if metrics else ()


def _number(setting: str, told: str | int) -> int:
    try:
        return int(told)
    except ValueError as fault:
        raise ConfigError([Fault(setting, f"must be a number, not {told!r}")]) from fault


def _bidder(number: int, of: int, shared: Sequence[Address], admin: Address | None) -> Child:
    """Return the n-th of the bidders; where there are several, with the process that takes over from it."""

    def made(name: str, admin: Address | None, told: Mapping[str, str]) -> Child:
        listens = (*shared, admin) if admin else tuple(shared)
        return Child(name, ("-m", "bidder"), admin, BIDDER_STOP_SECONDS, told, listens=listens)

    def turn(which: int) -> Child:
        name = f"bidder-{number + 1}{'b' * which}"
        address = (admin[0], admin[1] + 2 * number + which) if admin is not None else None
        told = {
            "DSP_BIDDER_HOLDER": name,
            "DSP_BIDDER_REUSE_PORT": "true",
            "DSP_BIDDER_ADMIN_PORT": str(address[1] if address is not None else 0),
        }
        return made(name, address, told)

    return made("bidder", admin, {}) if of == 1 else turn(0)._replace(relief=turn(1))
