"""What is under deploy, as data: rules, dashboards, runbooks, and the queries in them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prometheus_client.metrics import MetricWrapperBase

from dsp.kernel import metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs" / "runbooks"
#: What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$exchange": ".*"}
#: A series' name, with its matchers if it has any; functions and words of the language are other names.
_SELECTOR = re.compile(r"\b(up|(?:dsp|process|python)[a-zA-Z0-9_:]*)(\{[^}]*\})?")
#: Other libraries' metrics: the Prometheus client's own, and the server's.
FOREIGN = {
    "up",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "python_gc_collections_total",
}


class Selector(NamedTuple):
    """One selection of series in a query."""

    name: str
    matchers: str  # with braces, or ""


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(name: str) -> list[dict[str, Any]]:
    """Return all rules of `alerts` or `recording`."""
    return [rule for group in read_yaml(PROMETHEUS / f"{name}.yml")["groups"] for rule in group["rules"]]


def panel_queries(path: Path) -> Iterator[tuple[str, str]]:
    """Yield title and query of each target of a dashboard, its variables replaced."""
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield panel["title"], query


def runbook_queries() -> Iterator[tuple[str, str]]:
    """Yield page and query of each line in a block of PromQL."""
    for page in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"```promql\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                yield page.name, line


def every_query() -> Iterator[tuple[str, str]]:
    """Yield where and what of every query in rules, dashboards and runbooks."""
    for name in ("recording", "alerts"):
        for rule in rules(name):
            yield rule.get("record") or rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for title, query in panel_queries(path):
            yield f"{path.stem}: {title}", query
    yield from runbook_queries()


def selectors(query: str) -> list[Selector]:
    """Return what series a query selects."""
    bare = re.sub(r"\b(by|ignoring|on|without|group_left|group_right) \([^)]*\)", "", query)
    return [Selector(name, matchers) for name, matchers in _SELECTOR.findall(bare)]


def declared() -> dict[str, set[str]]:
    """Return the labels of each series that our processes show, by its name."""
    found: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        name, labels = metric._name, set(metric._labelnames)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
        for suffix in suffixes.get(metric._type, ("",)):
            extra = {"le"} if suffix == "_bucket" else set()
            found[name + suffix] = labels | extra
    return found
