"""`python -m loadtest learning`: what a day of learning recovers of what the true response model would bring."""

import json
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.learning.experiment import LOG, POLICIES, UNSELECTED, VISIBLE, WIRE, Experiment, Run

_SAYS = {
    "prior": "rates assumed before the first impression",
    "smoothed": "rates of a day, smoothed along the hierarchy of ads",
    "learned": "what the nightly published of a day",
    "oracle": "the true response model",
    VISIBLE: "the true response model of people by the segment that matters to the ad",
    WIRE: "the same by all that the wire says of them, and by today's responses",
    LOG: "the same, and by yesterday's responses too",
    UNSELECTED: "as learned, had as many ads been shown to anybody",
}


def main(learned: int, bought: int, seeds: int, limits: bool, as_json: bool, same_people: bool = False) -> int:
    """Run the seeds and report; return 0 when every night published a model.

    `learned` and `bought` are requests of the two days, of different people unless `same_people`.
    """
    experiment = Experiment(learned, bought, same_people)
    runs = [experiment.run(seed, limits) for seed in range(1, seeds + 1)]
    found = {"requests": {"learned": learned, "bought": bought}, "same_people": same_people, **summary(runs)}
    if as_json:
        print(json.dumps(found))
    else:
        _show(found)
    return 0 if all(run.outcome == "published" for run in runs) else 1


def summary(runs: list[Run]) -> dict[str, Any]:
    """Return the figures: means over the seeds, the spread of what was recovered, and each seed's own."""
    recovered = [run.recovered() for run in runs]
    return {
        "impressions": round(fmean(run.impressions for run in runs)),
        "clicks": round(fmean(run.clicks for run in runs)),
        "conversions": round(fmean(run.conversions for run in runs)),
        **{name: round(fmean(run.bought[name].value for run in runs), 3) for name in POLICIES},
        "recovered": round(fmean(recovered), 4),
        "recovered_sd": round(stdev(recovered), 4) if len(runs) > 1 else 0.0,
        "recovered_over_smoothed": round(fmean(run.recovered("smoothed") for run in runs), 4),
        "bought": {name: _mean_bought(name, runs) for name in runs[0].bought},
        "recovered_by": {
            name: round(fmean(run.recovered(by=name) for run in runs if name in run.bought), 4)
            for name in runs[0].bought
        },
        "seeds": [
            {
                "seed": run.seed,
                "nightly": run.outcome,
                **{name: round(run.bought[name].value, 3) for name in POLICIES},
                "recovered": round(run.recovered(), 4),
            }
            for run in runs
        ],
    }


def _mean_bought(name: str, runs: list[Run]) -> dict[str, Any]:
    of = [run.bought[name] for run in runs if name in run.bought]
    parts = of[0].calibration
    return {
        "value": round(fmean(one.value for one in of), 3),
        "cost": round(fmean(one.cost for one in of), 3),
        "impressions": round(fmean(one.impressions for one in of)),
        "calibration": {part: round(fmean(one.calibration[part] for one in of), 4) for part in parts},
    }


def _show(found: dict[str, Any]) -> None:
    requests = found["requests"]
    table = Table(
        title=f"{requests['bought']:,} requests, learned from {requests['learned']:,} of the day before: "
        f"{found['impressions']:,} impressions, {found['clicks']:,} clicks, {found['conversions']:,} conversions"
    )
    names = ("predictions", "", "value", "cost", "impressions", "calibration: all", "of bids", "of wins")
    for name in names:
        table.add_column(name, justify="left" if name in names[:2] else "right")
    for name, bought in found["bought"].items():
        figures = [f"{bought['value']:.2f}", f"{bought['cost']:.2f}", f"{bought['impressions']:,}"]
        table.add_row(name, _SAYS[name], *figures, *(f"{rate:.3f}" for rate in bought["calibration"].values()))
    console = Console()
    console.print(table)
    console.print(
        f"recovered {found['recovered']:.1%} (standard deviation {found['recovered_sd']:.1%}) of the gain over the "
        f"prior, {found['recovered_over_smoothed']:.1%} of the gain over smoothed rates"
    )
    known = found["recovered_by"].get(WIRE)
    if known:
        console.print(
            f"{found['recovered'] / known:.1%} of the most that can be known: with the true response model and of "
            f"people what the wire says recovers {known:.1%}"
        )
    for one in found["seeds"]:
        if one["nightly"] != "published":
            console.print(f"seed {one['seed']}: the nightly published nothing: {one['nightly']}")
