"""A request's share of the network's state, added up of parts that are remembered by the values they are made of.

What is linear in the inputs is a sum over the request's fields and numbers. Those whose columns belong together
(models.features.columns.REQUEST_CONTEXTS) are added up once for each combination of their values. What has been
remembered before makes no difference to what is found, not in the last bit.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from models.features.columns import REQUEST_CONTEXTS
from models.serving.embedding import Floats, Int64s, Side, SideInputs, Tables, getter

#: Combinations of one context's values that are remembered, 4 S bytes each.
REMEMBERED = 2_048


class RequestShares:
    """One request's side of the inputs times a matrix (width, S)."""

    def __init__(self, side: Side, tables: Tables, matrix: Floats) -> None:
        contexts = [_Context(part, tables, matrix[places]) for part, places in _parts(side)]
        self._contexts = [(context.told, context.known, context.learn) for context in contexts]

    def __call__(self, row: Int64s, values: Sequence[int], out: Floats) -> None:
        """Write the share of a row (R,), which are its `values`, to `out` (S,)."""
        total: Floats | None = None
        for told, known, learn in self._contexts:
            of = told(values)
            share = known.get(of)
            if share is None:
                share = learn(of, row, values)
            total = share if total is None else np.add(total, share, out)
        if total is not out:  # of one context, or none
            out[...] = 0.0 if total is None else total


class _Context:
    """Some of a side's fields and numbers."""

    def __init__(self, side: Side, tables: Tables, matrix: Floats) -> None:
        self._inputs = SideInputs(side, tables)
        self._matrix = matrix
        columns = [name for field in side.fields for name in field.columns]
        columns += [number.column for number in side.numbers]
        self.told = getter([side.columns.index(name) for name in dict.fromkeys(columns)])
        self.known: dict[Sequence[int], Floats] = {}

    def learn(self, told: Sequence[int], row: Int64s, values: Sequence[int]) -> Floats:
        """Return what a row's fields and numbers add up to, and remember it by the values `told`."""
        inputs = np.empty(self._inputs.width, dtype=np.float32)
        self._inputs.one(row, values, inputs)
        share: Floats = np.dot(inputs, self._matrix)
        if len(self.known) >= REMEMBERED:
            self.known.clear()
        self.known[told] = share
        return share


def _parts(side: Side) -> list[tuple[Side, list[int]]]:
    """Return the side in parts, each with the places of its inputs among the side's.

    A field of several contexts is a part by itself, as is what belongs to none.
    """
    contexts = {name: number for number, context in enumerate(REQUEST_CONTEXTS) for name in context}

    def context(*columns: str) -> object:
        held = {contexts.get(name, name) for name in columns}
        return held.pop() if len(held) == 1 else columns

    of_fields = [context(*field.columns) for field in side.fields]
    of_numbers = [context(number.column) for number in side.numbers]
    starts = [0, *accumulate(field.width for field in side.fields)]
    parts = []
    for key in dict.fromkeys([*of_fields, *of_numbers]):
        fields = [place for place, held in enumerate(of_fields) if held == key]
        numbers = [place for place, held in enumerate(of_numbers) if held == key]
        places = [place for field in fields for place in range(starts[field], starts[field + 1])]
        places += [starts[-1] + number for number in numbers]
        places += [starts[-1] + len(side.numbers) + number for number in numbers]  # the flags
        part = Side(
            columns=side.columns,
            fields=tuple(side.fields[place] for place in fields),
            numbers=tuple(side.numbers[place] for place in numbers),
        )
        parts.append((part, places))
    return parts
