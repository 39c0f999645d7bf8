"""The bid request, OpenRTB 2.5 and 2.6: only the fields that something reads, each with its absence spelled out.

Structs that repeat from request to request are frozen, so that what is made of them can be remembered by them.
`ext` structs name the 2.5 places of fields that 2.6 promoted; `dsp.openrtb.codec` folds them into the promoted ones.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

#: What fits 32 bits; larger numbers are noise and are read as absent.
Int = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
#: An identifier that our answer echoes: it must be a string already, for mending it would change it.
Id = Annotated[str, Meta(max_length=512)]
#: Some exchanges send category and carrier codes as numbers.
Text = str | int


class Format(msgspec.Struct, frozen=True, gc=False):
    """A permitted banner size (3.2.10), or of a Flex Ad the ratio of its sides."""

    w: Int = 0
    h: Int = 0
    wratio: Int = 0
    hratio: Int = 0


class Banner(msgspec.Struct, frozen=True, gc=False):
    """A banner slot (3.2.6)."""

    format: tuple[Format, ...] = ()
    w: Int = 0
    h: Int = 0
    btype: tuple[Int, ...] = ()
    battr: tuple[Int, ...] = ()
    pos: Int = 0
    mimes: tuple[Text, ...] = ()
    api: tuple[Int, ...] = ()


class DurFloor(msgspec.Struct, frozen=True, gc=False):
    """A floor for creatives of a duration range (3.2.35)."""

    mindur: Int = 0
    maxdur: Int = 2**31 - 1
    bidfloor: float = 0.0


class VideoExt(msgspec.Struct, frozen=True, gc=False):
    """Where 2.5 put a rewarded placement."""

    rewarded: Int = 0


class Video(msgspec.Struct, frozen=True, gc=False):
    """A video slot (3.2.7); an audio slot (3.2.8) reads the same."""

    mimes: tuple[Text, ...] = ()
    minduration: Int = 0
    maxduration: Int = 0
    rqddurs: tuple[Int, ...] = ()
    podid: Text = ""
    poddur: Int = 0
    protocols: tuple[Int, ...] = ()
    protocol: tuple[Int, ...] = ()  # 2.0 to 2.2, deprecated since
    w: Int = 0
    h: Int = 0
    linearity: Int | None = None
    placement: Int | None = None
    plcmt: Int | None = None
    skip: Int = 0
    skipmin: Int = 0
    skipafter: Int = 0
    minbitrate: Int = 0
    maxbitrate: Int = 0
    delivery: tuple[Int, ...] = ()
    battr: tuple[Int, ...] = ()
    api: tuple[Int, ...] = ()
    pos: Int = 0
    mincpmpersec: float = 0.0
    durfloors: tuple[DurFloor, ...] = ()
    ext: VideoExt | None = None


class Native(msgspec.Struct, gc=False):
    """A native slot (3.2.9). `request` is JSON in a string by the specification, an object with some exchanges."""

    request: msgspec.Raw = msgspec.Raw(b"null")
    api: tuple[Int, ...] = ()
    battr: tuple[Int, ...] = ()


class Deal(msgspec.Struct, gc=False):
    """A private deal (3.2.12). `bidfloorcur` does not inherit from the impression."""

    id: str = ""
    bidfloor: float = 0.0
    bidfloorcur: str = "USD"
    at: Int | None = None
    wseat: tuple[Text, ...] = ()
    wadomain: tuple[Text, ...] = ()
    mincpmpersec: float = 0.0
    durfloors: tuple[DurFloor, ...] = ()


class Pmp(msgspec.Struct, gc=False):
    """The deals of an impression (3.2.11)."""

    private_auction: Int = 0
    deals: list[Deal] = []


class Quantity(msgspec.Struct, gc=False):
    """How many impressions one win is billed as (3.2.31): of a screen, those who pass it."""

    multiplier: float = 1.0


class ImpPrebid(msgspec.Struct, gc=False):
    """Where Prebid Server puts a rewarded placement for those who read 2.5."""

    is_rewarded_inventory: Int = 0


class ImpExt(msgspec.Struct, gc=False):
    """Where 2.5 put a rewarded placement. `reward` is AdCOM's name of it."""

    rwdd: Int = 0
    rewarded: Int = 0
    reward: Int = 0
    prebid: ImpPrebid | None = None


class Imp(msgspec.Struct, gc=False):
    """One impression (3.2.4)."""

    id: Id = ""
    banner: Banner | None = None
    video: Video | None = None
    audio: Video | None = None
    native: Native | None = None
    pmp: Pmp | None = None
    instl: Int = 0
    tagid: str = ""
    bidfloor: float = 0.0
    bidfloorcur: str = "USD"
    secure: Int = 0
    rwdd: Int = 0
    exp: Int = 0
    qty: Quantity | None = None
    bcat: tuple[Text, ...] = ()  # not in the specification; exchanges that block by slot put it here
    ext: ImpExt | None = None


class Publisher(msgspec.Struct, gc=False):
    """Who sells the inventory (3.2.15)."""

    id: str = ""


class Content(msgspec.Struct, gc=False):
    """What the ad appears in (3.2.16)."""

    cat: tuple[Text, ...] = ()
    cattax: Int = 1
    language: str = ""
    langb: str = ""


class Inventory(msgspec.Struct, gc=False):
    """A site (3.2.13), an app (3.2.14) or a screen (3.2.32): the union of what is read of them."""

    domain: str = ""
    page: str = ""  # site
    bundle: str = ""  # app
    storeurl: str = ""  # app
    url: str = ""  # app, before storeurl existed
    cat: tuple[Text, ...] = ()
    sectioncat: tuple[Text, ...] = ()
    pagecat: tuple[Text, ...] = ()
    cattax: Int = 1
    publisher: Publisher | None = None
    content: Content | None = None


