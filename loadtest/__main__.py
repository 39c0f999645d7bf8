"""The command line: `python -m loadtest COMMAND`. Each command imports what it needs."""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from loadtest.bids.run import Subject

RATE_MAX = 5_000.0
LINE_ITEMS_MAX = 200_000


_Number = TypeVar("_Number", int, float)


def _within(kind: Callable[[float], _Number], low: float, high: float) -> Callable[[str], _Number]:
    """Return what reads an option's number and refuses one outside these bounds."""

    def number(text: str) -> _Number:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}")
        return kind(value)

    return number


_density = _within(int, 1, 10)
_requests = _within(int, 1_000, 1_000_000)
_count = _within(int, 1, 512)
_line_items = _within(int, 1, LINE_ITEMS_MAX)
_rate = _within(float, 1.0, RATE_MAX)
_seconds = _within(float, 1.0, 3_600.0)
_latency = _within(float, 0.1, 10_000.0)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0 good, 1 failed, 2 misused, 130 interrupted."""
    from dsp.kernel import logging
    from dsp.kernel.errors import DspError, InputError
    from loadtest.platform import PlatformError

    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our characters costs their look, not the report
            stream.reconfigure(errors="replace")
    logging.configure("loadtest", "error")  # faults that are simulated make warnings, which are no part of a report
    try:
        status: int = options.run(options)
    except InputError as fault:
        print(f"loadtest: {fault}", file=sys.stderr)
        return 2
    except (DspError, OSError, PlatformError) as fault:
        print(f"loadtest: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Drives the platform.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="run the whole platform for about two minutes and report")
    demo.add_argument("--dir", type=Path, default=Path("var/demo"), help="data directory, emptied first (%(default)s)")
    demo.add_argument("--rate", type=_rate, default=1_500.0, help="requests per second (%(default)s)")
    demo.add_argument("--phase-seconds", type=_seconds, default=40.0, help="before training and after (%(default)s)")
    demo.set_defaults(run=_demo)
    replay = commands.add_parser("replay", help="send recorded requests to a bidder with the demo catalogue")
    replay.add_argument("--requests", type=Path, required=True, metavar="FILE", help="JSON lines, gzip or plain")
    replay.add_argument("--exchange", default="openrtb", help="profile that the requests come under (%(default)s)")
    replay.add_argument("--connections", type=_count, default=4, help="requests at a time (%(default)s)")
    replay.set_defaults(run=_replay)
    faults = commands.add_parser("faults", help="simulate 16 bidders with everything that can go wrong with money")
    faults.add_argument("--seeds", type=_seeds, default=range(50), metavar="A:B", help="from A to B - 1, or one (0:50)")
    faults.add_argument("--trace", action="store_true", help="print every step of the faulty runs, and their digests")
    faults.add_argument("--density", type=_density, default=1, help="so many times the kills, pauses and clock steps")
    faults.set_defaults(run=_faults)
    day = commands.add_parser("day", help="simulate a day of traffic and hold spend against plan, hour by hour")
    day.add_argument("--requests", type=_requests, default=48_000, help="a day (%(default)s)")
    day.add_argument("--picture", type=Path, metavar="PNG", help="draw spend and plan into this file")
    day.set_defaults(run=_day)
    cluster = commands.add_parser("cluster", help="two bidders and two ledgers on Kafka, Valkey and PostgreSQL")
    cluster.add_argument("--seconds", type=_seconds, default=60.0, help="of load (%(default)s)")
    cluster.add_argument("--rate", type=_rate, default=100.0, help="requests per second (%(default)s)")
    cluster.set_defaults(run=_cluster)
    drill = commands.add_parser("drill", help="break one part of `cluster` after the other, and say what it costs")
    drill.add_argument("faults", nargs="*", metavar="NAME", help="those whose names hold one of these; else all")
    drill.add_argument("--rate", type=_rate, default=30.0, help="requests per second (%(default)s)")
    drill.set_defaults(run=_drill)
    learning = commands.add_parser("learning", help="measure what a day of learning is worth in the simulated market")
    learning.add_argument("--requests", type=_requests, default=100_000, help="of the day learned from (%(default)s)")
    learning.add_argument("--bought", type=_requests, default=20_000, help="requests of the next day (%(default)s)")
    learning.add_argument("--seeds", type=_count, default=3, help="of rivals and people (%(default)s)")
    learning.add_argument("--limits", action="store_true", help="also what can be known, and what selection costs")
    learning.add_argument("--same-people", action="store_true", help="the next day's people are those of the first")
    learning.set_defaults(run=_learning)
    _add_measurements(commands)
    for command in (demo, day, cluster, drill):
        command.add_argument("--seed", type=int, default=1, help="seed of the traffic (%(default)s)")
    for name, command in commands.choices.items():
        if name != "demo":  # which writes its report into a file
            command.add_argument("--json", action="store_true", help="print the report on one line")
    return parser


def _add_measurements(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands that measure one bidder process with a generated catalogue."""
    bids = commands.add_parser("bids", help="what one bidder process answers, beside HTTP that decides nothing")
    _served(bids)
    bids.add_argument("--connections", type=_count, default=32, help="each waits for its answer (%(default)s)")
    bids.add_argument("--seconds", type=_seconds, default=10.0, help="of load on each of the two (%(default)s)")
    bids.set_defaults(run=_bids)
    capacity = commands.add_parser("capacity", help="the highest rate at which one bidder keeps its service level")
    _served(capacity)
    capacity.add_argument("--slo-p99-ms", type=_latency, default=20.0, help="of all answers (%(default)s)")
    capacity.add_argument("--step-seconds", type=_seconds, default=4.0, help="of load at each rate (%(default)s)")
    capacity.add_argument("--picture", type=Path, metavar="PNG", help="draw latency against rate into this file")
    capacity.set_defaults(run=_capacity)
    soak = commands.add_parser("soak", help="whether one bidder's memory stays flat under steady load")
    _served(soak)
    soak.add_argument("--seconds", type=_seconds, default=600.0, help="of load (%(default)s)")
    soak.add_argument("--rate", type=_rate, default=300.0, help="requests per second (%(default)s)")
    soak.set_defaults(run=_soak)


