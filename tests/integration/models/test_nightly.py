"""The nightly run on a synthetic training log, end to end."""

import dataclasses
import fcntl
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsp import registry
from dsp.kernel.errors import BundleError, ConflictError
from models.__main__ import main
from models.evaluation import compare
from models.serving import bundle
from models.training import aliases, contest, dataset, ensemble, nightly
from models.training.config import TrainingConfig
from tests.commands import run as run_command

START_MS = 1_750_000_000_000
CONFIG = TrainingConfig(maturity_seconds=0.0, rounds_max=40, families=("ftrl", "gbdt"))
ROWS = 8_000  # in the log that `trained` writes
END_MS = START_MS + 10 * ROWS


def run(data_dir: Path, now_ms: int, config: TrainingConfig = CONFIG) -> nightly.Outcome:
    return nightly.run(data_dir, now_ms, config, lambda step, found: None)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def champion(data_dir: Path) -> bundle.Bundle:
    version = registry.resolve(data_dir / "models", bundle.CHAMPION)
    assert version is not None
    return bundle.load(data_dir / "models", version)


def test_the_champion_beats_the_prior_on_later_traffic(copied: Path, write_log: Any) -> None:
    later_ms = END_MS + 3_600_000
    clicks = write_log(copied / "training", 6_000, start_ms=later_ms, seed=2)
    data = dataset.load(copied / "training", later_ms, later_ms + 60_000, later_ms + 70_000, CONFIG)
    answer = compare.evaluate(copied / "models", data)
    assert answer["rows"] == 6_000
    assert answer["clicks"] == clicks
    assert not answer["in_sample"]
    prior, model = answer["before"], answer["after"]
    assert model["log_loss"] < 0.95 * prior["log_loss"]
    assert model["auc"] > prior["auc"] + 0.1
    assert 0.8 < model["pcoc"] < 1.25
    assert sum(entry["rows"] for entry in model["reliability"]) == 6_000


def test_the_manifest_says_what_was_done(trained: Path) -> None:
    manifest = champion(trained).manifest
    assert manifest["data"]["impressions"] == ROWS
    assert manifest["data"]["skipped"] == []
    assert manifest["cvr"]["kind"] == "smoothed_rates"
    scores = manifest["ctr"]["scores"]
    assert scores["candidate"]["log_loss"] < scores["prior"]["log_loss"] < scores["constant"]["log_loss"]
    card = registry.read(trained / "models", champion(trained).version)["model_card.md"].decode()
    assert f"{ROWS:,} impressions" in card


def test_running_twice_does_no_harm(copied: Path) -> None:
    before, versions = champion(copied).version, registry.versions(copied / "models")
    outcome = run(copied, END_MS + 3_000)
    assert outcome.result == "nothing_new"
    assert outcome.champion == before == champion(copied).version
    assert registry.versions(copied / "models") == versions


