"""Serving of the network: prepared and batched, it gives what its definition does."""

import numpy as np
import pytest

from models.features.spec import FeatureSpec
from models.serving.calibration import platt
from models.serving.embedding import Inputs, Layout, Tables
from models.serving.network import NetworkHead, NetworkModel, PreparedNetwork, Shares
from models.serving.predictor import BatchScorer, predict
from models.serving.prior import ConstantPredictor
from models.serving.rate import ModelPredictor, Part, Rate
from models.serving.session import Device, Memory
from models.serving.stack import Stack
from models.serving.statistics import Columns
from models.training.network_export import logits, to_onnx
from models.training.network_layout import NetworkConfig, lay_out
from models.training.rows import Rows
from tests.unit.models.network_cases import AD_COLUMNS, REQUEST_COLUMNS, SMALL, SPEC, made, random_inputs, random_model

TABLE = made(50, seed=9).ads


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made(2_000, seed=1)


@pytest.fixture(scope="module")
def inputs(rows: Rows) -> Inputs:
    return random_inputs(rows)


def predictor_of(
    model: NetworkModel,
    ctr: tuple[float, float] = (1.0, 0.0),
    cvr: tuple[float, float] = (1.0, 0.0),
    heads: tuple[int, int] = (0, 1),
    weights: tuple[float, float] = (1.0, 1.0),
) -> ModelPredictor:
    """Return a predictor of a network's two heads; slopes and intercepts."""
    columns = Columns(REQUEST_COLUMNS, AD_COLUMNS)
    parts = [Part(NetworkHead(model, head), weight) for head, weight in zip(heads, weights, strict=True)]
    rates = [Rate([part], platt(*scale, columns)) for part, scale in zip(parts, (ctr, cvr), strict=True)]
    return ModelPredictor("v1", *rates)


def request_with(**values: int) -> np.ndarray:
    row = made(1, seed=3).requests[0]
    for name, value in values.items():
        row[REQUEST_COLUMNS.index(name)] = value
    return row


@pytest.mark.parametrize(
    "request_values",
    [
        {},
        {"seen_1": 0, "seen_2": 0},
        {"seen_1": 3, "seen_2": 3, "age_1": -1},
        {"site": 10**15, "segment_1": 10**15, "seen_1": 10**15},
        {"floor": -1, "segment_1": 0, "segment_2": 0, "age_1": 10**18},
    ],
    ids=str,
)
def test_prepared_equals_definition(inputs: Inputs, request_values: dict[str, int]) -> None:
    model, weights = random_model(inputs)
    request = request_with(**request_values)
    prepared = model.prepare(TABLE)
    for chosen in (np.arange(32), np.array([7]), np.array([3, 3, 49, 0])):
        expected = logits(weights, inputs(request[np.newaxis], TABLE[chosen]))
        np.testing.assert_allclose(prepared.logits(request, chosen), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(model.logits(request[np.newaxis], TABLE[chosen]), expected, rtol=1e-5, atol=1e-5)


def test_both_heads_run_the_network_once(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = random_model(inputs)
    runs: list[int] = []
    run = PreparedNetwork.logits
    monkeypatch.setattr(PreparedNetwork, "logits", lambda self, *asked: runs.append(len(asked[1])) or run(self, *asked))
    scorer, memory = predictor_of(model).prepare(TABLE), np.arange(8)
    for number, request in enumerate((request_with(seen_1=3), request_with(seen_1=5)), 1):
        expected = logits(weights, inputs(request[np.newaxis], TABLE[memory]))
        found = np.stack(scorer.predict(request, memory), axis=1)
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-expected)), rtol=1e-4)
        assert len(runs) == number
    memory += 8  # the same array with other candidates
    scorer.predict(request, memory)
    assert len(runs) == 3