class Geo(msgspec.Struct, gc=False):
    """Where the device or the user is (3.2.19)."""

    country: str = ""
    region: str = ""
    city: str = ""
    zip: str = ""
    utcoffset: Int | None = None


class BrandVersion(msgspec.Struct, frozen=True, gc=False):
    """A browser or a platform with its version (3.2.30)."""

    brand: str = ""
    version: tuple[Text, ...] = ()


class UserAgent(msgspec.Struct, frozen=True, gc=False):
    """Client hints (3.2.29); more accurate than `ua` where both are sent."""

    browsers: tuple[BrandVersion, ...] = ()
    platform: BrandVersion | None = None
    mobile: Int | None = None
    model: str = ""


class DeviceExt(msgspec.Struct, gc=False):
    """`atts`: Apple's tracking authorisation; 1 restricted, 2 denied (SKAdNetwork extension)."""

    atts: Int | None = None


class Device(msgspec.Struct, gc=False):
    """The device (3.2.18)."""

    ua: str = ""
    sua: UserAgent | None = None
    geo: Geo | None = None
    dnt: Int = 0
    lmt: Int = 0
    devicetype: Int = 0
    make: str = ""
    model: str = ""
    os: str = ""
    osv: str = ""
    w: Int = 0
    h: Int = 0
    language: str = ""
    langb: str = ""
    connectiontype: Int = 0
    ifa: str = ""
    ext: DeviceExt | None = None


class Uid(msgspec.Struct, gc=False):
    """One extended identifier (3.2.28)."""

    id: str = ""


class Eid(msgspec.Struct, gc=False):
    """The extended identifiers of one source (3.2.27)."""

    source: str = ""
    uids: list[Uid] = []


class Segment(msgspec.Struct, gc=False):
    """A segment of a data provider (3.2.22)."""

    id: str = ""


class Data(msgspec.Struct, gc=False):
    """A data provider (3.2.21)."""

    segment: list[Segment] = []


class UserExt(msgspec.Struct, gc=False):
    """Where 2.5 put consent and extended identifiers."""

    consent: str = ""
    eids: list[Eid] = []


class User(msgspec.Struct, gc=False):
    """The user (3.2.20)."""

    id: str = ""
    buyeruid: str = ""
    data: list[Data] = []
    geo: Geo | None = None
    consent: str = ""
    eids: list[Eid] = []
    ext: UserExt | None = None


class Transparency(msgspec.Struct, gc=False):
    """What the EU's Digital Services Act demands to be said of an ad, and who shows it (IAB DSA extension)."""

    dsarequired: Int = 0  # 0 nothing; 1 what is said is read; 2 and 3 what says nothing is refused
    pubrender: Int | None = None  # 0 the publisher does not show it; 1 it can; 2 it does
    datatopub: Int = 0  # 0 who pays is enough; 1 and 2 by what the user was chosen as well


class RegsExt(msgspec.Struct, gc=False):
    """Where 2.5 put what 2.6 promoted. `gpc`: the browser's Global Privacy Control, as header bidding passes it on."""

    gdpr: Int | None = None
    us_privacy: str = ""
    gpp: str = ""
    gpp_sid: tuple[Int, ...] = ()
    coppa: Int = 0
    gpc: Text = ""
    dsa: Transparency | None = None


class Regs(msgspec.Struct, gc=False):
    """The regulations in force (3.2.3)."""

    coppa: Int = 0
    gdpr: Int | None = None
    us_privacy: str = ""
    gpp: str = ""
    gpp_sid: tuple[Int, ...] = ()
    ext: RegsExt | None = None


class SupplyChain(msgspec.Struct, gc=False):
    """Who sold the impression on (3.2.25); only whether the list is complete is read."""

    complete: Int = 0


class SourceExt(msgspec.Struct, gc=False):
    """Where 2.5 put the supply chain."""

    schain: SupplyChain | None = None


class Source(msgspec.Struct, gc=False):
    """Where the request comes from (3.2.2)."""

    schain: SupplyChain | None = None
    ext: SourceExt | None = None


class RequestExt(msgspec.Struct, gc=False):
    """Where exchanges below 2.5 put what 2.5 promoted, and those of 2.5 the taxonomy of categories."""

    wlang: tuple[Text, ...] = ()
    bapp: tuple[Text, ...] = ()
    cattax: Int = 1
    schain: SupplyChain | None = None


class BidRequest(msgspec.Struct, gc=False):
    """The whole request (3.2.1)."""

    id: Id = ""
    imp: list[Imp] = []
    site: Inventory | None = None
    app: Inventory | None = None
    dooh: Inventory | None = None
    device: Device | None = None
    user: User | None = None
    test: Int = 0
    at: Int | None = None
    tmax: Int = 0
    wseat: tuple[Text, ...] = ()
    bseat: tuple[Text, ...] = ()
    cur: tuple[Text, ...] = ()
    wlang: tuple[Text, ...] = ()
    wlangb: tuple[Text, ...] = ()
    acat: tuple[Text, ...] = ()
    bcat: tuple[Text, ...] = ()
    cattax: Int = 1
    badv: tuple[Text, ...] = ()
    bapp: tuple[Text, ...] = ()
    source: Source | None = None
    regs: Regs | None = None
    ext: RequestExt | None = None
