"""The click model benchmark for people: a table, and how predictions compare with clicks (PNG)."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from models.benchmark.ctr_result import Result, Scored

_COLUMNS = ("auc", "logloss", "ne", "pcoc", "ece", "train_seconds")
_DIGITS = {"logloss": 5, "ece": 6, "train_seconds": 1}


def table(result: Result) -> None:
    """Print the scores of the models, the blend and the baselines, and the blend's weights."""
    rows: dict[str, Scored] = {**result.models, "blend": result.blend, **result.baselines}
    metrics = result.blend.metrics
    shown = Table(title=f"{metrics.rows:,} rows, {metrics.clicks:,} clicks")
    shown.add_column("model")
    for name in (*_COLUMNS, *(f"pcoc {advertiser}" for advertiser in result.blend.by_advertiser)):
        shown.add_column(name, justify="right")
    for name, scored in rows.items():
        found = scored.as_json()
        cells = [_cell(found[column], _DIGITS.get(column, 4)) for column in _COLUMNS]
        cells += [_cell(scored.by_advertiser[advertiser]["pcoc"], 2) for advertiser in result.blend.by_advertiser]
        shown.add_row(name, *cells)
    console = Console(width=max(Console().width, 140))
    console.print(shown)
    console.print("weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items()))
    console.print(f"the nightly would serve: {result.winner}")
    for name, reason in result.absent.items():
        console.print(f"absent: {name}: {reason}")


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def draw(result: Result, path: Path) -> None:
    """Draw observed against predicted rates by tenth of the predictions, on logarithmic scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for name, scored in {**result.models, "blend": result.blend}.items():
        bins = [entry for entry in scored.metrics.reliability if entry.observed > 0.0]
        axes.plot([entry.predicted for entry in bins], [entry.observed for entry in bins], marker="o", label=name)
    limits = axes.get_xlim()
    axes.axline((limits[1], limits[1]), slope=1, color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="predicted click rate", ylabel="observed click rate")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