def test_a_second_run_at_the_same_time_is_refused(copied: Path) -> None:
    with (copied / "models" / ".nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError):
            run(copied, END_MS + 3_000)


def test_the_next_night_replaces_the_champion_and_keeps_the_previous(copied: Path, write_log: Any) -> None:
    first = champion(copied).version
    later_ms = END_MS + 3_600_000
    # People click three times as often: who saw it must win over who did not.
    write_log(copied / "training", 12_000, start_ms=later_ms, seed=3, click_rate_of=lambda rate: min(1.0, 3 * rate))
    outcome = run(copied, later_ms + 200_000)
    assert outcome.result == "published", outcome.reasons
    assert champion(copied).version == outcome.champion != first
    assert registry.resolve(copied / "models", bundle.PREVIOUS) == first


def test_the_gate_refuses_a_worse_model(copied: Path, write_log: Any) -> None:
    first = champion(copied).version
    # Less than a night of new clicks, and a trainer that may only look at those: it cannot match the champion.
    later_ms = END_MS + 40 * 86_400_000
    write_log(copied / "training", 1_500, start_ms=later_ms, seed=4)
    outcome = run(copied, later_ms + 20_000)
    assert outcome.result == "refused"
    assert "the champion" in outcome.reasons[0]
    assert outcome.champion == first == champion(copied).version


def test_a_corrupt_file_is_named_and_left_out(copied: Path) -> None:
    whole = sorted((copied / "training").rglob("*.parquet"))
    for path in whole:
        (path.parent / f"9-{path.name}").write_bytes(path.read_bytes()[:-100])
        (path.parent / "8-empty.parquet").touch()
    data = dataset.load(copied / "training", START_MS, END_MS, END_MS + 2_000, CONFIG)
    assert len(data.impressions) == ROWS
    named = {entry.path for entry in data.summary.skipped}
    assert named == {
        str((path.parent / name).relative_to(copied / "training"))
        for path in whole
        for name in (f"9-{path.name}", "8-empty.parquet")
    }
    assert all(entry.reason for entry in data.summary.skipped)


def test_the_same_rows_in_two_files_count_once(copied: Path) -> None:
    for path in list((copied / "training").rglob("*.parquet")):
        (path.parent / f"1-{path.name}").write_bytes(path.read_bytes())
    data = dataset.load(copied / "training", START_MS, END_MS, END_MS + 2_000, CONFIG)
    assert len(data.impressions) == ROWS


def test_an_empty_day_publishes_nothing(tmp_path: Path) -> None:
    (tmp_path / "training" / "bids" / "date=2025-06-15" / "hour=00").mkdir(parents=True)
    outcome = run(tmp_path, START_MS)
    assert outcome.result == "little_data"
    assert outcome.champion is None
    assert registry.resolve(tmp_path / "models", bundle.CHAMPION) is None


def test_what_too_little_data_lack_is_said(tmp_path: Path, write_log: Any) -> None:
    write_log(tmp_path / "training", 700)
    write_log(tmp_path / "training", 40, start_ms=START_MS + 7_000, seed=2, feature_hash="other")
    few = run(tmp_path, START_MS + 60_000, msgspec.structs.replace(CONFIG, maturity_seconds=4.0, rows_min=400))
    assert few.result == "little_data"
    assert few.reasons[0].endswith("400 with 30 are needed")
    assert [reason.partition(" ")[2] for reason in few.reasons[1:]] == [
        "more are too young yet",
        "more have features of another definition",
    ]
    write_log(tmp_path / "all" / "training", 700, click_rate_of=lambda rate: 1.0)
    assert run(tmp_path / "all", START_MS + 60_000).reasons == ("all 700 impressions were clicked",)


def test_hours_without_data_are_named(tmp_path: Path, write_log: Any) -> None:
    write_log(tmp_path, 10)
    write_log(tmp_path, 10, start_ms=START_MS + 3 * 3_600_000, seed=2)
    summary = dataset.load(tmp_path, START_MS, START_MS + 10**8, START_MS + 10**8, CONFIG).summary
    assert summary.holes == ("date=2025-06-15/hour=16", "date=2025-06-15/hour=17")
    assert summary.impressions == 20


def test_young_impressions_are_left_out(tmp_path: Path, write_log: Any) -> None:
    write_log(tmp_path, 1_000)
    config = TrainingConfig(maturity_seconds=4.0)
    summary = dataset.load(tmp_path, START_MS, START_MS + 10_000, START_MS + 10_000, config).summary
    # Notices are known for ten seconds, so an impression must be from the first six.
    assert 595 <= summary.impressions <= 605
    assert summary.impressions + summary.immature == 1_000


def test_rows_of_other_features_are_left_out(tmp_path: Path, write_log: Any) -> None:
    write_log(tmp_path, 100)
    write_log(tmp_path, 50, start_ms=START_MS + 5_000, seed=2, feature_hash="another")
    summary = dataset.load(tmp_path, START_MS, START_MS + 10_000, START_MS + 20_000, CONFIG).summary
    assert summary.foreign == 50
    assert summary.impressions + summary.immature == 100


def test_a_conversion_model_is_trained_where_data_suffice(tmp_path: Path, write_log: Any) -> None:
    write_log(tmp_path / "training", ROWS)
    config = msgspec.structs.replace(CONFIG, conversions_min=50, log_loss_tolerance=0.5)
    outcome = run(tmp_path, END_MS + 2_000, config)
    assert outcome.manifest is not None
    assert outcome.manifest["cvr"]["kind"] == "model"
    weights = outcome.manifest["cvr"]["weights"]
    files = registry.read(tmp_path / "models", str(outcome.champion))
    assert weights.keys() == json.loads(files["feature_spec.json"])["cvr"]["parts"].keys()
    told = files["model_card.md"].decode().partition("## Conversions")[2]  # how good they are, and not of what alone
    assert re.search(r"predictor +\| clicks +\| conversions +\|.*predicted/conversions", told)
    assert f"{outcome.manifest['cvr']['scores']['candidate']['log_loss']:.5f}" in told
    found = champion(tmp_path)
    data = dataset.load(tmp_path / "training", START_MS, END_MS, END_MS + 2_000, config)
    predicted = compare.pcvr(found.predictor, data.clicks)
    assert predicted.mean() == pytest.approx(data.clicks.labels.mean(), rel=0.2)
    assert not np.array_equal(predicted, compare.pcvr(found.prior, data.clicks))


@pytest.mark.parametrize(
    "name", ["ctr_gbdt.onnx", "feature_spec.json", "calibration.json", "golden.json", "manifest.json", "model_card.md"]
)
def test_a_tampered_bundle_is_refused(copied: Path, name: str) -> None:
    version = champion(copied).version
    path = copied / "models" / "versions" / version / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="not what was published"):
        bundle.load(copied / "models", version)
    # It cannot serve, so the next run replaces it.
    assert run(copied, END_MS + 3_000).result == "published"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "without its last byte": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\n",
    "reversed": lambda data: data[::-1],
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_a_bundle_with_any_damage_to_any_file_is_refused(copied: Path, damage: str) -> None:
    root, version = copied / "models", champion(copied).version
    files = registry.read(root, version)
    assert {"ctr_gbdt.onnx", "feature_spec.json", "calibration.json", "manifest.json", "model_card.md"} <= set(files)
    for name, data in files.items():
        path = root / "versions" / version / name
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(DAMAGE[damage](data))
        with pytest.raises(BundleError):
            bundle.load(root, version)
        with pytest.raises(BundleError):
            aliases.promote(root, version)
        path.write_bytes(data)
    assert bundle.load(root, version).version == version


