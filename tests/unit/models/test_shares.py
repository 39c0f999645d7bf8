"""The request's share of a network's state: a sum of parts that are remembered."""

import numpy as np
import pytest

from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving.embedding import Floats, Inputs, Side, SideInputs
from models.serving.shares import REMEMBERED, RequestShares
from models.training.rows import Rows
from tests.unit.models.network_cases import SMALL, random_inputs


def rows(count: int) -> Rows:
    rng = np.random.default_rng(count)
    requests, ads = (rng.integers(-1, 5, (count, len(names))) for names in (REQUEST_COLUMNS, AD_COLUMNS))
    return Rows(np.arange(count), requests, ads, np.zeros(count, dtype=np.bool_), np.ones(count))


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return random_inputs(rows(500), SMALL, PLATFORM)


def matrix(side: Side) -> Floats:
    return np.random.default_rng(4).normal(0, 1, (side.width, 10)).astype(np.float32)


def test_shares_are_those_of_the_inputs_whatever_has_been_remembered(inputs: Inputs) -> None:
    side, found, given = inputs.layout.request, np.empty(10, dtype=np.float32), []
    shares, times = RequestShares(side, inputs.tables, matrix(side)), matrix(side)
    requests = np.repeat(rows(30).requests, 2, axis=0)
    requests[1::2, side.columns.index("hour")] += 1  # all else is known
    for row in requests:
        shares(row, row.tolist(), found)
        np.testing.assert_allclose(found, inputs.request(row[np.newaxis])[0] @ times, rtol=1e-4, atol=1e-4)
        given.append(found.copy())
    for row, before in zip(requests[::-1], given[::-1], strict=True):
        for again in (shares, RequestShares(side, inputs.tables, times)):
            again(row, row.tolist(), found)
            np.testing.assert_array_equal(found, before)


def test_columns_that_come_together_are_remembered_together(inputs: Inputs) -> None:
    side = inputs.layout.request
    shares = RequestShares(side, inputs.tables, matrix(side))
    contexts = [{side.columns[place] for place in told(range(99))} for told, _, _ in shares._contexts]
    assert sum(len(context) for context in contexts) == len(set[str]().union(*contexts))
    assert any({"device", "os", "hour"} < context for context in contexts)
    assert {"floor_micros_cpm"} in contexts  # of no context


def test_what_is_remembered_is_forgotten_before_it_fills_memory(inputs: Inputs) -> None:
    side, found, row = inputs.layout.request, np.empty(10, dtype=np.float32), rows(1).requests[0]
    shares = RequestShares(side, inputs.tables, matrix(side))
    _, known, _ = shares._contexts[0]
    known.update({(number,): found for number in range(REMEMBERED)})
    shares(row, row.tolist(), found)
    assert len(known) == 1
    np.testing.assert_allclose(found, inputs.request(row[np.newaxis])[0] @ matrix(side), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", [0, 1])
def test_a_side_of_one_field_or_of_none_has_a_share(inputs: Inputs, fields: int) -> None:
    whole, row, found = inputs.layout.request, rows(1).requests[0], np.ones(10, dtype=np.float32)
    side = Side(columns=whole.columns, fields=whole.fields[:fields], numbers=())
    RequestShares(side, inputs.tables, matrix(side))(row, row.tolist(), found)
    of_one = SideInputs(side, inputs.tables)(row[np.newaxis])[0] if fields else np.zeros(0, dtype=np.float32)
    np.testing.assert_allclose(found, of_one @ matrix(side), rtol=1e-5, atol=1e-6)
