"""iPinYou impressions and clicks (seasons 2 and 3): what is known before the auction, and who clicked.

A click weighs 1 and a sampled impression its `weight`. Left out as inputs: what the auction or the click brings about
(pay price, source, click and conversion), what the logged bidder chose (bid price), and what the click log, where
most clicks come from, states otherwise than the impression log does for one and the same bid: user id, milliseconds.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dsp.kernel.errors import InputError
from dsp.openrtb.device import parse_user_agent
from models.benchmark.formats import Format
from models.benchmark.table import cell, count, instant_ms, integer, read
from models.features.encode import text_hash
from models.features.spec import FeatureSpec, Group
from models.training.rows import Rows

#: One impression of so many is sampled at most; a larger weight is a mistake.
WEIGHT_MAX = 1e9
#: Of a user; season 2 has at most 31.
TAG_SLOTS = 32
_TAGS = tuple(f"tag_{slot}" for slot in range(1, TAG_SLOTS + 1))
_REQUEST = (
    "exchange", "slot", "size", "width", "height", "visibility", "format", "floor", "domain", "url", "hour", "region",
    "city", "network", "os", "browser", "agent", "tag_count", *_TAGS,
)  # fmt: skip
_AD = ("advertiser", "creative", "landing_page")
_NEEDED = (
    "timestamp", "useragent", "ip", "region", "city", "adexchange", "domain", "url", "slotid", "slotwidth",
    "slotheight", "slotvisibility", "slotformat", "slotprice", "creative", "keypage", "advertiser", "usertag", "click",
)  # fmt: skip
#: One minute of a day, whole: no sample of its traffic.
_CONTIGUOUS = "first_minute"
_CROSSED = ("exchange", "slot", "size", "visibility", "format", "floor", "domain", "hour", "region", "os", "browser")


def _spec() -> FeatureSpec:
    singles = ("exchange", "visibility", "format", "size", "floor", "hour", "os", "browser", "region", "domain", "slot")
    mains = [Group(name=name, request=(name,)) for name in (*singles, "city", "url", "network", "agent", "tag_count")]
    ads = (
        Group(name="advertiser", ad=("advertiser",)),
        Group(name="landing_page", ad=("landing_page",)),
        Group(name="creative", ad=("creative",)),
    )
    return FeatureSpec(
        request_columns=_REQUEST,
        ad_columns=_AD,
        groups=(
            *ads,
            *mains,
            Group(name="tag", request=_TAGS),
            Group(name="tag_x_advertiser", request=_TAGS, ad=("advertiser",)),
            *(Group(name=f"{name}_x_advertiser", request=(name,), ad=("advertiser",)) for name in _CROSSED),
            Group(name="slot_x_creative", request=("slot",), ad=("creative",)),
            Group(name="domain_x_creative", request=("domain",), ad=("creative",)),
        ),
        hierarchy=ads,
        request_numbers=("width", "height", "floor", "hour", "tag_count"),
        calibrate_by=(
            Group(name="exchange", request=("exchange",)),
            Group(name="advertiser", ad=("advertiser",)),
        ),
    )


def load(path: Path) -> Rows:
    """Read a CSV of impressions; rows that weigh nothing are left out, and those of `src` first_minute.

    Raises:
        InputError: no row counts, a column is missing, or a number or a time is none.
    """
    found = read(path, _NEEDED, _event)
    if not found:
        raise InputError(f"{path} has no rows with a weight", reason="benchmark_file")
    at_ms, requests, ads, labels, weights = zip(*found, strict=True)
    order = np.argsort(np.array(at_ms, dtype=np.int64), kind="stable")
    return Rows(
        np.array(at_ms, dtype=np.int64)[order],
        np.array(requests, dtype=np.int64)[order],
        np.array(ads, dtype=np.int64)[order],
        np.array(labels, dtype=np.bool_)[order],
        np.array(weights, dtype=np.float64)[order],
    )


def _event(row: Mapping[str, str]) -> tuple[int, list[int], list[int], bool, float] | None:
    if row.get("src") == _CONTIGUOUS:
        return None
    clicked = cell(row, "click", count) > 0
    # Without the column all impressions are there. A click may go without a weight, but not one impression of many.
    told = bool(row.get("weight")) or ("weight" in row and not clicked)
    weight = cell(row, "weight", _weight) if told else 1.0
    # A sampled impression that was clicked is in the click log too, so it is no sample of 291.
    weight = min(weight, 1.0) if clicked else weight
    if not weight:
        return None
    at_ms = cell(row, "timestamp", instant_ms)
    agent = parse_user_agent(row["useragent"])
    tags = sorted({tag for tag in row["usertag"].split(",") if tag})[:TAG_SLOTS]
    request = [
        text_hash(row["adexchange"]),
        text_hash(row["slotid"]),
        text_hash(f"{row['slotwidth']}x{row['slotheight']}"),
        cell(row, "slotwidth", count),
        cell(row, "slotheight", count),
        text_hash(row["slotvisibility"]),
        text_hash(row["slotformat"]),
        cell(row, "slotprice", count),
        text_hash(row["domain"]),
        text_hash(row["url"]),
        int(row["timestamp"][8:10]),
        text_hash(row["region"]),
        text_hash(row["city"]),
        text_hash(row["ip"].rpartition(".")[0]),
        text_hash(f"{agent.os} {agent.os_version}"),
        text_hash(agent.browser),
        text_hash(row["useragent"]),
        len(tags),
        *(text_hash(tag) for tag in tags),
        *(0 for _ in range(TAG_SLOTS - len(tags))),
    ]
    ad = [cell(row, "advertiser", integer), text_hash(row["creative"]), text_hash(row["keypage"])]
    return at_ms, request, ad, clicked, weight


def _weight(text: str) -> float:
    weight = float(text)
    if not 0.0 <= weight <= WEIGHT_MAX:
        raise ValueError(f"{text!r} is no weight")
    return weight


IPINYOU = Format(_spec(), load, advertiser="advertiser", timed=True)
