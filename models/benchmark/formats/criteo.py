"""Criteo display rows: label, 13 counts (I1 to I13) and 26 hashed categories (C1 to C26), tab-separated. They come
without a header; one that begins with "label" is passed over.

They have neither a time nor a known side, so all columns are the request's and the order of the file is the time.
"""

from pathlib import Path

import numpy as np

from dsp.kernel.errors import InputError
from models.benchmark.formats import Format
from models.benchmark.table import DAMAGED, cell, integer, open_text
from models.features.encode import text_hash
from models.features.spec import FeatureSpec, Group
from models.training.rows import Rows

COUNTS, CATEGORIES = 13, 26
#: Column count: label, counts, categories.
WIDTH = 1 + COUNTS + CATEGORIES
#: What stands for a count that is not given; given ones are -3 at least.
ABSENT = -10
_LABEL = "label"
_COUNTS = tuple(f"I{number}" for number in range(1, COUNTS + 1))
_LEVELS = tuple(f"I{number}_level" for number in range(1, COUNTS + 1))
_CATEGORIES = tuple(f"C{number}" for number in range(1, CATEGORIES + 1))


def load(path: Path) -> Rows:
    """Read the rows of a file, gzip or plain; empty lines are skipped.

    Raises:
        InputError: it is broken, a row has another width, or a number is none.
    """
    labels, requests, line = [], [], 0
    try:
        with open_text(path) as file:
            for line, text in enumerate(file, 1):
                cells = text.rstrip("\n\r").split("\t")
                if cells == [""]:
                    continue
                if len(cells) != WIDTH:
                    raise ValueError(f"{len(cells)} columns, not {WIDTH}")
                if line == 1 and cells[0].strip().lower() == _LABEL:
                    continue
                row = dict(zip((_LABEL, *_COUNTS), cells, strict=False))
                labels.append(cell(row, _LABEL, integer) > 0)
                counts = [cell(row, name, integer) if row[name] else ABSENT for name in _COUNTS]
                requests.append([*counts, *map(_level, counts), *map(text_hash, cells[1 + COUNTS :])])
    except (ValueError, *DAMAGED) as fault:
        raise InputError(f"{path}, line {line}: {fault}", reason="benchmark_file") from fault
    count = len(labels)
    return Rows(
        np.arange(count, dtype=np.int64),
        np.array(requests, dtype=np.int64).reshape(count, -1),
        np.zeros((count, 0), dtype=np.int64),
        np.array(labels, dtype=np.bool_),
        np.ones(count),
    )


def _level(count: int) -> int:
    """Return a category of counts that are alike: small ones as they are, larger ones by their squared logarithm."""
    return count if count <= 2 else 1_000 + int(np.log(count) ** 2)


CRITEO = Format(
    FeatureSpec(
        request_columns=(*_COUNTS, *_LEVELS, *_CATEGORIES),
        ad_columns=(),
        groups=tuple(Group(name=name, request=(name,)) for name in (*_LEVELS, *_CATEGORIES)),
        hierarchy=(),
        request_numbers=_COUNTS,
    ),
    load,
)