def another(copied: Path, number: int = 1) -> str:
    """Publish the champion's files once more, as another version."""
    root = copied / "models"
    files = registry.read(root, champion(copied).version)
    manifest = json.loads(files.pop(registry.MANIFEST))
    return registry.publish(root, files, {**manifest, "number": number})


def test_aliases_move_together(copied: Path) -> None:
    root, first = copied / "models", champion(copied).version
    second, third = another(copied, 2), another(copied, 3)

    def named() -> list[str | None]:
        return [registry.resolve(root, alias) for alias in (bundle.CHAMPION, bundle.PREVIOUS, bundle.CHALLENGER)]

    aliases.shadow(root, second)
    assert named() == [first, None, second]
    aliases.promote(root, second)
    aliases.promote(root, second)  # again: no change
    assert named() == [second, first, None]
    with pytest.raises(ConflictError, match="is the champion"):
        aliases.shadow(root, second)
    aliases.shadow(root, third)
    assert aliases.rollback(root) == first
    assert named() == [first, second, None]
    aliases.shadow(root, third)
    aliases.shadow(root, None)
    assert named() == [first, second, None]
    registry.clear_alias(root, bundle.PREVIOUS)
    with pytest.raises(ConflictError):
        aliases.rollback(root)


def test_an_alias_that_names_nothing_serves_nothing_and_is_replaced(copied: Path) -> None:
    root, first, second = copied / "models", champion(copied).version, another(copied)
    alias = root / "aliases" / bundle.CHAMPION
    alias.write_text("damaged")
    aliases.promote(root, first)
    assert champion(copied).version == first
    alias.write_text("damaged")
    aliases.promote(root, second)
    aliases.promote(root, first)
    alias.write_text("damaged")
    assert aliases.rollback(root) == second
    alias.write_text("damaged")
    steps: dict[str, dict[str, Any]] = {}
    outcome = nightly.run(copied, END_MS + 3_000, CONFIG, steps.__setitem__)
    assert steps["evaluate"]["fault"] == "not a version: 'damaged'"
    assert outcome.result == "published"
    assert outcome.champion == champion(copied).version
    assert aliases.fault(root, bundle.CHAMPION) is aliases.fault(root, bundle.CHALLENGER) is None


