"""Command line: `python -m models nightly | online | evaluate | promote | shadow | rollback`, and those that report or
measure: `report | explain | benchmark`.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from dsp.kernel import lifecycle, limits, logging
from dsp.kernel.clock import SystemClock
from dsp.kernel.config import Platform, load
from dsp.kernel.errors import ConfigError, DspError, InputError
from dsp.workers.config import WorkersConfig
from models.benchmark import commands as benchmarks
from models.evaluation import commands as reports
from models.training.config import TrainingConfig


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status.

    That is 0 for done (keeping the champion is done), 1 for failed, 2 for refused settings or input, 130 for
    interrupted.
    """
    options = _parser().parse_args(arguments)
    logging.configure("models", "warning")
    try:
        if options.command == "benchmark":  # needs no settings: it reads the file that it is given
            return benchmarks.run(options)
        sections: dict[str, type[msgspec.Struct]] = {"platform": Platform, "training": TrainingConfig}
        if options.command in ("online", "check"):
            sections["workers"] = WorkersConfig
        settings = load(sections, options.config, os.environ)
        if options.command == "check":
            return 0
        if options.command == "online":
            return _online(settings)
        data_dir, config = settings["platform"].data_path, settings["training"]
        if options.command in reports.COMMANDS:
            return reports.run(options, settings["platform"], config)
        commands = {"nightly": _nightly, "evaluate": _evaluate}
        commands |= {"promote": _promote, "shadow": _shadow, "rollback": _rollback}
        return commands[options.command](options, data_dir, config)
    except (ConfigError, InputError) as fault:
        print(fault, file=sys.stderr)
        return 2
    except (DspError, OSError) as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models", description="Train, judge and publish models.")
    parser.add_argument("--config", help="TOML file; default: the one that DSP_CONFIG names")
    commands = parser.add_subparsers(dest="command", required=True)
    nightly = commands.add_parser("nightly", help="train on what was logged; publish what is better than the champion")
    commands.add_parser("check", help="check the settings of training and of the online learner, and do nothing")
    commands.add_parser("online", help="learn the prior from the event log, and publish it, until stopped")
    evaluate = commands.add_parser("evaluate", help="score the prior and the champion on logged impressions")
    evaluate.add_argument(
        "--from-ms", "--since-ms", type=int, required=True, help="first bid's time, Unix milliseconds"
    )
    evaluate.add_argument("--to-ms", type=int, help="end, exclusive; default: now")
    promote = commands.add_parser("promote", help="make a version the champion")
    promote.add_argument("version", help="as the registry's folder `versions` names it")
    shadow = commands.add_parser("shadow", help="let a version predict beside the champion, without a say in bids")
    shadow.add_argument("version", nargs="?", help="named as for `promote`; without one, shadow scoring ends")
    commands.add_parser("rollback", help="make the previous champion the champion again")
    reports.add_parsers(commands)
    benchmarks.add_parsers(commands.add_parser("benchmark", help="pacing, shading, ctr, predictor"))
    for command in (nightly, evaluate):
        command.add_argument("--json", action="store_true", help="one JSON document on standard output, steps on error")
    return parser


def _nightly(options: argparse.Namespace, data_dir: Path, config: TrainingConfig) -> int:
    from rich.console import Console

    from models.evaluation import report
    from models.training import nightly

    began = time.monotonic()
    console, steps = Console(highlight=False, markup=False, soft_wrap=True), [*nightly.STEPS]

    def progress(step: str, found: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - began, 2)
        if options.json:
            print(_json({"step": step, "seconds": seconds, **found}), file=sys.stderr, flush=True)
        else:
            resumed = " (done before)" if "resumed" in found else ""
            told = {name: value for name, value in found.items() if name != "resumed"}
            console.print(f"{seconds:7.2f} s  {step:9s} {_step(step, told)}{resumed}")
            status.update(" ".join(steps[steps.index(step) + 1 :][:1]))

    status = console.status(steps[0])
    with nullcontext() if options.json else status:
        outcome = nightly.run(data_dir, SystemClock().now_ms(), config, progress)
    seconds = round(time.monotonic() - began, 2)
    if options.json:
        manifest = outcome.manifest or {}
        about = {"data": manifest.get("data"), "ctr": manifest.get("ctr"), "cvr": manifest.get("cvr")}
        found = {"result": outcome.result, "reasons": outcome.reasons, "champion": outcome.champion}
        print(_json({**found, "seconds": seconds, **about}))
        return 0
    if outcome.manifest is not None:
        print("\n" + report.card(outcome.manifest))
    print(f"{outcome.result}: {'; '.join(outcome.reasons) or 'the new model serves from now on'}")
    print(f"champion: {outcome.champion or 'none, the prior serves'}   ({seconds} s)")
    return 0