@pytest.mark.parametrize("heads", [(0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("sizes", [(32, 32, 32), (1, 7, 31, 2), (5,), (3, 0, 3)], ids=str)
def test_several_impressions_get_what_each_gets_alone(
    inputs: Inputs, heads: tuple[int, int], sizes: tuple[int, ...]
) -> None:
    scorer = predictor_of(random_model(inputs)[0], (0.9, -0.2), (1.1, 0.3), heads, (1.0, 0.7)).prepare(TABLE)
    asked = [(request_with(seen_1=number, floor=number), np.arange(size) + number) for number, size in enumerate(sizes)]
    found = scorer.predict_all(asked)
    alone = [scorer.predict(*one) for one in asked]
    assert len(found) == len(sizes)
    for one, other, size in zip(found, alone, sizes, strict=True):
        assert one.pctr.shape == one.pcvr.shape == (size,)
        np.testing.assert_allclose(one.pctr, other.pctr, rtol=1e-6)
        np.testing.assert_allclose(one.pcvr, other.pcvr, rtol=1e-6)
    again = scorer.predict_all(asked[::-1])[::-1]  # what was found is the caller's
    np.testing.assert_allclose([one.pctr.sum() for one in again], [one.pctr.sum() for one in found], rtol=1e-6)


def test_several_impressions_run_the_network_once(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = Memory.__call__
    monkeypatch.setattr(Memory, "__call__", lambda self: runs.append(len(self.input)) or run(self))
    scorer = predictor_of(random_model(inputs)[0]).prepare(TABLE)
    scorer.predict_all([(request_with(seen_1=seen), np.arange(12)) for seen in range(4)])
    assert runs == [64]  # 48, in a multiple of 32


def test_both_heads_run_a_batch_once(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run = Stack.__call__
    monkeypatch.setattr(Stack, "__call__", lambda self, items: runs.append(len(items)) or run(self, items))
    scorer = predictor_of(random_model(inputs, device=Device("cpu", "always", 64))[0]).prepare(TABLE)
    assert isinstance(scorer, BatchScorer)
    requests = [request_with(seen_1=seen) for seen in (3, 5, 7)]
    chosen = np.arange(8)
    staged = [scorer.stage(request, chosen) for request in requests]
    for some in (staged, staged[1:]):
        found = scorer.run(some)
        for request, one in zip(requests[-len(some) :], found, strict=True):
            np.testing.assert_allclose(one.pctr, scorer.predict(request, chosen).pctr, rtol=1e-5)
            np.testing.assert_allclose(one.pcvr, scorer.predict(request, chosen).pcvr, rtol=1e-5)
    assert runs == [3, 2]


def test_what_the_scorer_before_was_asked_last_is_worked_out_ahead(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [random_model(inputs)[0] for _ in range(2)]
    before, after = predictor_of(models[0]).prepare(TABLE), predictor_of(models[1])
    request, chosen = request_with(seen_1=3), np.array([3, 7, 40])
    expected = after.prepare(TABLE).predict(request, chosen)
    before.predict(request, chosen)
    turned = TABLE[::-1].copy()  # the same ads in other rows, but for one that says something else by now
    turned[49 - 40, AD_COLUMNS.index("creative")] = 10**9
    scorer = after.prepare(turned)
    assert len(list(scorer.follow(before))) == 3  # the ads, memory for three rows, the request
    assert not list(scorer.follow(before))
    made: list[list[int]] = []
    make = PreparedNetwork._make
    monkeypatch.setattr(PreparedNetwork, "_make", lambda self, rows: made.append(rows.tolist()) or make(self, rows))
    found = scorer.predict(request, 49 - chosen)
    assert made == [[49 - 40]]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one[:2], other[:2], rtol=1e-5)


def test_what_a_request_says_is_learned_ahead_of_a_new_model_only(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [random_model(inputs)[0] for _ in range(2)]
    request, chosen = request_with(site=10**15), np.arange(8)
    before = predictor_of(models[0]).prepare(TABLE)
    before.predict(request, chosen)
    shares = [models[1].request_shares, models[0].request_shares]
    asked: list[bool] = []
    share = type(shares[0]).__call__
    monkeypatch.setattr(
        type(shares[0]), "__call__", lambda self, *given: asked.append(self is shares[0]) or share(self, *given)
    )
    for model in (models[1], models[0]):
        list(predictor_of(model).prepare(TABLE).follow(before))
    assert asked == [True]  # the other is asked by auctions meanwhile, and knows already


def test_what_is_of_another_kind_is_not_followed(inputs: Inputs) -> None:
    constant = ConstantPredictor().prepare(np.zeros((50, 12), dtype=np.int64))
    scorer = predictor_of(random_model(inputs)[0]).prepare(TABLE)
    assert not list(scorer.follow(constant))
    assert not list(constant.follow(scorer))
    assert not list(scorer.follow(predictor_of(random_model(inputs)[0]).prepare(TABLE)))  # it was asked for nothing


def test_a_call_leaves_nothing_behind_for_the_next(inputs: Inputs) -> None:
    model, _ = random_model(inputs)
    prepared, chosen = model.prepare(TABLE), np.arange(8)
    plain = request_with(seen_1=0, seen_2=0)
    before = prepared.logits(plain, chosen).copy()
    prepared.logits(request_with(seen_1=3, seen_2=5), chosen)
    np.testing.assert_array_equal(prepared.logits(plain, chosen), before)


def test_rows_of_many_requests_equal_one_by_one(inputs: Inputs, rows: Rows) -> None:
    model, _ = random_model(inputs)
    together = model.logits(rows.requests[:20], rows.ads[:20])
    apart = [model.prepare(rows.ads[:20]).logits(rows.requests[n], np.array([n]))[0] for n in range(20)]
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-5)


def test_unknown_values_share_what_was_learned_of_rare_ones(inputs: Inputs) -> None:
    model, _ = random_model(inputs)
    known, unknown, other = (TABLE[:1].copy() for _ in range(3))
    creative = AD_COLUMNS.index("creative")
    known[0, creative], unknown[0, creative], other[0, creative] = 5, 10**9, 10**9 + 1
    request = request_with()[np.newaxis]
    assert np.array_equal(model.logits(request, unknown), model.logits(request, other))
    assert not np.array_equal(model.logits(request, unknown), model.logits(request, known))


def test_absent_members_of_a_set_count_for_nothing_and_its_order_neither(inputs: Inputs) -> None:
    one = inputs.request(request_with(segment_1=4, segment_2=0)[np.newaxis])
    same = inputs.request(request_with(segment_1=0, segment_2=4)[np.newaxis])
    none = inputs.request(request_with(segment_1=0, segment_2=0)[np.newaxis])
    np.testing.assert_array_equal(one, same)
    segment = slice(
        sum(field.width for field in inputs.layout.request.fields[:2]),
        sum(field.width for field in inputs.layout.request.fields[:3]),
    )
    assert not none[0, segment].any()
    assert one[0, segment].any()


def test_a_missing_number_is_average_and_flagged(inputs: Inputs, rows: Rows) -> None:
    floors = rows.requests[:, REQUEST_COLUMNS.index("floor")]
    scaled, flags = inputs.request.numbers(rows.requests).T
    assert scaled[floors >= 0].mean() == pytest.approx(0.0, abs=1e-3)
    assert scaled[floors >= 0].std() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_array_equal(flags, floors < 0)
    assert not scaled[floors < 0].any()


def test_ids_of_ads_never_share_vectors_and_large_request_fields_are_hashed() -> None:
    rng = np.random.default_rng(0)
    columns = {"site": rng.integers(1, 5_000, 40_000), "creative": rng.integers(1, 5_000, 40_000)}
    rows = made(40_000, seed=1, columns=columns)
    config = NetworkConfig(vocabulary_max=1_000, hash_bits=8, count_min=1)
    inputs = random_inputs(rows, config)
    site, *_ = inputs.layout.request.fields
    places = inputs.request.places(rows.requests)[:, 0]
    assert (site.rows, site.bits) == (256, 8)
    assert set(places) == set(range(site.first, site.first + 256))
    slot = [field.columns for field in inputs.layout.ad.fields].index(("creative",))
    creative = inputs.ad.places(rows.ads)[:, slot]
    assert len(set(creative)) == len(set(rows.ads[:, AD_COLUMNS.index("creative")]))
    fields = [*inputs.layout.request.fields, *inputs.layout.ad.fields]
    taken = [place for field in fields for place in range(field.first, field.first + field.rows)]
    assert len(taken) == len(set(taken))
    assert 0 not in taken  # kept for absent values


def test_without_a_sequence_there_is_no_attention(rows: Rows) -> None:
    spec = FeatureSpec(
        request_columns=REQUEST_COLUMNS, ad_columns=AD_COLUMNS, groups=SPEC.groups, hierarchy=SPEC.hierarchy
    )
    inputs = random_inputs(rows, SMALL, spec)
    assert inputs.layout.history is None
    model, weights = random_model(inputs)
    expected = logits(weights, inputs(rows.requests[:1], TABLE[:4]))
    found = model.prepare(TABLE).logits(rows.requests[0], np.arange(4))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_attention_prefers_what_the_ad_looks_for(inputs: Inputs) -> None:
    history = inputs.history
    assert history is not None
    present = np.array([[True, True, False]])
    weights = history.weights(np.array([[2.0, 0.0, 9.0]], dtype=np.float32), present)
    odds = np.exp([2.0, 0.0])
    np.testing.assert_allclose(weights[0], [*(odds / (1 + odds.sum())), 0.0], rtol=1e-6)


def test_scorer_calibrates_each_head_and_takes_no_candidates(inputs: Inputs) -> None:
    model, _ = random_model(inputs)
    request, chosen = request_with(), np.arange(5)
    raw = model.prepare(TABLE).logits(request, chosen).astype(np.float64)
    scorer = predictor_of(model, (0.5, -1.0), (2.0, 0.3)).prepare(TABLE)
    found = scorer.predict(request, chosen)
    np.testing.assert_allclose(found.pctr, 1 / (1 + np.exp(1.0 - 0.5 * raw[:, 0])))
    np.testing.assert_allclose(found.pcvr, 1 / (1 + np.exp(-0.3 - 2.0 * raw[:, 1])))
    np.testing.assert_array_equal(scorer.pcvr(request, chosen), found.pcvr)
    assert [len(part) for part in scorer.predict(request, chosen[:0])] == [0, 0]


@pytest.mark.parametrize("heads", [(0, 1), (1, 0), (1, 1)])
def test_rates_made_together_are_those_of_each_by_itself(inputs: Inputs, heads: tuple[int, int]) -> None:
    model, _ = random_model(inputs)
    scorer = predictor_of(model, (0.5, -1.0), (2.0, 0.3), heads, (0.5, 0.7)).prepare(TABLE)
    for chosen in (np.arange(5), np.array([7]), np.arange(32)):
        request = request_with(seen_1=len(chosen))
        found = scorer.predict(request, chosen)
        np.testing.assert_allclose(found.pctr, scorer.pctr(request, chosen), rtol=1e-14)
        np.testing.assert_allclose(found.pcvr, scorer.pcvr(request, chosen), rtol=1e-14)


def test_batches_of_several_impressions_equal_single_calls(inputs: Inputs) -> None:
    model, _ = random_model(inputs, Device("cpu", "always", 64))
    scorer = predictor_of(model).prepare(TABLE)
    assert isinstance(scorer, BatchScorer)
    asked = [(request_with(site=n, seen_1=n), np.arange(n, 3 * n)) for n in range(1, 6)]
    found = scorer.run([scorer.stage(*item) for item in asked])
    for (request, chosen), batched in zip(asked, found, strict=True):
        single = predict(predictor_of(random_model(inputs)[0]), request, TABLE[chosen])
        np.testing.assert_allclose(batched, single, rtol=1e-5)


def broken(tables: Tables, fault: str) -> Tables:
    if fault == "order":
        return tables._replace(keys=tables.keys[::-1])
    if fault == "short":
        return tables._replace(vectors=tables.vectors[:-1])
    if fault == "places":
        return tables._replace(places=tables.places + np.int32(10**6))
    if fault == "history":
        return tables._replace(query=tables.query[:-1])
    return tables._replace(vectors=np.full_like(tables.vectors, np.nan))


@pytest.mark.parametrize("fault", ["order", "short", "places", "history", "nan"])
def test_tables_that_do_not_fit_are_refused(inputs: Inputs, fault: str) -> None:
    with pytest.raises(ValueError, match=r"order|outside|form|finite"):
        Inputs(inputs.layout, broken(inputs.tables, fault))


def test_a_graph_of_another_width_is_refused(inputs: Inputs, rows: Rows) -> None:
    _, weights = random_model(inputs)
    spec = FeatureSpec(request_columns=REQUEST_COLUMNS, ad_columns=AD_COLUMNS, groups=SPEC.groups, hierarchy=())
    other: Layout = lay_out(rows, spec, SMALL)[0]
    assert other.width != inputs.layout.width
    shares = Shares(np.zeros((inputs.layout.width, 0), dtype=np.float32), np.zeros(0, dtype=np.float32))
    with pytest.raises(ValueError, match="the graph takes"):
        NetworkModel(to_onnx(weights), inputs, shares)


def test_remembered_values_are_forgotten_before_they_fill_memory(inputs: Inputs) -> None:
    request = request_with(site=39)[np.newaxis]
    known, column = inputs.request._known[0], REQUEST_COLUMNS.index("site")
    known.places.update(dict.fromkeys(range(-65_536, 0), 0))  # as full as it gets
    found = np.empty(inputs.request.width, dtype=np.float32)
    inputs.request.one(request[0], request[0].tolist(), found)
    np.testing.assert_allclose(found, inputs.request(request)[0], rtol=1e-6, atol=1e-6)
    assert known.places.keys() == {request[0, column]}
