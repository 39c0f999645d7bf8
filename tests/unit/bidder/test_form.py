"""What a bid says: forms filled in give what the bid's own texts give, follow the catalogue, and stay bounded."""

from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import msgspec
import pytest
from lxml import etree, html

from bidder import form as forms
from bidder.form import Forms
from bidder.markup import NoticeUrls, markup
from bidder.offer import Offer
from dsp.catalog.entities import Advertiser, Creative, LineItem, MediaFormat
from dsp.events.schema import BidFacts, NoticeKind, decode_facts, encode_facts
from dsp.kernel.errors import InputError
from dsp.kernel.ids import TokenSigner
from dsp.openrtb.check import judge
from dsp.openrtb.macros import CACHE_BUSTER, CLICK_URL, CLICK_URL_ENCODED
from dsp.openrtb.opportunity import DealOffer, Opportunity
from dsp.openrtb.profile import Profile
from dsp.openrtb.request import Banner, Imp, Video
from dsp.openrtb.response import Bid
from dsp.openrtb.slot import read
from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod
from dsp.openrtb.vast import OMID, TAG_MIME
from tests.notices import FACTS

SIGNER = TokenSigner([b"k" * 16], NoticeKind)
BASE = "https://n.example/a&b"
ASSETS = '{"title":"T","image":{"url":"https://c/i.jpg"}}'
NATIVE_REQUEST = '{"ver":"1.2","assets":[{"id":1,"title":{"len":9}}]}'
IMAGE = Tracker(event=TrackerEvent.IMPRESSION, url=f"https://t.example/i?a=1&r={CACHE_BUSTER}")
CLICK = Tracker(event=TrackerEvent.CLICK, url="https://t.example/c")
SCRIPT = Tracker(
    event=TrackerEvent.IMPRESSION, method=TrackerMethod.OMID, url="https://v.example/omid.js", vendor="v.example-omid"
)
CREATIVES: dict[str, dict[str, Any]] = {
    "plain banner": {"format": MediaFormat.BANNER, "markup": "<b>100 %</b> \\ é \u2028", "width": 300, "height": 250},
    "banner": {
        "format": MediaFormat.BANNER,
        "markup": f'<a href="{CLICK_URL}">{CACHE_BUSTER}</a><i data-u="{CLICK_URL_ENCODED}">',
        "categories": ("IAB1",),
        "attributes": (1, 2),
        "apis": (3,),
        "language": "de",
    },
    "video": {
        "format": MediaFormat.VIDEO,
        "markup": "https://c/v.mp4",
        "duration_seconds": 15,
    },
    "measured banner": {"format": MediaFormat.BANNER, "markup": "<b>", "trackers": (IMAGE,)},
    "measured video": {
        "format": MediaFormat.VIDEO,
        "markup": "https://c/v.mp4",
        "duration_seconds": 15,
        "trackers": (IMAGE, CLICK, SCRIPT),
    },
    "tag": {
        "format": MediaFormat.VIDEO,
        "markup": f"https://v.example/vast?r={CACHE_BUSTER}&c={CLICK_URL_ENCODED}",
        "mime": TAG_MIME,
        "duration_seconds": 15,
        "trackers": (IMAGE, CLICK, SCRIPT),
    },
    "measured native": {"format": MediaFormat.NATIVE, "markup": ASSETS, "trackers": (IMAGE, CLICK)},
    "native": {"format": MediaFormat.NATIVE, "markup": ASSETS},
    "native that lasts": {"format": MediaFormat.NATIVE, "markup": ASSETS, "duration_seconds": 15},
}
DEAL = DealOffer(id='a "deal"', floor_micros_cpm=0, auction=1)
ADVERTISER = cast(Advertiser, SimpleNamespace(name="A & Co", domain="a.example", categories=("IAB2",)))
LINE_ITEM = cast(LineItem, SimpleNamespace(campaign_id=5))


def _creative(**fields: Any) -> Creative:
    return Creative(id=7, name="c & c", line_item_id=3, landing_url="https://l.example", **fields)