def test_live_evidence_is_that_of_the_challenger_and_its_bids_alone(copied: Path) -> None:
    root, version = copied / "models", another(copied)
    data = dataset.load(copied / "training", START_MS, END_MS, END_MS + 2_000, CONFIG)
    rate = compare.pctr(champion(copied).predictor, data.impressions)
    choice = ensemble.Choice("gbdt", {}, [], {}, {})
    walked = ensemble.Walk(0, {}, {"gbdt": rate}, rate, np.empty((0, 0), np.float32), choice)
    assert contest.hold(root, data, walked, CONFIG).live is None
    aliases.shadow(root, version)
    count = len(rate)
    shadowed = dataset.Shadowed(
        np.full(count, 0.05),
        np.full(count, champion(copied).version),
        np.where(np.arange(count) % 2, rate, np.nan),
        np.full(count, version),
    )
    shadowed.challengers[: count // 2] = "another"
    live = contest.hold(root, dataclasses.replace(data, shadowed=shadowed), walked, CONFIG).live
    assert live is not None
    assert (live.version, live.difference.rows) == (version, count // 4)
    assert live.difference.low > 0  # a model against one rate for all
    assert live.objections == []
    # Better than another champion, or than the prior that answered in this one's stead, is not better than this one.
    shadowed.champions[:] = np.where(np.arange(count) % 4 == 1, "the former champion", "online/1")
    live = contest.hold(root, dataclasses.replace(data, shadowed=shadowed), walked, CONFIG).live
    assert live is not None
    assert live.difference.rows == 0
    shadowed.champions[:] = champion(copied).version
    # What cannot serve has no evidence, and promoting it would fail the run, every night.
    told = dataclasses.replace(data, shadowed=shadowed)
    (root / "versions" / version / "golden.json").unlink()
    assert contest.hold(root, told, walked, CONFIG).live is None
    (root / "aliases" / bundle.CHALLENGER).write_text("damaged")
    assert contest.hold(root, told, walked, CONFIG).live is None


def test_a_challenger_proven_live_is_promoted(copied: Path, write_log: Any) -> None:
    root, first, version = copied / "models", champion(copied).version, another(copied)
    aliases.shadow(root, version)
    later_ms = END_MS + 40 * 86_400_000  # a trainer that only sees this little is refused
    write_log(copied / "training", 1_500, start_ms=later_ms, seed=4)
    for path in (copied / "training" / "bids").rglob("*.parquet"):
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
        replaced = {
            "pctr": pa.array([0.01] * len(table)),
            "model_version": pa.array([first] * len(table)),
            "challenger_pctr": pa.array([0.1] * len(table)),
            "challenger_version": pa.array([version] * len(table)),
        }
        for name, column in replaced.items():
            table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, path)
    outcome = run(copied, later_ms + 20_000)
    assert outcome.result == "proven"
    assert version in outcome.reasons[-1]
    assert outcome.champion == version
    assert registry.resolve(root, bundle.PREVIOUS) == first
    assert registry.resolve(root, bundle.CHALLENGER) is None


def test_a_bundle_that_does_not_give_its_golden_rows_is_refused(copied: Path) -> None:
    root, version = copied / "models", champion(copied).version
    files = registry.read(root, version)
    manifest = json.loads(files.pop(registry.MANIFEST))
    golden = json.loads(files["golden.json"])
    golden[0]["pctr"][0] += 0.01
    other = registry.publish(root, {**files, "golden.json": json.dumps(golden).encode()}, manifest)
    with pytest.raises(BundleError, match="golden row 0"):
        bundle.load(root, other)


def test_bundles_made_for_other_features_are_refused(copied: Path) -> None:
    root, version = copied / "models", champion(copied).version
    files = registry.read(root, version)
    manifest = json.loads(files.pop(registry.MANIFEST))
    spec = json.loads(files["feature_spec.json"])
    spec["feature_hash"] = "0" * 16
    other = registry.publish(root, {**files, "feature_spec.json": json.dumps(spec).encode()}, manifest)
    with pytest.raises(BundleError, match="made for features"):
        bundle.load(root, other)


def command(data_dir: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    settings = {"DSP_PLATFORM_DATA_DIR": str(data_dir), "DSP_TRAINING_MATURITY_SECONDS": "0"}
    return run_command(main, settings, *arguments, status=status)


def test_the_command_line_prints_one_document(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(command(copied, "evaluate", "--from-ms", str(START_MS), "--json")[0])
    assert answer["rows"] == ROWS
    assert answer["in_sample"]
    assert answer["after"]["log_loss"] < answer["before"]["log_loss"]
    out, err = command(copied, "nightly", "--json")
    assert json.loads(out)["result"] in ("nothing_new", "little_data")
    assert json.loads(err.splitlines()[0])["step"] == "dataset"
    assert capfd.readouterr() == ("", "")  # nor do libraries write anything of their own


def test_people_get_a_table(copied: Path) -> None:
    out, _ = command(copied, "evaluate", "--from-ms", str(START_MS))
    assert "| champion" in out
    assert "tenth" in out


def test_people_see_which_hours_are_without_data(tmp_path: Path, write_log: Any) -> None:
    write_log(tmp_path / "training", 10)
    write_log(tmp_path / "training", 10, start_ms=START_MS + 3 * 3_600_000, seed=2)
    (tmp_path / "dsp.toml").write_text("[training]\nwindow_days = 20_000\n")  # the log is of another year
    out, _ = command(tmp_path, "--config", str(tmp_path / "dsp.toml"), "nightly")
    assert "nothing of date=2025-06-15/hour=16 to date=2025-06-15/hour=17 (2 hours)" in out


def test_people_see_what_was_done_before_the_run_was_killed(copied: Path) -> None:
    command(copied, "nightly")
    folder = max((copied / "models" / "runs").iterdir())
    for name in ("end.json", "notify.json"):  # killed before the last step
        (folder / name).unlink()
    out, _ = command(copied, "nightly")
    assert out.count("(done before)") == 2  # dataset, landscape
    assert "resumed" not in out


def test_settings_are_refused_with_their_reason(copied: Path) -> None:
    file = copied / "dsp.toml"
    file.write_text("[training]\nblocks = 1\n")
    assert "blocks" in command(copied, "--config", str(file), "nightly", status=2)[1]


def test_rollback_returns_to_the_previous_champion(copied: Path, write_log: Any) -> None:
    first = champion(copied).version
    command(copied, "rollback", status=1)
    later_ms = END_MS + 3_600_000
    write_log(copied / "training", 12_000, start_ms=later_ms, seed=3, click_rate_of=lambda rate: min(1.0, 3 * rate))
    second = run(copied, later_ms + 200_000).champion
    assert second != first
    command(copied, "rollback")
    assert champion(copied).version == first
    command(copied, "promote", str(second))
    assert champion(copied).version == second
    command(copied, "shadow", first)
    assert registry.resolve(copied / "models", bundle.CHALLENGER) == first
    command(copied, "shadow")
    assert registry.resolve(copied / "models", bundle.CHALLENGER) is None
    assert "BundleError" in command(copied, "promote", "20250615T000000-0123456789abcdef", status=1)[1]


def test_the_first_nights_page_compares_with_what_was_bid_with(tmp_path: Path, write_log: Any) -> None:
    """As its gate does: the rates of the prior as they were logged, not constants."""
    write_log(tmp_path / "training", 4_000)
    for path in (tmp_path / "training" / "bids").rglob("*.parquet"):
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
        place = table.column_names.index("pctr")
        pq.write_table(table.set_column(place, "pctr", pa.array([0.07] * len(table))), path)
    outcome = run(tmp_path, END_MS + 2_000)
    assert outcome.manifest is not None
    (page,) = (tmp_path / "models" / "runs").glob("*/report.html")
    assert f"{outcome.manifest['gate']['difference']['mean']:+.6f} nats a row" in page.read_text(encoding="utf-8")
