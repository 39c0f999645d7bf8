"""The commands that show models to people: `python -m models report` and `python -m models explain`."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform
from models.training.config import TrainingConfig

#: Libraries that read files and models are imported only by whoever runs a command: the parser is everybody's.
COMMANDS = ("report", "explain")


def add_parsers(commands: Any) -> None:
    """Add the commands to what argparse's add_subparsers returned."""
    report = commands.add_parser(
        "report", help="write an HTML report on a version, judged on traffic since its training"
    )
    report.add_argument("version", nargs="?", help="default: the champion")
    report.add_argument("--out", type=Path, help="file; default: reports/<version>.html in the data directory")
    explain = commands.add_parser("explain", help="say why a bid was made as it was: its rates as sums, then its price")
    explain.add_argument("--bid", required=True, help="the bid's id, as in its response and in the training log")
    explain.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(options: argparse.Namespace, platform: Platform, config: TrainingConfig) -> int:
    """Run the command that was asked for; return the exit status. Raises DspError as its parts do."""
    if options.command == "report":
        return _report(options, platform, config)
    from models.evaluation import explain, explain_text, known

    found = explain.explain(platform.data_path, options.bid, known.load(platform))
    print(msgspec.json.encode(found).decode() if options.json else explain_text.explanation(found))
    return 0


def _report(options: argparse.Namespace, platform: Platform, config: TrainingConfig) -> int:
    from models.evaluation import html, later

    version, found = later.review(platform, options.version, SystemClock().now_ms(), config)
    path = options.out or platform.data_path / "reports" / f"{version}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html.render(found), encoding="utf-8")
    print(path)
    return 0