def _opportunity(skippable: bool = True, native_request: str = NATIVE_REQUEST, protocol: int = 3) -> Opportunity:
    video = SimpleNamespace(
        skippable=skippable,
        skip_min_seconds=0,
        skip_after_seconds=0,
        protocols=frozenset(
            {protocol, protocol + (3 if protocol < 7 else 1)}
        ),  # a document of its version, and a wrapper
        audio=None,
        omid=False,
    )
    return cast(
        Opportunity,
        SimpleNamespace(
            video=video,
            native_request=native_request,
            imp_id='1 "\\é\x07',
            currency_rate=1.16,
            expires_seconds=600,
            category_taxonomy=1,
            disclosure=0,
            may_personalise=True,
        ),
    )


def _offer(creative: Creative, opportunity: Opportunity, bid_id: str = "b", deal: DealOffer | None = None) -> Offer:
    facts = msgspec.structs.replace(FACTS, bid_id=bid_id)
    return Offer(opportunity, ADVERTISER, LINE_ITEM, creative, deal, facts, 1_234_567, cast(Any, None))


def _filled(made: Forms, offer: Offer) -> bytes:
    form = made.find(offer)
    return made.fill(form, form.bid_of(offer), offer.facts).encode()


def _urls(facts: BidFacts, profile: Profile) -> NoticeUrls:
    """Return where one bid's notices go, written by themselves."""

    def url(kind: str, rest: str) -> str:
        return f"{BASE}/{kind}?t={SIGNER.tokens([kind], encode_facts(facts))[0]}{rest}"

    price, least = "&p=${AUCTION_PRICE}", "&m=${AUCTION_MIN_TO_WIN}"
    return NoticeUrls(
        win=url("win", price + least) if profile.win_notice else "",
        bill=url("bill", price + least) if profile.billing == "bill" else "",
        loss=url("loss", f"&r=${{AUCTION_LOSS}}{least}{price}") if profile.loss_notice else "",
        impression=url("imp", price if profile.billing == "imp" else ""),
        click=url("click", ""),
        banner_click=url("click", ""),
    )


@pytest.mark.parametrize("deal", [None, DEAL], ids=["open", "deal"])
@pytest.mark.parametrize("name", CREATIVES)
@pytest.mark.parametrize("billing", ["bill", "imp"])
def test_filled_in_is_the_same_as_encoded_afresh(name: str, billing: str, deal: DealOffer | None) -> None:
    profile, creative = Profile(name="x", billing=billing, win_notice=billing == "imp"), _creative(**CREATIVES[name])
    made = Forms(BASE, SIGNER, profile)
    for bid_id in ("01m807m562x0jsmrxvp59q3cph", "01m807m562z9z5qhqgctvgsafy"):
        for opportunity in (_opportunity(), _opportunity(False, NATIVE_REQUEST.replace("9", "8"), 7)):
            offer = _offer(creative, opportunity, bid_id, deal)
            form = made.find(offer)
            urls = _urls(offer.facts, profile)
            whole = msgspec.structs.replace(
                form.bid_of(offer),
                nurl=urls.win,
                burl=urls.bill,
                lurl=urls.loss,
                adm=markup(creative, opportunity, urls, bid_id),
            )
            assert _filled(made, offer) == msgspec.json.encode(whole)
            assert form.judgement == judge(whole)
            assert (whole.id, whole.impid, whole.price) == (bid_id, opportunity.imp_id, 1.064282)
            assert (whole.dealid, whole.adomain, whole.cid) == (deal.id if deal else "", ["a.example"], "5")
            assert whole.exp == 600
            assert (whole.apis, whole.api) == (([3], 3) if creative.apis else ([], 0))
            assert whole.cat == list(creative.categories or ("IAB2",))
            wanted = max if creative.mime == TAG_MIME else min
            assert whole.protocol == (wanted(opportunity.video.protocols) if creative.duration_seconds else 0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("slot", "want"),
    [
        ({"skip": 1}, "00:00:05"),
        ({"skip": 1, "skipafter": 10}, "00:00:10"),
        ({"skip": 1, "skipafter": 15}, ""),
        ({"skip": 1, "skipmin": 15}, ""),
        ({"skip": 1, "skipmin": 14}, "00:00:05"),
        ({"skip": 1, "battr": [16]}, ""),
        ({"skip": 1, "protocols": [2]}, ""),
        ({"skip": 0}, ""),
        ({}, ""),
    ],
)
def test_an_ad_that_can_be_skipped_says_so(slot: dict[str, Any], want: str) -> None:
    video = msgspec.convert({"mimes": ["video/mp4"], "protocols": [3, 7], **slot}, Video)
    opportunity = _opportunity()
    opportunity.video = read(Imp(video=video), None).video  # type: ignore[misc]
    made = Forms(BASE, SIGNER, Profile(name="x"))
    creative = _creative(**CREATIVES["video"], attributes=(6,))
    bid = msgspec.json.decode(_filled(made, _offer(creative, opportunity)), type=Bid)
    assert bid.attr == ([6, 16] if want else [6])
    assert (f'skipoffset="{want}"' in bid.adm) if want else "skipoffset" not in bid.adm


