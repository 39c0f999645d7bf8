"""`python -m models explain` and `report` on a training log and a champion, as a person calls them."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lxml import html as parser

from dsp import registry
from dsp.kernel.errors import InputError, NotFoundError
from dsp.snapshot import codec
from models.__main__ import main
from models.evaluation import explain
from models.evaluation.names import Names
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.serving import bundle
from tests.integration.models.conftest import START_MS, Writer, catalogue


def relabel(data_dir: Path, answers: str) -> list[dict[str, object]]:
    """Rewrite the log's bids as if the champion, or its prior, had made them; return those of the last file."""
    version = registry.resolve(data_dir / "models", bundle.CHAMPION)
    assert version is not None
    served = bundle.load(data_dir / "models", version)
    rows: list[dict[str, object]] = []
    for path in sorted((data_dir / "training").glob("bids/*/*/*.parquet")):
        rows = pq.ParquetFile(path).read().to_pylist()
        requests, ads = (
            np.frombuffer(b"".join(row[f"{side}_features"] for row in rows), dtype="<i8").reshape(len(rows), -1)
            for side in ("request", "ad")
        )
        found = (served.prior if answers == "prior" else served.predictor).predict_rows(requests, ads)
        for row, pctr, pcvr in zip(rows, found.pctr, found.pcvr, strict=True):
            row |= {"model_version": version, "pctr": float(pctr), "pcvr": float(pcvr), "value_micros_cpm": 2_500_000}
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    return rows


