"""The command line of the benchmarks: each is a module of this package with `HELP`, `add_arguments` and `run`."""

import argparse
from types import ModuleType

from models.benchmark import ctr, pacing, predictor, shading

#: Modules may import training and drawing libraries only inside `run`: this table is read by every command of `models`.
BENCHMARKS: dict[str, ModuleType] = {"ctr": ctr, "pacing": pacing, "predictor": predictor, "shading": shading}


def add_parsers(parser: argparse.ArgumentParser) -> None:
    """Give `parser` one sub-command a benchmark; options then hold `benchmark`, its name."""
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark that was asked for; return the exit status."""
    status: int = BENCHMARKS[options.benchmark].run(options)
    return status