@pytest.mark.parametrize("name", ["measured video", "tag"])
def test_scripts_of_open_measurement_go_where_the_player_runs_them(name: str) -> None:
    made, creative = Forms(BASE, SIGNER, Profile(name="x")), _creative(**CREATIVES[name], apis=(2,))
    for api, want in (([2, 7], [2, OMID]), ([2], [2])):  # the same creative, one after the other
        opportunity = _opportunity()
        # What a banner of the same impression would run is nothing to the player.
        video = msgspec.convert({"mimes": ["video/mp4"], "api": api}, Video)
        opportunity.video = read(Imp(banner=Banner(api=(7,)), video=video), None).video  # type: ignore[misc]
        bid = msgspec.json.decode(_filled(made, _offer(creative, opportunity)), type=Bid)
        assert (bid.apis, SCRIPT.url in bid.adm) == (want, OMID in want)
        assert f"<![CDATA[{IMAGE.url.replace(CACHE_BUSTER, 'b')}]]>" in bid.adm
        assert "<ClickTracking><![CDATA[https://t.example/c]]>" in bid.adm


def test_a_vast_tag_is_wrapped_so_that_impressions_and_clicks_are_counted_and_nothing_follows_the_click() -> None:
    made, opportunity = Forms(BASE, SIGNER, Profile(name="x", billing="imp")), _opportunity(protocol=3)
    offer = _offer(_creative(**CREATIVES["tag"]), opportunity)
    bid = msgspec.json.decode(_filled(made, offer), type=Bid)
    tokens = SIGNER.tokens(["imp", "click"], encode_facts(offer.facts))
    impression, click = (f"{BASE}/{kind}?t={token}" for kind, token in zip(("imp", "click"), tokens, strict=True))
    root = etree.fromstring(bid.adm.encode())
    assert root.findtext("Ad/Wrapper/VASTAdTagURI") == f"https://v.example/vast?r=b&c={quote(click, safe='')}"
    assert [one.text for one in root.iter("Impression")] == [
        f"{impression}&p=${{AUCTION_PRICE}}",
        IMAGE.url[:-14] + "b",
    ]
    assert [one.text for one in root.iter("ClickTracking")] == [CLICK.url, f"{click}&r=0"]
    assert (root.get("version"), bid.protocol, bid.dur) == ("3.0", 6, 15)
    assert (bid.attr, "skipoffset" in bid.adm) == ([], False)  # which its own document says


def test_a_banner_loads_third_parties_images_after_ours() -> None:
    made, offer = (
        Forms(BASE, SIGNER, Profile(name="x")),
        _offer(_creative(**CREATIVES["measured banner"]), _opportunity()),
    )
    bid = msgspec.json.decode(_filled(made, offer), type=Bid)
    ours, theirs = html.fragments_fromstring(bid.adm)[-2:]
    assert ours.get("src").startswith(f"{BASE}/imp?t=")
    assert theirs.get("src") == "https://t.example/i?a=1&r=b"


