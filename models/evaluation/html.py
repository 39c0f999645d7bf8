"""A review of a model version as one HTML file that needs nothing else: style and pictures lie within, no scripts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from models.evaluation import svg
from models.evaluation.drift import LARGE, MODERATE, Drift
from models.evaluation.importance import Importance, Spread
from models.evaluation.names import words
from models.evaluation.parts import Kind
from models.evaluation.report import or_dash, spans, time
from models.evaluation.review import CONFIDENCE, Part, Parting, Review, Score
from models.evaluation.style import CSS

_ROWS_SHOWN = 15  # of a long table; the rest is folded
#: The gate's results: how a person calls them, and the colour of that.
_RESULTS: Mapping[str, tuple[str, str]] = {
    "promote": ("promoted", "good"),
    "published": ("promoted", "good"),
    "shadow": ("in shadow", "warn"),
    "refuse": ("refused", "bad"),
    "refused": ("refused", "bad"),
}


def render(review: Review) -> str:
    """Return the page. Everything that comes from data is escaped."""
    version = review.version or "not published"
    body = [
        _header(review, version),
        _tiles(review),
        _comparison(review),
        _calibration(review),
        *(_parting(parting, review) for parting in review.partings),
        _drift(review),
        _importance(review.importance),
        _contest(review.manifest),
        _spread(review.spread),
        _data(review),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Model report {escape(version)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _header(review: Review, version: str) -> str:
    word, kind = _RESULTS.get(review.result, (review.result, "open"))
    badge = f' <span class="badge {kind}">{escape(word)}</span>' if word else ""
    reasons = f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in review.reasons)}</ul>" if review.reasons else ""
    return (
        f'<header><h1>Model report{badge}</h1><p class="soft"><code>{escape(version)}</code>, '
        f"report of {time(review.made_at_ms)}</p>{reasons}</header>"
    )


def _tiles(review: Review) -> str:
    subject = review.scores[0]
    metrics = subject.metrics
    found = review.difference
    base = review.scores[1].metrics.log_loss
    gain = "-" if not base else f"{found.mean / base:+.2%}"
    kind = "good" if found.low > 0 else "bad" if found.high < 0 else "open"
    tiles = [
        (f"{metrics.rows:,}", f"impressions judged, {metrics.clicks:,} clicks", ""),
        (gain, f"of log loss saved against the {review.baseline}", kind),
        (or_dash(metrics.auc, ".4f"), "AUC: chance that a click outranks none", ""),
        (or_dash(metrics.normalised_entropy, ".4f"), "normalised entropy: 1 is the mean rate", ""),
        (
            or_dash(metrics.pcoc, ".3f"),
            f"predictions over clicks; {CONFIDENCE:.0%} interval {_bounds(subject.low, subject.high)}",
            "good" if _covers(subject.low, subject.high) else "bad",
        ),
    ]
    shown = (
        f'<div class="tile"><b class="{kind}">{value}</b><span>{escape(text)}</span></div>'
        for value, text, kind in tiles
    )
    return f'<div class="tiles">{"".join(shown)}</div>'


def _comparison(review: Review) -> str:
    found = review.difference
    sure = 2.0 * review.confidence - 1.0
    text = (
        f"Log loss of the {review.baseline} minus that of the {review.subject}, on the same {found.rows:,} rows with "
        f"{found.clicks:,} clicks: {found.mean:+.6f} nats a row, {sure:.0%} interval {found.low:+.6f} to "
        f"{found.high:+.6f} (bootstrap over rows)."
    )
    picture = svg.difference(found.mean, found.low, found.high, text)
    header = [
        "predictor",
        "log loss",
        "norm. entropy",
        "AUC",
        f"GAUC by {review.grouped}",
        "predicted / clicks",
        "",
        "ECE",
    ]
    rows = [_score(score) for score in review.scores]
    return _section(
        f"{review.subject.capitalize()} against {review.baseline}",
        f"<p>{escape(review.judged)}</p><p>{escape(text)}</p><figure class='difference'>{picture}</figure>"
        + _table(header, rows, first="subject")
        + f'<p class="soft">GAUC is the AUC within each {escape(review.grouped)}, weighed by its rows: what remains of '
        "the ranking when knowing which one it is does not help. Dots: predicted over clicks, between 0.5 and 2.</p>",
    )


def _score(score: Score) -> list[str]:
    metrics = score.metrics
    return [
        escape(score.name),
        or_dash(metrics.log_loss, ".5f"),
        or_dash(metrics.normalised_entropy, ".4f"),
        or_dash(metrics.auc, ".4f"),
        or_dash(score.gauc, ".4f"),
        or_dash(metrics.pcoc, ".3f"),
        svg.ratio(metrics.pcoc, score.low, score.high, _bounds(score.low, score.high)),
        or_dash(metrics.ece, ".5f"),
    ]


def _calibration(review: Review) -> str:
    axis = svg.rates_axis([review.curve])
    picture = svg.reliability(review.curve, axis, 320, "reliability of all rows", CONFIDENCE)
    rows = [
        [str(number), f"{point.rows:,}", f"{point.clicks:,}", f"{point.predicted:.5f}", f"{point.observed:.5f}"]
        for number, point in enumerate(review.curve, 1)
    ]
    header = ["part", "rows", "clicks", "predicted", "came"]
    return _section(
        "Calibration",
        f"<p>What was predicted (across) and the rate that came (up), in parts of equal size. On the dashed line all "
        f"predictions come true; bars are {CONFIDENCE:.0%} intervals of the clicks alone. Hollow: no click came.</p>"
        f'<div class="pair"><figure>{picture}</figure>{_table(header, rows)}</div>',
    )


def _parting(parting: Parting, review: Review) -> str:
    axis = svg.rates_axis([part.found.curve for part in parting.parts])
    charts = "".join(_chart(part, axis) for part in parting.parts if part.found.metrics.clicks)
    header = [
        parting.name,
        "rows",
        "clicks",
        "log loss",
        "norm. entropy",
        "AUC",
        "predicted / clicks",
        "",
        f"{review.baseline}'s",
    ]
    rows = [
        [
            escape(part.label),
            f"{part.found.metrics.rows:,}",
            f"{part.found.metrics.clicks:,}",
            or_dash(part.found.metrics.log_loss, ".5f"),
            or_dash(part.found.metrics.normalised_entropy, ".4f"),
            or_dash(part.found.metrics.auc, ".4f"),
            or_dash(part.found.metrics.pcoc, ".3f"),
            svg.ratio(part.found.metrics.pcoc, part.found.low, part.found.high, _part_bounds(part)),
            or_dash(part.baseline_pcoc, ".3f"),
        ]
        for part in parting.parts
    ]
    off = [part.label for part in parting.parts if not _covers(part.found.low, part.found.high)]
    count = len(parting.parts)
    told = (
        f"Off beyond chance ({CONFIDENCE:.0%} each): {len(off)} of {count} parts, {', '.join(off)}."
        if off
        else f"Predictions and clicks agree within chance ({CONFIDENCE:.0%} each) in "
        + ("the only part." if count == 1 else f"all {count} parts.")
    )
    return _section(
        f"By {parting.name}", f"<p>{escape(told)}</p><div class='charts'>{charts}</div>{_table(header, rows)}"
    )


def _chart(part: Part, axis: svg.Axis) -> str:
    metrics = part.found.metrics
    picture = svg.reliability(part.found.curve, axis, 190, f"reliability of {part.label}", CONFIDENCE)
    return (
        f"<figure>{picture}<figcaption><b>{escape(part.label)}</b><br>{metrics.clicks:,} clicks of {metrics.rows:,}<br>"
        f"predicted / clicks {or_dash(metrics.pcoc, '.2f')} ({_part_bounds(part)})</figcaption></figure>"
    )


def _drift(review: Review) -> str:
    shift = review.shift
    if not shift.inputs:
        return _section("Drift", "<p>There are no earlier rows to compare with.</p>")
    spans = [f"{rows:,} rows of {time(first)} to {time(last)}" for rows, first, last in (shift.before, shift.after)]
    varying = [found for found in shift.inputs if found.chance > 0]
    moved = ([shift.predictions] if shift.predictions else []) + varying
    header = ["input", "PSI", "", "by chance", "never seen before"]
    rows = [_moved(found) for found in moved]
    constant = len(shift.inputs) - len(varying)
    text = (
        f"Population stability index of {spans[1]}, against the {spans[0]} that were trained on. Below {MODERATE} "
        f"little has changed, from {LARGE} on much has; the line across is what chance alone gives with so few rows. "
        f"{constant} more inputs hold one value throughout."
    )
    return _section("Drift", f"<p>{escape(text)}</p>{_folded(header, rows)}")


def _moved(found: Drift) -> list[str]:
    kind = "bad" if found.psi >= LARGE else "warn" if found.psi >= MODERATE else ""
    kind = kind if found.psi > 2.0 * found.chance else ""
    picture = svg.bar(found.psi / (2 * LARGE), f"PSI {found.psi:.4f}", kind, found.chance / (2 * LARGE))
    return [
        escape(words(found.name)),
        f"{found.psi:.4f}",
        picture,
        f"{found.chance:.4f}",
        "" if found.unseen is None else f"{found.unseen:.1%}",
    ]


def _importance(importance: Sequence[Importance]) -> str:
    if not importance:
        return ""
    most = max(max(each.loss for each in importance), 1e-12)
    header = ["input", "rise of log loss", "", "standard error"]
    rows = [
        [
            escape(words(each.name)),
            f"{each.loss:+.6f}",
            svg.bar(each.loss / most, f"{each.loss:.6f}"),
            f"{each.error:.6f}",
        ]
        for each in importance
    ]
    text = (
        "How much log loss rises, in nats a row, when the values of an input are dealt out anew among the judged rows. "
        "Inputs that tell the same stand in for each other."
    )
    return _section("What the model lives on", f"<p>{text}</p>{_folded(header, rows)}")


def _spread(spread: Sequence[Spread]) -> str:
    if not spread:
        return ""
    most = max(each.most for each in spread)
    kinds = list(dict.fromkeys(kind for each in spread for kind in each.parts))
    header = ["input", *(title for kind in kinds for title in (kind, ""))]
    rows = [[escape(words(each.name)), *_spread_cells(each, kinds, most)] for each in spread]
    text = (
        "Standard deviation, over the judged rows, of what each input adds to the log-odds, by what adds it: shrunk "
        "statistics, trees (Shapley values), weights of the regression."
    )
    return _section("What moves its predictions", f"<p>{text}</p>{_folded(header, rows)}")


def _spread_cells(of: Spread, kinds: Sequence[Kind], most: float) -> Iterator[str]:
    for kind in kinds:
        figure = f"{of.parts[kind]:.4f}" if kind in of.parts else ""
        yield figure
        yield svg.bar(of.parts[kind] / most, figure) if figure else ""


def _contest(manifest: Mapping[str, Any]) -> str:
    """Return which kinds of models were compared, and which serves; nothing where the manifest does not say."""
    ctr = manifest.get("ctr") or {}
    choice = ctr.get("choice")
    if not choice:
        return ""
    beside = {each["name"]: each for each in choice["compared"]}
    rows = []
    for name, loss in choice["log_losses"].items():
        found = beside.get(name)
        gain = found["difference"] if found else None
        told = f"{gain['mean']:+.6f}, {gain['low']:+.6f} to {gain['high']:+.6f}" if gain else ""
        made = "serves" if name == choice["winner"] else ""
        rows.append([escape(name), f"{loss:.5f}", escape(found["beside"]) if found else "", told, made])
    header = ["model", "log loss", "beside", "better by, nats a row", ""]
    text = (
        "All were trained on the same rows, and predicted each block of time from those before it. The first serves "
        "unless a later one is better with the gate's confidence."
    )
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in ctr["weights"].items())
    absent = "".join(f"<p>{escape(name)}: {escape(why)}</p>" for name, why in choice["absent"].items())
    made_of = f"<p>It is made of: {escape(weights)}.</p>"
    return _section("Which kind of model", f"<p>{text}</p>{_table(header, rows)}{made_of}{absent}")


def _data(review: Review) -> str:
    data: Mapping[str, Any] = review.manifest.get("data") or {}
    lines = []
    if data:
        lines = [
            f"{data['impressions']:,} impressions with {data['clicks']:,} clicks and {data['conversions']:,} "
            f"conversions, {time(data['from_ms'])} to {time(data['to_ms'])}",
            f"left out: {data['immature']:,} too young to know their outcome, {data['foreign']:,} of other features",
            f"{data['files']:,} files read, {len(data['skipped'])} skipped, {len(data['holes'])} hours without any",
        ]
        lines += [f"skipped {entry['path']}: {entry['reason']}" for entry in data["skipped"]]
        lines += [f"nothing of {span}" for span in spans(data["holes"])]
    about = [
        f"{name} {value}"
        for part in ("libraries", "config")
        for name, value in (review.manifest.get(part) or {}).items()
    ]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    listing = "".join(f"<li>{escape(line)}</li>" for line in about)
    settings = f"<details><summary>libraries and settings</summary><ul>{listing}</ul></details>" if about else ""
    return _section("Trained on", f"<ul>{items}</ul>{settings}" if items else f"<p>Not stated.</p>{settings}")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], first: str = "") -> str:
    """Return a table; the header is escaped here, cells are markup already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = [
        f"<tr{f' class={first}' if first and number == 0 else ''}>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    ]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _folded(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown, rest = rows[:_ROWS_SHOWN], rows[_ROWS_SHOWN:]
    more = f"<details><summary>{len(rest)} more</summary>{_table(header, rest)}</details>" if rest else ""
    return _table(header, shown) + more


def _covers(low: float | None, high: float | None) -> bool:
    """Tell whether a calibrated model can give such bounds."""
    return (low is None or low <= 1.0) and (high is None or high >= 1.0)


def _part_bounds(part: Part) -> str:
    return _bounds(part.found.low, part.found.high)


def _bounds(low: float | None, high: float | None) -> str:
    return f"{or_dash(low, '.2f')} to {'∞' if high is None else f'{high:.2f}'}"