def _served(command: argparse.ArgumentParser) -> None:
    """Add what those commands have in common."""
    command.add_argument("--requests", type=Path, metavar="FILE", help="JSON lines, gzip or plain; default: simulated")
    command.add_argument("--line-items", type=_line_items, default=10_000, help="of the catalogue (%(default)s)")
    command.add_argument("--mix", choices=("bid", "no-bid"), default="bid", help="what becomes of them (%(default)s)")
    command.add_argument("--no-model", action="store_true", help="the prior scores")


def _subject(options: argparse.Namespace) -> "Subject":
    from loadtest.bids.catalogue import Mix
    from loadtest.bids.run import Subject

    return Subject(options.requests, options.line_items, Mix(options.mix), not options.no_model)


def _bids(options: argparse.Namespace) -> int:
    from loadtest.bids.run import main

    return main(_subject(options), options.connections, options.seconds, options.json)


def _capacity(options: argparse.Namespace) -> int:
    from loadtest.capacity.run import main

    return main(_subject(options), options.slo_p99_ms, options.step_seconds, options.picture, options.json)


def _soak(options: argparse.Namespace) -> int:
    from loadtest.soak import main

    return main(_subject(options), options.seconds, options.rate, options.json)


def _faults(options: argparse.Namespace) -> int:
    from loadtest.faults.report import main

    return main(options.seeds, options.json, options.trace, options.density)


def _day(options: argparse.Namespace) -> int:
    from loadtest.day.report import main

    return main(options.seed, options.requests, options.json, options.picture)


def _cluster(options: argparse.Namespace) -> int:
    from loadtest.cluster.run import main

    return main(options.seconds, options.rate, options.seed, options.json)


def _drill(options: argparse.Namespace) -> int:
    from loadtest.cluster.drill import main

    return main(options.faults, options.rate, options.seed, options.json)


def _learning(options: argparse.Namespace) -> int:
    from loadtest.learning.report import main

    return main(options.requests, options.bought, options.seeds, options.limits, options.json, options.same_people)


def _demo(options: argparse.Namespace) -> int:
    from loadtest.demo import Options, main

    return main(Options(options.dir, options.seed, options.rate, options.phase_seconds))


def _replay(options: argparse.Namespace) -> int:
    from loadtest.replay import replay

    report = replay(options.requests, options.exchange, options.connections)
    print(json.dumps(report, indent=None if options.json else 2))
    unexpected = {status for status in report["status"] if status.startswith("5")}
    return int(bool(report["exceptions"] or unexpected))


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    found = range(int(first), int(end) if end else int(first) + 1)
    if not found or found.start < 0:
        raise argparse.ArgumentTypeError("must be A:B with 0 <= A < B, or one seed")
    return found


if __name__ == "__main__":
    sys.exit(main())
