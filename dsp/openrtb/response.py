"""The bid response, OpenRTB 2.5 and 2.6: what we answer with. Empty fields are left out of the JSON."""

from enum import IntEnum

import msgspec


class MarkupType(IntEnum):
    """`bid.mtype` (4.2.3)."""

    BANNER = 1
    VIDEO = 2
    AUDIO = 3
    NATIVE = 4


class Parameters(msgspec.Struct):
    """By what a platform chose the user (IAB DSA extension): 1 a profile, 2 nothing but the context."""

    domain: str
    dsaparams: list[int]


class Disclosure(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Whose ad it is and who pays for it; `adrender` is 0, for we do not show that ourselves."""

    behalf: str
    paid: str
    transparency: list[Parameters] = []
    adrender: int | None = None


class BidExt(msgspec.Struct, omit_defaults=True):
    """What the specification has no field for."""

    dsa: Disclosure | None = None


class Bid(msgspec.Struct, omit_defaults=True, gc=False, kw_only=True):
    """One offer for one impression (4.2.3). `price` is CPM in the response's currency."""

    id: str
    impid: str
    price: float
    nurl: str = ""
    burl: str = ""
    lurl: str = ""
    adm: str = ""
    adid: str = ""
    adomain: list[str] = []
    bundle: str = ""
    iurl: str = ""
    cid: str = ""
    crid: str = ""
    cat: list[str] = []
    cattax: int = 1
    attr: list[int] = []
    apis: list[int] = []
    api: int = 0
    protocol: int = 0
    language: str = ""
    dealid: str = ""
    w: int = 0
    h: int = 0
    exp: int = 0
    dur: int = 0
    mtype: int = 0
    ext: BidExt | None = None


class SeatBid(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The bids of one seat (4.2.2)."""

    bid: list[Bid]
    seat: str = ""


class BidResponse(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer (4.2.1). Without `seatbid` it is a no-bid, with `nbr` saying why."""

    id: str
    seatbid: list[SeatBid] = []
    bidid: str = ""
    cur: str = ""
    nbr: int | None = None
