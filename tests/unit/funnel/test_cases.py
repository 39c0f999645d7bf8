"""Runs tests/cases/funnel/*.json: a catalogue, and for each impression what must become of every line item.

A case gives only what matters; entities are active and impressions plain unless said. On every case, `select` and
`explain` must agree.
"""

import json
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from dsp.catalog.entities import Catalogue
from dsp.catalog.exposures import pack
from dsp.catalog.reasons import Exclusion
from dsp.catalog.user import Exposure, UserRecord
from dsp.funnel import Selection, explain, select
from dsp.openrtb.opportunity import Opportunity
from dsp.pacing.columns import ControlColumns, align, paced
from dsp.pacing.controller import Control, Controls
from dsp.snapshot.build import Snapshot, build

CASES = Path(__file__).parents[2] / "cases" / "funnel"
NOW = "2025-06-16T10:00:00+00:00"  # a Monday

IMPRESSION: dict[str, Any] = {
    "auction_id": "auction", "imp_id": "1", "exchange": "alpha", "at_ms": 0, "lots": blake2b(digest_size=8),
    "test": False, "first_price": True, "tmax_ms": 100, "formats": ["banner"], "sizes": [[300, 250]], "video": None,
    "native_request": "", "mimes": [], "apis": [], "blocked_attributes": [], "position": 0,
    "interstitial": False, "rewarded": False, "secure": False,
    "floor_micros_cpm": 500_000, "placement": "", "deals": [], "private_auction": False,
    "inventory": "site", "domain": "news.example", "bundle": "", "publisher": "",
    "categories": [], "content_language": "", "device": "desktop", "os": "", "os_version": "", "browser": "",
    "make": "", "model": "", "language": "", "connection": 0, "country": "", "region": "", "city": "",
    "postcode": "", "utc_offset_minutes": 0, "user_key": "", "segments": [], "may_store": True,
    "may_personalise": True, "blocked_categories": [], "blocked_advertisers": [], "blocked_apps": [],
    "languages_allowed": [], "currency": "USD", "currency_rate": 1.0,
}  # fmt: skip
VIDEO = {
    "duration_seconds_min": 0, "duration_seconds_max": 86_400, "protocols": [], "placement": None,
    "skippable": False,
}  # fmt: skip
ENTITY: dict[str, dict[str, Any]] = {
    "advertisers": {"domain": "brand.example"},
    "campaigns": {"advertiser_id": 1, "flight": {"start_ms": 0}},
    "line_items": {
        "campaign_id": 1,
        "goal": {"kind": "cpm", "target_micros": 2_000_000},
        "flight": {"start_ms": 0},
    },
    "creatives": {
        "format": "banner", "landing_url": "https://other.example/", "markup": "<b>ad</b>", "width": 300, "height": 250,
    },
    "deals": {"exchange": "alpha"},
}  # fmt: skip


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def flights(entity: dict[str, Any]) -> dict[str, Any]:
    """Write a flight's times, given as text, as milliseconds."""
    flight = entity.get("flight", {})
    return {**entity, "flight": {key: ms(at) if isinstance(at, str) else at for key, at in flight.items()}}


def catalogue(given: dict[str, list[dict[str, Any]]]) -> Catalogue:
    given = {"advertisers": [{"id": 1}], "campaigns": [{"id": 1}], **given}
    # One plain creative for every line item, unless the case has its own.
    given.setdefault("creatives", [{"id": item["id"], "line_item_id": item["id"]} for item in given["line_items"]])
    entities: dict[str, list[dict[str, Any]]] = {}
    for kind, members in given.items():
        whole = [{"name": f"{kind} {one['id']}", "status": "active", **ENTITY[kind], **one} for one in members]
        entities[kind] = [flights(one) if "flight" in one else one for one in whole]
    return msgspec.convert(entities, Catalogue)


def impression(given: dict[str, Any]) -> Opportunity:
    fields = {**IMPRESSION, **given}
    if fields["video"] is not None:
        audio = fields["video"].get("audio")
        fields["video"] = {**VIDEO, **fields["video"], "audio": audio and {**VIDEO, **audio}}
    fields["deals"] = [{"auction": 1, "floor_micros_cpm": 0, **deal} for deal in fields["deals"]]
    return msgspec.convert(fields, Opportunity)


def controls(given: dict[str, dict[str, float]], snapshot: Snapshot) -> ControlColumns:
    known = {int(key): Control(**value) for key, value in given.items()}
    return align(paced(Controls(at_ms=0, line_items=known)), snapshot.line_item_ids)


def assert_well_behaved(selection: Selection, snapshot: Snapshot) -> None:
    """What must hold of every selection, whatever the case."""
    size = len(selection.line_items)
    assert size > 0
    assert {len(column) for column in selection} == {size}
    assert (np.diff(selection.line_items) > 0).all()
    assert (snapshot.creative_line_items[selection.creatives] == selection.line_items).all()
    assert not (selection.first_price & selection.fixed_price).any()
    assert [column.dtype for column in selection[:5]] == [np.int64, np.int64, np.int64, np.bool_, np.bool_]


def steps() -> list[Any]:
    return [
        pytest.param(case, step, id=f"{path.stem}: {step['about']}")
        for path in sorted(CASES.glob("*.json"))
        for case in (json.loads(path.read_text(encoding="utf-8")),)
        for step in case["impressions"]
    ]


def test_there_are_cases() -> None:
    assert len(steps()) > 30


@pytest.mark.parametrize(("case", "step"), steps())
def test_case(case: dict[str, Any], step: dict[str, Any]) -> None:
    snapshot = build(catalogue(case["catalogue"]), "v1", 0)
    now_ms = ms(step.get("now", NOW))
    shown = pack(msgspec.convert(step.get("seen", []), list[Exposure]))
    user = UserRecord(shown, tuple(step.get("known", [])), step.get("complete", True)) if "seen" in step else None
    opportunity = impression(step.get("impression", {}))
    columns = controls(step.get("controls", {}), snapshot)
    limit, seat = step.get("limit", 1_000), step.get("seat", "seat")

    explanation = explain(snapshot, opportunity, user, columns, now_ms, limit, seat)
    selected = select(snapshot, opportunity, user, columns, now_ms, limit, seat)

    reasons = {str(key): verdict.exclusion and verdict.exclusion.value for key, verdict in explanation.verdicts.items()}
    assert reasons == step["line_items"]
    left = [key for key, reason in step["line_items"].items() if reason is None]
    if isinstance(selected, Exclusion):
        assert not left
        assert "answer" not in step or selected.value == step["answer"]
        return
    assert_well_behaved(selected, snapshot)
    ids = [str(snapshot.line_items[row].id) for row in selected.line_items]
    assert sorted(ids) == sorted(left)
    seen = {
        "creatives": [snapshot.creatives[number].id for number in selected.creatives],
        "floors": selected.floors_micros_cpm.tolist(),
        "deals": [deal and deal.id for deal in selected.deals],
        "first_price": selected.first_price.tolist(),
        "fixed_price": selected.fixed_price.tolist(),
    }
    for name, expected in step.items():
        if name in seen:
            assert dict(zip(ids, seen[name], strict=True)) == expected, name
