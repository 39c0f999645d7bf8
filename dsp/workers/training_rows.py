"""The columns of the training log, and the rows that a decision and a notice make. The join is the reader's."""

from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from dsp.events.schema import Decision, Notice

BIDS_SCHEMA = pa.schema(
    [
        ("bid_id", pa.string()),
        ("auction_id", pa.string()),
        ("imp_id", pa.string()),
        ("exchange", pa.string()),
        ("at_ms", pa.int64()),
        ("advertiser_id", pa.int64()),
        ("campaign_id", pa.int64()),
        ("line_item_id", pa.int64()),
        ("creative_id", pa.int64()),
        ("price_micros_cpm", pa.int64()),
        ("cost_micros_max", pa.int64()),
        ("value_micros_cpm", pa.int64()),
        ("floor_micros_cpm", pa.int64()),
        ("first_price", pa.bool_()),
        ("deal_id", pa.string()),
        ("jitter", pa.float64()),
        ("propensity", pa.float64()),
        ("expires_at_ms", pa.int64()),
        ("pacing_multiplier", pa.float64()),
        ("pctr", pa.float64()),
        ("pcvr", pa.float64()),
        ("request_features", pa.binary()),
        ("ad_features", pa.binary()),
        ("feature_hash", pa.string()),
        ("model_version", pa.string()),
        ("snapshot_version", pa.string()),
        ("challenger_pctr", pa.float64()),
        ("challenger_version", pa.string()),
    ]
)
NOTICES_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("bid_id", pa.string()),
        ("auction_id", pa.string()),
        ("imp_id", pa.string()),
        ("exchange", pa.string()),
        ("at_ms", pa.int64()),
        ("line_item_id", pa.int64()),
        ("cost_micros", pa.int64()),
        ("clearing_micros_cpm", pa.int64()),
        ("loss_reason", pa.int64()),
        ("min_to_win_micros_cpm", pa.int64()),
        ("late", pa.bool_()),
        ("conversion_rule_id", pa.int64()),
        ("value_micros", pa.int64()),
    ]
)


def bid_rows(decision: Decision) -> list[dict[str, Any]]:
    """Return one row per bid of a decision, columns as `BIDS_SCHEMA` names them."""
    return [
        {
            "bid_id": bid.facts.bid_id,
            "auction_id": decision.auction_id,
            "imp_id": bid.facts.imp_id,
            "exchange": decision.exchange,
            "at_ms": decision.at_ms,
            "advertiser_id": bid.facts.advertiser_id,
            "campaign_id": bid.facts.campaign_id,
            "line_item_id": bid.facts.line_item_id,
            "creative_id": bid.facts.creative_id,
            "price_micros_cpm": bid.facts.price_micros_cpm,
            "cost_micros_max": bid.facts.cost_micros_max,
            "value_micros_cpm": bid.value_micros_cpm,
            "floor_micros_cpm": bid.floor_micros_cpm,
            "first_price": bid.first_price,
            "deal_id": bid.deal_id,
            "jitter": bid.jitter,
            "propensity": bid.propensity,
            "expires_at_ms": bid.facts.expires_at_ms,
            "pacing_multiplier": bid.pacing_multiplier,
            "pctr": bid.pctr,
            "pcvr": bid.pcvr,
            "request_features": bid.request_features,
            "ad_features": bid.ad_features,
            "feature_hash": decision.feature_hash,
            "model_version": decision.model_version,
            "snapshot_version": decision.snapshot_version,
            "challenger_pctr": bid.challenger_pctr,
            "challenger_version": decision.challenger_version,
        }
        for bid in decision.bids
    ]


def notice_rows(notice: Notice) -> list[dict[str, Any]]:
    """Return the row of a notice, columns as `NOTICES_SCHEMA` names them."""
    facts = notice.facts
    return [
        {
            "kind": notice.kind.value,
            "bid_id": facts.bid_id,
            "auction_id": facts.auction_id,
            "imp_id": facts.imp_id,
            "exchange": facts.exchange,
            "at_ms": notice.at_ms,
            "line_item_id": facts.line_item_id,
            "cost_micros": notice.cost_micros,
            "clearing_micros_cpm": notice.clearing_micros_cpm,
            "loss_reason": notice.loss_reason,
            "min_to_win_micros_cpm": notice.min_to_win_micros_cpm,
            "late": notice.late,
            "conversion_rule_id": notice.conversion_rule_id,
            "value_micros": notice.value_micros,
        }
    ]