@pytest.fixture
def data_dir(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "data")
    monkeypatch.setenv("DSP_PLATFORM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("DSP_TRAINING_MATURITY_SECONDS", "0")
    return tmp_path / "data"


@pytest.mark.parametrize("answers", ["model", "prior"])
def test_a_bid_falls_apart_into_its_reasons(data_dir: Path, answers: str, capsys: pytest.CaptureFixture[str]) -> None:
    bid = relabel(data_dir, answers)[-1]
    (data_dir / "blobs").mkdir()
    (data_dir / "blobs" / "snapshot").write_bytes(codec.encode(catalogue(), "s1", START_MS))
    assert main(["explain", "--bid", str(bid["bid_id"]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answered"].endswith("/prior") == (answers == "prior")
    assert abs(found["unexplained"]) < 1e-5
    for rate in ("pctr", "pcvr"):
        told = found["rates"][rate]
        total = told["base"] + sum(term["log_odds"] for term in told["terms"]) + told["calibration"]
        served = np.log(bid[rate]) - np.log1p(-bid[rate])  # type: ignore[operator,call-overload]
        assert total == pytest.approx(served, abs=1e-5)
    held = {term["name"]: term["held"] for term in found["rates"]["pctr"]["terms"]}
    assert held["advertiser"] == f"{bid['advertiser_id']} a"  # named in the snapshot
    assert main(["explain", "--bid", str(bid["bid_id"])]) == 0
    text = capsys.readouterr().out
    assert f"Click rate {bid['pctr']:.6f}" in text
    assert "Value 2.5000 x pacing 1.000 = worth 2.5000 a thousand impressions; bid 1.0000, 40% of the worth" in text


def test_a_model_of_other_parts_is_asked_instead(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ensembles of trees, of which the second says nothing: the same rates, and no parts that we know."""
    root = data_dir / "models"
    champion = registry.resolve(root, bundle.CHAMPION)
    assert champion is not None
    files = registry.read(root, champion)
    manifest = json.loads(files.pop(registry.MANIFEST))
    made = onnx.load_from_string(files["ctr_gbdt.onnx"])
    linear, trees, add = made.graph.node
    silent = onnx.NodeProto()
    silent.CopyFrom(trees)
    silent.output[0] = "silence"
    weights = next(each for each in silent.attribute if each.name == "target_weights")
    weights.floats[:] = [0.0] * len(weights.floats)
    add.CopyFrom(onnx.helper.make_node("Sum", [*add.input, "silence"], [*add.output]))
    del made.graph.node[:]
    made.graph.node.extend([linear, trees, silent, add])
    files["ctr_gbdt.onnx"] = made.SerializeToString()
    registry.set_alias(root, bundle.CHAMPION, registry.publish(root, files, manifest))
    bid = relabel(data_dir, "model")[-1]
    assert main(["explain", "--bid", str(bid["bid_id"]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["rates"]["pctr"]
    assert told["method"].startswith("sampled")
    served = np.log(bid["pctr"]) - np.log1p(-bid["pctr"])  # type: ignore[operator,call-overload]
    assert told["base"] + sum(term["log_odds"] for term in told["terms"]) == pytest.approx(served, abs=1e-6)
    assert main(["explain", "--bid", str(bid["bid_id"])]) == 0
    assert "error +-" in capsys.readouterr().out


def test_what_cannot_be_explained_is_said(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--bid", "nobody's"]) == 1
    assert "no bid nobody's" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="before there was a model"):  # as the log was written
        explain.explain(data_dir, "1-7", Names())
    (path,) = (data_dir / "training").glob("bids/*/*/*.parquet")
    rows = [row | {"feature_hash": "another"} for row in pq.ParquetFile(path).read().to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    with pytest.raises(InputError, match="another"):
        explain.find(data_dir / "training", "1-7")
    for damaged in (b"not Parquet", path.read_bytes().replace(b"bid_id", b"\xffid_id")):
        path.write_bytes(damaged)
        with pytest.raises(NotFoundError):
            explain.find(data_dir / "training", "1-7")


def test_a_bid_comes_with_others_of_its_time(data_dir: Path) -> None:
    found = explain.find(data_dir / "training", "1-7")
    assert found.logged["bid_id"] == "1-7"
    assert 256 < len(found.others) <= 1_024
    assert {len(other.request) for other in found.others} == {len(REQUEST_COLUMNS)}
    assert {len(other.ad) for other in found.others} == {len(AD_COLUMNS)}


def test_report_judges_the_champion_on_later_traffic(
    data_dir: Path, write_log: Writer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report"]) == 2
    assert "no clicks are known on traffic after its training" in capsys.readouterr().err
    clicks = write_log(data_dir / "training", 3_000, start_ms=START_MS + 3_600_000, seed=2)
    out = tmp_path / "made" / "report.html"
    assert main(["report", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = parser.fromstring(out.read_text(encoding="utf-8")).text_content()
    assert f"3,000impressions judged, {clicks} clicks" in text
    assert "8,000 impressions with" in text  # what it was trained on
    assert "Model against prior" in text
    version = registry.resolve(data_dir / "models", bundle.CHAMPION)
    assert main(["report", str(version)]) == 0
    assert capsys.readouterr().out.strip() == str(data_dir / "reports" / f"{version}.html")
    assert main(["report", "20000101T000000-0123456789abcdef"]) == 1


def test_a_report_compares_with_nothing_that_was_trained_on_what_it_judges(
    data_dir: Path, write_log: Writer, tmp_path: Path
) -> None:
    """After a rollback what served before is newer, and has seen the traffic since."""
    write_log(data_dir / "training", 3_000, start_ms=START_MS + 3_600_000, seed=2)
    root, out = data_dir / "models", tmp_path / "report.html"
    version = registry.resolve(root, bundle.CHAMPION)
    files = registry.read(root, str(version))
    manifest = json.loads(files.pop(registry.MANIFEST))

    def heading(trained_to_ms: int) -> str:
        data = {**manifest["data"], "to_ms": trained_to_ms}
        registry.set_alias(root, bundle.PREVIOUS, registry.publish(root, files, {**manifest, "data": data}))
        assert main(["report", "--out", str(out)]) == 0
        return str(parser.fromstring(out.read_text(encoding="utf-8")).text_content())

    assert "Model against previous champion" in heading(manifest["data"]["to_ms"] - 1)
    assert "Model against prior" in heading(manifest["data"]["to_ms"] + 3_600_000)
    (root / "aliases" / bundle.PREVIOUS).write_text("damaged")
    assert main(["report", "--out", str(out)]) == 0


def test_the_night_draws_what_its_gate_saw(data_dir: Path) -> None:
    version = registry.resolve(data_dir / "models", bundle.CHAMPION)
    assert version is not None
    files = registry.read(data_dir / "models", version)
    page = parser.fromstring(files["report.html"].decode())
    manifest = json.loads(files[registry.MANIFEST])
    (score,) = page.xpath("//section[h2='Candidate against live rate']//tr[@class='subject']")
    assert score.xpath("./td")[1].text_content() == f"{manifest['ctr']['scores']['candidate']['log_loss']:.5f}"
    assert f"{manifest['gate']['difference']['mean']:+.6f} nats a row" in page.text_content()
    assert page.xpath("//h1/span")[0].text_content() == "promoted"
    exchanges = page.xpath("//section[h2='By exchange']//tbody/tr/td[1]")
    assert [cell.text_content() for cell in exchanges] == ["demo-first"]  # as the log spells it
