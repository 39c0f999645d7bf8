"""What the network costs an impression of 32 candidates: from its raw row to calibrated rates, whole and split.

Cross layers of the shipped shape, and of others, beside the shipped MLP.

Run it by hand: python tests/bench/bench_network.py. It prints one JSON document: microseconds of this machine, the best
and the first quartile of many rounds taken in turns, so that no form has the caches to itself. `reference` is a plain
DCN-v2 of 24 fields x 16 on 64 rows, session.run alone: what other machines can be compared by.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, so that it needs no test runner

from loadtest.bids.model import drawn_inputs
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.platform import PLATFORM
from models.serving.calibration import platt
from models.serving.embedding import Inputs
from models.serving.keys import Shared
from models.serving.network import NetworkHead, NetworkModel, Shares
from models.serving.rate import Part, Rate
from models.serving.session import Session
from models.training.network_export import NetworkShape, random_weights, share_weights, to_onnx
from models.training.network_layout import NetworkConfig
from models.training.rows import Rows

CANDIDATES, ADS, ROWS, ROUNDS = 32, 3_000, 50_000, 300
#: How many values columns have, 30 where nothing is said.
VALUES = {
    "exchange": 4, "device": 7, "hour": 24, "browser": 40, "country": 100, "segment_1": 300, "domain": 3_000,
    "placement": 3_000, "format": 4, "advertiser_id": 100, "campaign_id": 300, "line_item_id": 500,
    "creative_id": 1_000,
}  # fmt: skip


def drawn_rows() -> Rows:
    """Return impressions whose columns have as many values as an exchange's."""
    random = np.random.default_rng(1)
    requests, ads = (
        np.stack([random.integers(1, VALUES.get(name, 30) + 1, ROWS) for name in names], axis=1)
        for names in (REQUEST_COLUMNS, AD_COLUMNS)
    )
    return Rows(np.arange(ROWS), requests, ads, np.zeros(ROWS, dtype=np.bool_), np.ones(ROWS))


def measured(rows: Rows, inputs: Inputs) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is run, by name."""
    request, chosen = rows.requests[7], np.random.default_rng(3).integers(0, ADS, CANDIDATES)
    stranger = request.copy()
    stranger[[REQUEST_COLUMNS.index(name) for match in PLATFORM.matches for name in match.request]] = 0
    reference = Session(to_onnx(random_weights(NetworkShape(384, 3, 64, (256, 128, 64)), 1), form="full"))
    yield "reference", reference.bind(np.zeros((64, 384), dtype=np.float32))
    sample = inputs(rows.requests[:2_000], rows.ads[:2_000])
    config = NetworkConfig()
    for layers, rank in dict.fromkeys(((config.cross_layers, config.cross_rank), (1, 16), (2, 16), (3, 16))):
        weights = random_weights(NetworkShape(inputs.layout.width, layers, rank, config.hidden), 1)
        for form in ("full", "split"):
            shares = Shares(*share_weights(weights))
            if form == "full":
                shares = Shares(np.eye(len(shares.matrix), dtype=np.float32), np.zeros(len(shares.matrix), np.float32))
            for precision in ("fp32", "int8"):
                given = sample if precision == "int8" else None
                graph = to_onnx(weights, form=form, precision=precision, sample=given)
                model = NetworkHead(NetworkModel(graph, inputs, shares), 0)
                predict = Rate([Part(model)], platt()).prepare(rows.ads[:ADS], Shared())
                name = f"{layers} of rank {rank}, {form}, {precision}"
                yield name, partial(predict, stranger, chosen)
                yield f"{name}, with history", partial(predict, request, chosen)


def main() -> None:
    """Measure and print."""
    rows = drawn_rows()
    inputs = drawn_inputs(rows, 2)
    runs = dict(measured(rows, inputs))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run()
            began = perf_counter()
            run()
            seconds[name].append(perf_counter() - began)
    found: dict[str, object] = {"inputs": inputs.layout.width, "of_request": inputs.layout.request.width}
    for name, taken in seconds.items():
        best: NDArray[np.float64] = np.percentile(np.array(taken) * 1e6, [0, 25]).round(1)
        found[name] = {"best_us": best[0], "quartile_us": best[1]}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
