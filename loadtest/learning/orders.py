"""The demo's catalogue as orders for one day: budgets scaled to the day's traffic, targets to what people do."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsp.catalog.entities import Catalogue
from dsp.kernel.clock import MS_PER_DAY
from dsp.store import load as loading
from dsp.store.catalog import load_catalogue
from dsp.store.database import create_engine, session_factory
from dsp.store.migrate import upgrade
from loadtest.platform import CATALOGUE

#: How many requests the demo's budgets are made for.
_DEMO_REQUESTS = 25_000
#: What units may cost, as parts of the demo's targets. The simulated people respond far more often than those assume:
#: with them every impression is worth a dozen times its price, and what to buy hardly matters.
_TARGETS = {"cpm": 1.0, "cpc": 0.15, "cpa": 0.075, "roas": 1 / 0.075}


def orders(begin_ms: int, requests_per_day: int) -> Catalogue:
    """Return the catalogue with every flight being the day that begins at `begin_ms`; ids are the same on every day."""
    tables = _scaled(loading.read(CATALOGUE), requests_per_day / _DEMO_REQUESTS)
    with TemporaryDirectory(prefix="dsp-learning-") as directory:
        address = f"sqlite:///{Path(directory) / 'catalogue.db'}"
        upgrade(address)
        engine = create_engine(address)
        loading.Load(engine, "simulation", begin_ms, MS_PER_DAY // 1_000).run(tables)
        with session_factory(engine, read_only=True)() as session:
            found = load_catalogue(session)[1]
        engine.dispose()
    return found


def _scaled(tables: dict[str, Any], factor: float) -> dict[str, Any]:
    for kind in ("campaign", "line_item"):
        for entry in tables[kind]:
            goal = entry.get("goal")
            if goal is not None:
                goal["target_micros"] = round(goal["target_micros"] * _TARGETS[goal["kind"]])
            entry["budget"] = {name: round(micros * factor) for name, micros in entry.get("budget", {}).items()}
    return tables
