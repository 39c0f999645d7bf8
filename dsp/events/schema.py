"""Event records. Fields are only ever added, with defaults, so that old records always decode."""

from enum import StrEnum

import msgspec

from dsp.kernel.money import Micros


class NoticeKind(StrEnum):
    """What an exchange or a browser tells us; each has its own URL and its own token tag.

    Their order is part of the tokens: what is new goes to the end.
    """

    WIN = "win"
    BILL = "bill"
    LOSS = "loss"
    IMPRESSION = "imp"
    CLICK = "click"
    CONVERSION = "conv"


class BidFacts(msgspec.Struct, frozen=True, array_like=True, gc=False, kw_only=True):
    """What a notice needs to know of its bid; travels inside the signed token, so no look-up is needed.

    `price_micros_cpm` is our bid in the book's currency, `cost_micros_max` what was reserved for it;
    `currency` and `rate` (book units per unit of it) are what the exchange's clearing price is quoted in.
    """

    exchange: str
    auction_id: str
    imp_id: str
    bid_id: str
    advertiser_id: int
    campaign_id: int
    line_item_id: int
    creative_id: int
    price_micros_cpm: Micros
    cost_micros_max: Micros
    currency: str
    rate: float
    bid_at_ms: int
    expires_at_ms: int
    lease_id: str
    day: int  # days since the epoch in the advertiser's time zone: the daily budget it was reserved from
    user_key: str = ""  # pseudonymous; empty where privacy signals forbid storing anything
    value_micros: Micros = 0  # what this one impression was expected to be worth to the line item's goal
    category: str = ""  # of the ad: the first of IAB's top level that it has, as its features say
    personal: bool = False  # privacy signals allow a profile, and ads chosen by it


class Bid(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One bid of a decision, with everything a replay or a training run needs."""

    facts: BidFacts
    ad_features: bytes  # int64 little-endian, models.features.columns.AD_COLUMNS in order
    pctr: float
    pcvr: float
    value_micros_cpm: Micros
    floor_micros_cpm: Micros
    first_price: bool
    pacing_multiplier: float
    request_features: bytes  # int64 little-endian, models.features.columns.REQUEST_COLUMNS in order
    deal_id: str = ""  # of the exchange; empty in the open auction
    jitter: float = 1.0  # what exploration multiplied the chosen price by, before floor and worth bound it
    propensity: float = 1.0  # probability with which that factor was drawn
    challenger_pctr: float | None = None  # what a model in shadow predicted, where one was asked


class Decision(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="decision.1"):
    """One answered auction that carried at least one bid."""

    auction_id: str
    exchange: str
    at_ms: int
    bids: tuple[Bid, ...]
    snapshot_version: str
    model_version: str
    feature_hash: str
    challenger_version: str = ""  # of the model in shadow; empty where none was asked


class Notice(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="notice.1"):
    """One accepted notice. `cost_micros` is what it bills: 0 unless this kind is the exchange's billing event.

    `late` marks a billing notice whose reservation had ended as far as its receiver knew; the ledger judges by the
    log's stamp.
    """

    kind: NoticeKind
    facts: BidFacts
    at_ms: int
    cost_micros: Micros = 0
    clearing_micros_cpm: Micros | None = None
    loss_reason: int | None = None
    min_to_win_micros_cpm: Micros | None = None
    late: bool = False
    conversion_rule_id: int | None = None
    value_micros: Micros | None = None


class SampledRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="request.1"):
    """One raw bid request kept for `explain` and for the parity tests, with what was answered."""

    auction_id: str
    exchange: str
    at_ms: int
    body: bytes
    outcome: str  # "bid" or an Exclusion's label
    snapshot_version: str = ""


Event = Decision | Notice | SampledRequest

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_facts_decoder = msgspec.msgpack.Decoder(BidFacts)


def encode(event: Event) -> bytes:
    """Return the record's stored form (MessagePack with a type tag)."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """Return the record; raises msgspec.DecodeError for bytes that are none."""
    return _decoder.decode(data)


def encode_facts(facts: BidFacts) -> bytes:
    """Return the token payload."""
    return _encoder.encode(facts)


def decode_facts(payload: bytes) -> BidFacts:
    """Return a verified token's facts; raises msgspec.DecodeError when an older format was signed."""
    return _facts_decoder.decode(payload)