def _online(settings: Mapping[str, msgspec.Struct]) -> int:
    from models.training import online

    return lifecycle.run(online.run(settings))


def _evaluate(options: argparse.Namespace, data_dir: Path, config: TrainingConfig) -> int:
    from models.evaluation import compare, report
    from models.training import dataset

    now_ms = SystemClock().now_ms()
    to_ms = now_ms if options.to_ms is None else options.to_ms
    data = dataset.load(data_dir / "training", options.from_ms, to_ms, now_ms, config)
    answer = compare.evaluate(data_dir / "models", data)
    print(_json(answer) if options.json else report.evaluation(answer))
    return 0


def _promote(options: argparse.Namespace, data_dir: Path, config: TrainingConfig) -> int:
    from models.training import aliases

    aliases.promote(data_dir / "models", options.version)
    print(f"champion: {options.version}")
    return 0


def _shadow(options: argparse.Namespace, data_dir: Path, config: TrainingConfig) -> int:
    from models.training import aliases

    aliases.shadow(data_dir / "models", options.version)
    print(f"challenger: {options.version or 'none'}")
    return 0


def _rollback(options: argparse.Namespace, data_dir: Path, config: TrainingConfig) -> int:
    from models.training import aliases

    print(f"champion: {aliases.rollback(data_dir / 'models')}")
    return 0


def _step(step: str, found: dict[str, Any]) -> str:
    if step == "dataset":
        from models.evaluation.report import spans

        text = "{impressions:,} impressions, {clicks:,} clicks, {conversions:,} conversions".format(**found)
        text += "".join(f"\n           {reason}" for reason in found.get("reasons", ()))
        text += "".join(f"\n           nothing of {span}" for span in spans(found["holes"]))
        return text + "".join(f"\n           left out {entry['path']}: {entry['reason']}" for entry in found["skipped"])
    if step == "evaluate":
        scores = {name: score["log_loss"] for name, score in found["scores"].items()}
        text = "log loss " + ", ".join(f"{name} {loss:.5f}" for name, loss in scores.items() if loss is not None)
        fault = found.get("fault")
        return text if fault is None else f"{text}\n           the champion cannot be used: {fault}"
    if step == "calibrate":
        made = ", ".join(f"{name} {weight:.2f}" for name, weight in found["ctr"]["weights"].items())
        return f"{made}, slope {found['ctr']['slope']:.3f}; conversions: {found['cvr']['kind']}"
    if step == "train":
        return "; ".join(f"{name}: {_losses(choice)}" for name, choice in found.items())
    if step == "gate":
        return "; ".join([found["candidate"], *found["reasons"]])
    told = ", ".join(f"{name} {value}" for name, value in found.items() if name != "reasons")
    refused = found.get("reasons", ()) if step == "landscape" else ()
    return told + "".join(f"\n           {reason}" for reason in refused)


def _losses(choice: dict[str, Any]) -> str:
    losses = ", ".join(f"{name} {loss:.5f}" for name, loss in choice["log_losses"].items())
    return f"{choice['winner']} (log loss {losses})"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


if __name__ == "__main__":
    limits.hide_files()
    sys.exit(main())