def test_beside_a_video_an_audio_ad_is_written_for_the_audio_slot() -> None:
    slots = [msgspec.convert({"protocols": [protocol]}, Video) for protocol in (2, 7)]
    made, opportunity = Forms(BASE, SIGNER, Profile(name="x")), _opportunity()
    opportunity.video = read(Imp(video=slots[0], audio=slots[1]), None).video  # type: ignore[misc]
    fields = {"markup": "https://c/a", "duration_seconds": 15}
    for kind, protocol, version in ((MediaFormat.VIDEO, 2, "2.0"), (MediaFormat.AUDIO, 7, "4.0")):
        offer = _offer(_creative(format=kind, **fields), opportunity)
        bid = msgspec.json.decode(_filled(made, offer), type=Bid)
        assert bid.protocol == protocol
        assert f'<VAST version="{version}"' in bid.adm


@pytest.mark.parametrize("macro", ["%%CLICK_URL_UNESC%%", "${CLICK_URL}"])
def test_a_banner_s_clicks_go_by_way_of_the_exchange_where_it_counts_them(macro: str) -> None:
    made = Forms(BASE, SIGNER, Profile(name="x", click_macro=macro))
    for name in ("plain banner", "banner"):
        offer = _offer(_creative(**CREATIVES[name]), _opportunity())
        bid = msgspec.json.decode(_filled(made, offer), type=Bid)
        token = SIGNER.tokens(["click"], encode_facts(offer.facts))[0]
        assert f'<a href="{macro}{quote(f"{BASE}/click?t={token}", safe="")}"' in bid.adm
        assert not made.find(offer).judgement.unknown_macro
    film = _offer(_creative(**CREATIVES["video"]), _opportunity())
    assert macro not in msgspec.json.decode(_filled(made, film), type=Bid).adm


def test_the_price_is_asked_for_in_the_encoding_that_the_exchange_names() -> None:
    profile = Profile(name="x", billing="imp", price_encoding="OXCRYPT")
    made = Forms(BASE, SIGNER, profile)
    offer = _offer(_creative(**CREATIVES["banner"]), _opportunity())
    assert not made.find(offer).judgement.unknown_macro
    bid = msgspec.json.decode(_filled(made, offer), type=Bid)
    for text in (bid.adm, bid.nurl, bid.lurl):
        assert "&p=${AUCTION_PRICE:OXCRYPT}" in text
        assert "${AUCTION_PRICE}" not in text


def test_a_bid_states_the_categories_of_the_exchange_s_taxonomy() -> None:
    made, creative = Forms(BASE, SIGNER, Profile(name="x")), _creative(format=MediaFormat.BANNER, markup="<b>")
    creative = msgspec.structs.replace(creative, categories=("IAB1", "483"))
    for asked, want in ((1, (1, ["IAB1"])), (6, (6, ["483"])), (0, (1, ["IAB1"]))):
        opportunity = _opportunity()
        opportunity.category_taxonomy = asked  # type: ignore[misc]
        bid = msgspec.json.decode(_filled(made, _offer(creative, opportunity)), type=Bid)
        assert (bid.cattax, bid.cat) == want


def test_a_bid_discloses_what_is_asked() -> None:
    made, creative = Forms(BASE, SIGNER, Profile(name="x")), _creative(**CREATIVES["banner"])
    payer = {"behalf": "A & Co", "paid": "A & Co", "adrender": 0}
    for asked, personal, want in (
        (0, True, None),
        (1, True, payer),
        (2, True, {**payer, "transparency": [{"domain": "n.example", "dsaparams": [1]}]}),
        (2, False, {**payer, "transparency": [{"domain": "n.example", "dsaparams": [2]}]}),
    ):
        opportunity = _opportunity()
        opportunity.disclosure, opportunity.may_personalise = asked, personal  # type: ignore[misc]
        bid = msgspec.json.decode(_filled(made, _offer(creative, opportunity)))
        assert bid.get("ext") == (want and {"dsa": want})


