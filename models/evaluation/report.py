"""Evaluation for people: tables as plain text, and a bundle's model card."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

#: Metric, its heading, and how it is written.
_COLUMNS = (
    ("log_loss", "log loss", ".5f"),
    ("normalised_entropy", "norm. entropy", ".4f"),
    ("auc", "AUC", ".4f"),
    ("pcoc", "predicted/{}", ".3f"),
    ("ece", "ECE", ".5f"),
)


def comparison(scores: Mapping[str, Mapping[str, Any]], rows_are: str = "rows", came: str = "clicks") -> str:
    """Return a Markdown table of predictors (by name) and their metrics; `rows_are` clicks where `came` conversions."""
    header = ["predictor", rows_are, came, *(heading.format(came) for _, heading, _ in _COLUMNS)]
    rows = [
        [
            name,
            f"{score['rows']:,}",
            f"{score['clicks']:,}",
            *(or_dash(score.get(metric), form) for metric, _, form in _COLUMNS),
        ]
        for name, score in scores.items()
    ]
    return table(header, rows)


def reliability(bins: Sequence[Mapping[str, Any]]) -> str:
    """Return the reliability table: rows in tenths by prediction, what was predicted and what came."""
    rows = [
        [str(number), f"{entry['rows']:,}", f"{entry['predicted']:.4f}", f"{entry['observed']:.4f}", _bars(entry)]
        for number, entry in enumerate(bins, 1)
    ]
    return table(["tenth", "rows", "predicted", "observed", "observed/predicted"], rows)


def card(manifest: Mapping[str, Any]) -> str:
    """Return the model card of a bundle: what it is, what it was trained on, how good it was, and its limits."""
    data, ctr, cvr = manifest["data"], manifest["ctr"], manifest["cvr"]
    strengths = sorted(ctr.get("strengths", {}).items(), key=lambda pair: (pair[1], pair[0]))
    weakest = max((strength for _, strength in strengths), default=0.0)
    told = ", ".join(f"{name} ({strength:g})" for name, strength in strengths if strength < weakest)
    parts = [
        f"# Click and conversion model of {time(manifest['built_at_ms'])}",
        "Predicts the probability of a click given an impression, and of a conversion given a click. Used to value "
        "impressions for CPC and CPA goals.",
        "## Data",
        f"{data['impressions']:,} impressions from {time(data['from_ms'])} to {time(data['to_ms'])}, with "
        f"{data['clicks']:,} clicks and {data['conversions']:,} conversions. Left out: {data['immature']:,} too young, "
        f"{data['foreign']:,} of other features, {len(data['skipped'])} unreadable files, {len(data['holes'])} hours "
        "without data.",
        "## Clicks",
        f"{_made_of(ctr)} Then calibrated as a whole, by exchange and by campaign. Every row below was predicted by "
        "what was learned from strictly earlier rows; then the model was fitted to all.",
        comparison(ctr["scores"]),
        _chosen(ctr["choice"]),
        "### Reliability",
        reliability(ctr["scores"]["candidate"]["reliability"]),
        *(
            [f"What tells (strength of the prior in expected clicks, small tells much): {told or 'nothing'}."]
            * bool(strengths)
        ),
        "## Conversions",
        cvr["note"],
        *([comparison(cvr["scores"], "clicks", "conversions")] if cvr["scores"] else []),
        "## Limits",
        "Learned from impressions that we won: it extrapolates where we never bid. New values count as average.",
    ]
    return "\n\n".join(parts) + "\n"


#: What each kind of model is, in a card.
_KINDS = {
    "ftrl": "hashed logistic regression of values and pairs of values",
    "gbdt": "shrunk statistics of values and pairs of values with {trees} boosted trees on top",
    "network": "a DCN-v2 network of learned vectors",
}


def _made_of(rate: Mapping[str, Any]) -> str:
    named = {name: _KINDS[name].format(trees=rate.get("trees", 0)) for name in rate["weights"]}
    if len(named) == 1:
        return f"{next(iter(named.values())).capitalize()}."
    return "A blend of " + "; ".join(f"{text} ({rate['weights'][name]:.2f})" for name, text in named.items()) + "."


def _chosen(choice: Mapping[str, Any]) -> str:
    found = ", ".join(f"{name} {loss:.5f}" for name, loss in choice["log_losses"].items())
    absent = "".join(f" No {name}: {why}." for name, why in choice["absent"].items())
    return (
        f"Log loss of each kind of model: {found}. {choice['winner']} serves: the first, unless a later one is better "
        f"with the gate's confidence.{absent}"
    )


def evaluation(answer: Mapping[str, Any]) -> str:
    """Return what `evaluate` found, for a terminal."""
    scores = {
        side["name"]: side for side in (answer["constant"], answer["before"], answer["after"]) if side is not None
    }
    parts = [comparison(scores)]
    best = answer["after"] or answer["before"]
    if best["reliability"]:
        parts += [f"Reliability of {best['name']} ({best['version']})", reliability(best["reliability"])]
    if answer["in_sample"]:
        parts.append("The champion was trained on some of these rows: its scores flatter it.")
    if answer["fault"]:
        parts.append(f"The champion cannot be used: {answer['fault']}")
    parts += [f"Left out: {path['path']}: {path['reason']}" for path in answer["data"]["skipped"]]
    return "\n\n".join(parts)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def or_dash(value: float | None, form: str) -> str:
    """Return a figure as `format` writes it, a dash where there is none."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def spans(hours: Sequence[str]) -> list[str]:
    """Return folders of hours, in order of time, with those that follow one another told as one span."""
    found: list[list[str]] = []
    following = None
    for folder in hours:
        hour = datetime.strptime(f"{folder} +0000", "date=%Y-%m-%d/hour=%H %z")
        if hour == following:
            found[-1].append(folder)
        else:
            found.append([folder])
        following = hour + timedelta(hours=1)
    return [span[0] if len(span) == 1 else f"{span[0]} to {span[-1]} ({len(span)} hours)" for span in found]


def _bars(entry: Mapping[str, Any]) -> str:
    ratio = entry["observed"] / entry["predicted"] if entry["predicted"] > 0 else 0.0
    return f"{ratio:5.2f} " + "#" * min(20, round(ratio * 10))


def time(at_ms: int) -> str:
    """Return a time for people, in UTC."""
    return f"{datetime.fromtimestamp(at_ms // 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
