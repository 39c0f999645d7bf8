"""Rules, dashboards and runbooks: checked by promtool, and against the metrics that the code has."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dsp.kernel.metrics import LATENCY_BUCKETS
from dsp.workers.config import METERED, WORKERS
from tests.deploy import files
from tests.servers.prometheus import program

RULE_TESTS = sorted((files.PROMETHEUS / "tests").glob("*.yml"))
SECTIONS = ("## Meaning", "## Impact", "## Diagnosis", "## Mitigation")
#: Labels that Prometheus adds, those that rules keep, and what an info metric says.
ADDED = {"job", "instance", "version", "device", "hash"}


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_sound() -> None:
    promtool("check", "rules", files.PROMETHEUS / "recording.yml", files.PROMETHEUS / "alerts.yml")


def test_the_configuration_is_sound() -> None:
    promtool("check", "config", files.PROMETHEUS / "prometheus.yml")


@pytest.mark.timeout(300)  # hours of evaluations, a core for some seconds each
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_otherwise(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_has_a_firing_and_a_quiet_case() -> None:
    cases: dict[str, set[bool]] = {}
    for path in RULE_TESTS:
        for test in files.read_yaml(path)["tests"]:
            for case in test["alert_rule_test"]:
                cases.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert cases == {rule["alert"]: {True, False} for rule in files.rules("alerts")}


@pytest.mark.parametrize("rule", files.rules("alerts"), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    page = (files.ROOT / path).read_text(encoding="utf-8")
    assert all(f"\n{section}\n" in page for section in SECTIONS)
    assert f"`{rule['alert']}`" in page
    anchors = {re.sub(r"\W+", "-", line[3:].lower()) for line in page.splitlines() if line.startswith("## ")}
    assert not anchor or anchor in anchors


def test_the_index_lists_every_alert_and_no_page_is_left_over() -> None:
    index = (files.RUNBOOKS / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| \[[^\]]+\]\((.+?)\) \|$", index, re.MULTILINE))
    urls = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in files.rules("alerts")}
    assert listed == {alert: url.removeprefix("docs/runbooks/").partition("#")[0] for alert, url in urls.items()}
    assert {page.name for page in files.RUNBOOKS.glob("*.md")} == {*listed.values(), "README.md"}


def test_every_query_can_be_parsed(tmp_path: Path) -> None:
    queries = [*files.every_query()]
    assert len(queries) > 150
    made = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}), encoding="utf-8")
    promtool("check", "rules", path)


def test_every_series_and_label_asked_for_exists() -> None:
    series = files.declared()
    recorded = {rule["record"]: set(re.findall(r"\w+", by[1])) if (by := re.search(r" by \(([^)]*)\)", rule["expr"]))
                else set() for rule in files.rules("recording")}  # fmt: skip
    faults = []
    for where, query in files.every_query():
        for found in files.selectors(query):
            if found.name in files.FOREIGN:
                continue
            known = series.get(found.name) or recorded.get(found.name)
            if known is None and found.name not in series and found.name not in recorded:
                faults.append(f"{where}: {found.name}")
                continue
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", found.matchers))
            faults += [f"{where}: {found.name}{{{label}}}" for label in labels - (known or set()) - ADDED]
    assert not faults


def test_service_levels_sit_on_bucket_edges() -> None:
    edges = {f"{edge:g}" for edge in LATENCY_BUCKETS}
    asked = {edge for _, query in files.every_query() for edge in re.findall(r'le="([^"]+)"', query)}
    assert asked
    assert asked <= edges
    research = (1, 2, 5, 10, 20, 30, 50, 80, 100, 150, 250)  # what exchanges and operators ask about, ms
    assert {milliseconds / 1_000 for milliseconds in research} <= set(LATENCY_BUCKETS)


def test_every_worker_is_missed_when_it_is_away() -> None:
    (rule,) = [rule for rule in files.rules("alerts") if rule["alert"] == "DspWorkerAway"]
    assert re.findall(r'worker="(\w+)"', rule["expr"]) == list(WORKERS)
    (online,) = [rule for rule in files.rules("alerts") if rule["alert"] == "DspOnlineLearnerAway"]
    assert {*WORKERS, *re.findall(r'worker="(\w+)"', online["expr"])} == set(METERED)


@pytest.mark.parametrize("path", files.DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_whole(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == f"dsp-{path.stem}"
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["title"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in board["panels"])
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) - {"__rate_interval", "__all"}
    assert used <= {variable["name"] for variable in board["templating"]["list"]}


def test_the_five_dashboards_are_there() -> None:
    assert [path.stem for path in files.DASHBOARDS] == ["exchange", "model", "money", "overview", "pipeline"]
