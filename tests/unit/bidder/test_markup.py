"""What a bid says: kept templates give what writing afresh gives, follow the creative, and stay bounded."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bidder import markup as written
from bidder.markup import CACHE_BUSTER, CLICK_URL, CLICK_URL_ENCODED, NoticeUrls, Writer, markup
from dsp.catalog.entities import Creative, MediaFormat
from dsp.events.schema import BidFacts, NoticeKind, decode_facts, encode_facts
from dsp.kernel.errors import InputError
from dsp.kernel.ids import TokenSigner
from dsp.openrtb.opportunity import Opportunity
from dsp.openrtb.profile import Profile
from tests.notices import FACTS

SIGNER = TokenSigner([b"k" * 16], NoticeKind)
BASE = "https://n.example/a&b"
ASSETS = '{"title":"T","image":{"url":"https://c/i.jpg"}}'
NATIVE_REQUEST = '{"ver":"1.2","assets":[{"id":1,"title":{"len":9}}]}'
CREATIVES: dict[str, dict[str, Any]] = {
    "plain banner": {"format": MediaFormat.BANNER, "markup": "<b>100 %</b>"},
    "banner": {
        "format": MediaFormat.BANNER,
        "markup": f'<a href="{CLICK_URL}">{CACHE_BUSTER}</a><i data-u="{CLICK_URL_ENCODED}">',
    },
    "video": {
        "format": MediaFormat.VIDEO,
        "markup": f"https://c/v.mp4?n={CACHE_BUSTER}",
        "duration_seconds": 15,
    },
    "native": {"format": MediaFormat.NATIVE, "markup": ASSETS},
}


def _creative(**fields: Any) -> Creative:
    return Creative(id=7, name="c & c", line_item_id=3, landing_url="https://l.example", **fields)


def _facts(bid_id: str) -> BidFacts:
    return msgspec.structs.replace(FACTS, bid_id=bid_id)


def _opportunity(skippable: bool = True, native_request: str = NATIVE_REQUEST) -> Opportunity:
    video = SimpleNamespace(skippable=skippable, protocols=frozenset({3}))
    return cast(Opportunity, SimpleNamespace(video=video, native_request=native_request))


def _afresh(creative: Creative, opportunity: Opportunity, bid_id: str, profile: Profile) -> str:
    """Return the markup written for one bid alone."""
    tokens = SIGNER.tokens(["imp", "click"], encode_facts(_facts(bid_id)))
    imp, click = (f"{BASE}/{kind}?t={token}" for kind, token in zip(("imp", "click"), tokens, strict=True))
    price = "&p=${AUCTION_PRICE}" if profile.billing == "imp" else ""
    return markup(creative, opportunity, NoticeUrls("", "", "", imp + price, click), bid_id)


@pytest.mark.parametrize("name", CREATIVES)
@pytest.mark.parametrize("billing", ["bill", "imp"])
def test_filled_in_is_the_same_as_written_afresh(name: str, billing: str) -> None:
    profile, creative = Profile(name="x", billing=billing), _creative(**CREATIVES[name])
    writer = Writer(BASE, SIGNER, profile)
    for bid_id in ("01m807m562x0jsmrxvp59q3cph", "01m807m562z9z5qhqgctvgsafy"):
        for opportunity in (_opportunity(), _opportunity(False, NATIVE_REQUEST.replace("9", "8"))):
            texts = writer.write(creative, opportunity, _facts(bid_id))
            assert texts.adm == _afresh(creative, opportunity, bid_id, profile)


def test_only_the_notices_an_exchange_sends_are_signed() -> None:
    creative, facts = _creative(**CREATIVES["banner"]), _facts("b")
    quiet = Profile(name="x", billing="imp", win_notice=False, loss_notice=False)
    assert Writer(BASE, SIGNER, quiet).write(creative, _opportunity(), facts)[1:4] == ("", "", "")
    nurl, burl, lurl = Writer(BASE, SIGNER, Profile(name="x")).write(creative, _opportunity(), facts)[1:4]
    for url, kind in ((nurl, "win"), (burl, "bill"), (lurl, "loss")):
        path, _, rest = url.partition("?t=")
        assert path == f"{BASE}/{kind}"
        assert decode_facts(SIGNER.verify(kind, rest.partition("&")[0])) == facts


def test_a_creative_that_changed_is_written_anew_and_templates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "KEPT_CHARS_MAX", 20_000)
    writer = Writer(BASE, SIGNER, Profile(name="x"))
    for number in range(200):  # an identity is used again once its creative is gone
        creative = _creative(format=MediaFormat.BANNER, markup=f"<b>{number}</b>")
        for _ in range(2):
            assert f"<b>{number}</b>" in writer.write(creative, _opportunity(), _facts("b")).adm
    assert 0 < len(writer._templates) < 40


def test_a_creative_that_lacks_what_the_slot_asks_for_is_refused_each_time() -> None:
    writer, creative = Writer(BASE, SIGNER, Profile(name="x")), _creative(**CREATIVES["native"])
    for _ in range(2):
        with pytest.raises(InputError):
            writer.write(creative, _opportunity(native_request="{}"), _facts("b"))