def test_an_ad_that_leads_to_a_store_names_its_app() -> None:
    store = "https://play.google.com/store/apps/details?id=com.A.game"
    creative = msgspec.structs.replace(_creative(**CREATIVES["banner"]), landing_url=store)
    made = Forms(BASE, SIGNER, Profile(name="x"))
    assert msgspec.json.decode(_filled(made, _offer(creative, _opportunity())), type=Bid).bundle == "com.A.game"


def test_each_showing_of_a_film_has_an_id_of_its_own() -> None:
    made, creative = Forms(BASE, SIGNER, Profile(name="x")), _creative(**CREATIVES["video"])
    for bid_id in ("01m807m562x0jsmrxvp59q3cph", "01m807m562z9z5qhqgctvgsafy"):
        filled = _filled(made, _offer(creative, _opportunity(protocol=13), bid_id))
        assert f"<AdServingId><![CDATA[{bid_id}]]></AdServingId>".encode() in filled


def test_only_the_notices_an_exchange_sends_are_signed() -> None:
    offer = _offer(_creative(**CREATIVES["banner"]), _opportunity())
    quiet = Profile(name="x", billing="imp", win_notice=False, loss_notice=False)
    bid = msgspec.json.decode(_filled(Forms(BASE, SIGNER, quiet), offer), type=Bid)
    assert (bid.nurl, bid.burl, bid.lurl) == ("", "", "")
    bid = msgspec.json.decode(_filled(Forms(BASE, SIGNER, Profile(name="x")), offer), type=Bid)
    for url, kind in ((bid.nurl, "win"), (bid.burl, "bill"), (bid.lurl, "loss")):
        path, _, rest = url.partition("?t=")
        assert path == f"{BASE}/{kind}"
        assert decode_facts(SIGNER.verify(kind, rest.partition("&")[0])) == offer.facts


def test_what_changed_is_written_anew_and_forms_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "KEPT_CHARS_MAX", 40_000)
    made = Forms(BASE, SIGNER, Profile(name="x"))
    for number in range(200):  # an identity is used again once its creative is gone
        creative = _creative(format=MediaFormat.BANNER, markup=f"<b>{number}</b>")
        for _ in range(2):
            assert f"<b>{number}</b>".encode() in _filled(made, _offer(creative, _opportunity()))
    assert 0 < len(made._kept) < 40


def test_a_kept_creative_under_another_advertiser_is_written_anew() -> None:
    made, creative = Forms(BASE, SIGNER, Profile(name="x")), _creative(**CREATIVES["banner"])
    offer = _offer(creative, _opportunity())
    assert b'"a.example"' in _filled(made, offer)
    moved = cast(Advertiser, SimpleNamespace(domain="b.example", categories=()))
    assert b'"b.example"' in _filled(made, msgspec.structs.replace(offer, advertiser=moved))


def test_a_creative_that_lacks_what_the_slot_asks_for_is_refused_each_time() -> None:
    made, creative = Forms(BASE, SIGNER, Profile(name="x")), _creative(**CREATIVES["native"])
    for _ in range(2):
        with pytest.raises(InputError):
            made.find(_offer(creative, _opportunity(native_request="{}")))


def test_an_ad_that_changes_is_another_to_those_who_review_it_and_one_that_is_renamed_is_not() -> None:
    def crid(**changes: Any) -> str:
        creative = msgspec.structs.replace(_creative(**CREATIVES["banner"]), **changes)
        return Forms(BASE, SIGNER, Profile(name="x")).find(_offer(creative, _opportunity())).bid.crid

    assert crid() == crid(name="new", version=9, bitrate_kbps=3) == "7-cb6c2c97"
    others = [
        {"markup": "<i>"},
        {"landing_url": "https://l.example/2"},
        {"width": 320},
        {"id": 8},
        {"trackers": (IMAGE,)},
    ]
    assert len({crid(), *(crid(**one) for one in others)}) == 6
