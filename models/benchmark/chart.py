"""Figures between 0 and 1 as a chart of text: a line for each row, on it a mark for each bidder."""

from collections.abc import Mapping
from string import ascii_lowercase

_WIDTH = 72
_OURS = "ours"


def chart(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the chart and its legend; every row has the same bidders, and "ours" is drawn over all others."""
    names = sorted(next(iter(rows.values())), key=_OURS.__eq__)  # the others as they come
    marks = dict(zip(names[:-1], ascii_lowercase, strict=False)) | {_OURS: "●"}
    margin = max(map(len, rows))
    lines = []
    for label, figures in rows.items():
        line = ["·"] * (_WIDTH + 1)
        for name in names:
            line[round(min(max(figures[name], 0.0), 1.0) * _WIDTH)] = marks[name]
        lines.append(f"{label:>{margin}} {''.join(line)}")
    scale = f"{'':{margin}} 0{'1':>{_WIDTH}}"
    return "\n".join([*lines, scale, "  ".join(f"{marks[name]} {name}" for name in names)])
