"""The predictor benchmark: that what it compares computes the same, what it reports, and what it refuses."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from models.__main__ import main
from models.benchmark import contestants, predictor
from models.benchmark.contestants import Contestant, Graph
from tests.gpu import refusal

TREES = 5


@pytest.fixture(scope="module")
def measured() -> dict[str, Contestant | Graph]:
    return {one.name: one for one in contestants.all_of("cpu", TREES)}


def outputs(one: Contestant | Graph, rows: int) -> Any:
    found = one.raw(rows)()
    return np.asarray(found).reshape(rows, -1)


def test_forms_of_one_model_compute_the_same(measured: dict[str, Contestant | Graph]) -> None:
    network = outputs(measured["network fp32"], 50)
    assert np.ptp(network) > 0.5
    np.testing.assert_allclose(outputs(measured["network fp32 split"], 50), network, rtol=1e-3, atol=1e-3)
    for name in ("network int8", "network int8 split"):
        assert np.corrcoef(outputs(measured[name], 50)[:, 0], network[:, 0])[0, 1] > 0.99
    forest = outputs(measured["trees LightGBM"], 50)
    assert np.ptp(forest) > 0.1
    np.testing.assert_allclose(outputs(measured["trees"], 50), forest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["network fp32 split", "trees"])
def test_serving_computes_what_the_library_does(measured: dict[str, Contestant | Graph], name: str) -> None:
    one = measured[name]
    assert isinstance(one, Graph)
    bound: list[Any] = []
    bind = one.session.bind

    def keep(inputs: Any) -> Any:
        bound.append(bind(inputs))
        return bound[-1]

    call = Graph(one.name, one.table, _Bound(one.session, keep), one.request).served(7)  # type: ignore[arg-type]
    call()
    call()
    np.testing.assert_allclose(bound[0].output, outputs(one, 7), rtol=1e-5, atol=1e-6)


class _Bound:
    """A session that shows what was bound to it."""

    def __init__(self, session: Any, bind: Any) -> None:
        self.runtime = session.runtime
        self.bind = bind


def test_it_reports_every_way_of_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    result = predictor.measure("cpu", 0.01, (1, predictor.CANDIDATES), TREES)
    assert json.loads(msgspec.json.encode(result)) == result
    assert (result["provider"], result["versions"].keys() >= {"python", "numpy", "lightgbm"}) == ("cpu", True)
    assert result["device"]
    assert 0.0 < result["overhead_us"]["served"] < result["overhead_us"]["batcher"]
    for name, figures in result["models"].items():
        ways = {"session"} if name == "trees LightGBM" else {"session", "served", "batcher"}
        for way in ways:
            for batch in ("1", "32"):
                assert figures[batch].keys() == ways
                assert figures[batch][way]["rows_per_s"] > 0
                assert 0.0 < figures[batch][way]["p50_us"] <= figures[batch][way]["p99_us"]
        assert all(figures[batch]["batcher"]["of_session"] > 0 for batch in figures if "batcher" in ways)
    predictor.show(result)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("network int8 split", "trees LightGBM", "32 candidates", "rows a second"))


def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    reason = refusal()
    assert main(["benchmark", "predictor", "--provider", "cuda", "--json"]) == 2
    assert capsys.readouterr() == ("", f"{reason}\n")
