"""Event records. Fields are only ever added, with defaults, so that old records always decode.

Numbers have bounds, which every column and sum of a consumer can hold. What is beyond them is no event: it is parked
by whoever reads it (dsp.workers.dead_letters), and blocks nobody.
"""

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec

from dsp.catalog.validate import AMOUNT_MICROS_MAX, TIME_MS_MAX
from dsp.kernel.clock import MS_PER_DAY, MS_PER_HOUR
from dsp.kernel.money import Micros

#: Numbers of databases, of Parquet and of arrays have 64 bits; MessagePack's may have one more.
_Integer = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Instant = Annotated[int, msgspec.Meta(ge=0, le=TIME_MS_MAX)]
_Day = Annotated[int, msgspec.Meta(ge=0, le=TIME_MS_MAX // MS_PER_DAY)]
_Hour = Annotated[int, msgspec.Meta(ge=0, le=TIME_MS_MAX // MS_PER_HOUR)]
#: Of what happened in a process's life, and summed as well.
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
#: What is billed is summed, over all that was ever billed.
_Amount = Annotated[Micros, msgspec.Meta(ge=0, le=AMOUNT_MICROS_MAX)]


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
    advertiser_id: _Integer
    campaign_id: _Integer
    line_item_id: _Integer
    creative_id: _Integer
    price_micros_cpm: _Integer
    cost_micros_max: _Amount
    currency: str
    rate: float
    bid_at_ms: _Instant
    expires_at_ms: _Instant
    lease_id: str
    day: _Day  # days since the epoch in the advertiser's time zone: the daily budget it was reserved from
    user_key: str = ""  # pseudonymous; empty where privacy signals forbid storing anything
    value_micros: _Integer = 0  # what this one impression was expected to be worth to the line item's goal
    category: str = ""  # of the ad: the first of IAB's top level that it has, as its features say
    personal: bool = False  # privacy signals allow a profile, and ads chosen by it


class Bid(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One bid of a decision, with everything a replay or a training run needs."""

    facts: BidFacts
    ad_features: bytes  # int64 little-endian, models.features.columns.AD_COLUMNS in order
    pctr: float
    pcvr: float
    value_micros_cpm: _Integer
    floor_micros_cpm: _Integer
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
    at_ms: _Instant
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
    at_ms: _Instant
    cost_micros: _Amount = 0
    clearing_micros_cpm: _Integer | None = None
    loss_reason: _Integer | None = None
    min_to_win_micros_cpm: _Integer | None = None
    late: bool = False
    conversion_rule_id: _Integer | None = None
    value_micros: _Amount | None = None


class BidCount(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How many bids were sent of one creative to one exchange, in the hour and on the day that its notices count in."""

    advertiser_id: _Integer
    campaign_id: _Integer
    line_item_id: _Integer
    creative_id: _Integer
    exchange: str
    day: _Day
    hour: _Hour
    bids: _Count


class BidsSent(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="bids.1"):
    """What one bidder process has sent since its record before; tests are not counted.

    A sender is one process's life. Its numbers only rise, in the log as well: a record is delivered a second time where
    its number does not.
    """

    sender: str
    number: _Count
    at_ms: _Instant
    counts: tuple[BidCount, ...]


class SampledRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="request.1"):
    """One bid request kept for `explain` and for the parity tests, with what was answered.

    It is as it came, or without its user where nothing about him may be kept (`dsp.privacy.redaction`).
    """

    auction_id: str
    exchange: str
    at_ms: _Instant
    body: bytes
    outcome: str  # "bid" or an Exclusion's label
    snapshot_version: str = ""


Event = Decision | Notice | BidsSent | SampledRequest
_Kind = TypeVar("_Kind", bound=Event)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
_facts_decoder = msgspec.msgpack.Decoder(BidFacts)


def encode(event: Event) -> bytes:
    """Return the record's stored form (MessagePack with a type tag)."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """Return the record; raises msgspec.DecodeError for bytes that are none."""
    return _decoder.decode(data)


def decode_as(kind: type[_Kind], data: bytes) -> _Kind | None:
    """Return the record if it is of this kind; what is another's, or cannot be read, is for the workers to report."""
    try:
        event = decode(data)
    except msgspec.DecodeError:
        return None
    return event if isinstance(event, kind) else None


def encode_facts(facts: BidFacts) -> bytes:
    """Return the token payload."""
    return _encoder.encode(facts)


def decode_facts(payload: bytes) -> BidFacts:
    """Return a verified token's facts; raises msgspec.DecodeError when an older format was signed."""
    return _facts_decoder.decode(payload)
