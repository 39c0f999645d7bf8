"""Macros, VAST and native responses."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import vastlint
from lxml import etree

from dsp.kernel.errors import InputError
from dsp.openrtb import native, vast
from dsp.openrtb.macros import CACHE_BUSTER, Macro, expand, filled, unknown
from dsp.openrtb.tracker import Tracker, TrackerEvent, TrackerMethod

ADVERSE = 'A & B ]]> <x attr="1"> \x00\x0b ü 漢 😀'


def test_macros_are_replaced_wherever_they_stand() -> None:
    text = f"https://x/win?p={Macro.PRICE.text}&l={Macro.LOSS.text}&e=${{AUCTION_PRICE:B64}}&keep=${{CLICK}}"
    got = expand(text, {"AUCTION_PRICE": "1.25", "AUCTION_PRICE:B64": "MS4yNQ"})
    assert got == "https://x/win?p=1.25&l=&e=MS4yNQ&keep=${CLICK}"


def test_values_are_not_expanded_again() -> None:
    assert expand("${AUCTION_ID}", {"AUCTION_ID": "${AUCTION_PRICE}", "AUCTION_PRICE": "9"}) == "${AUCTION_PRICE}"


def test_unknown_macros_are_named() -> None:
    assert unknown("".join(macro.text for macro in Macro)) == []
    assert unknown("a ${AUCTION_PRIZE} ${x} ${AUCTION_PRICE:Z}") == ["AUCTION_PRIZE"]


def test_an_address_has_macros_that_somebody_replaces_or_is_refused() -> None:
    known = f"https://x/?a={CACHE_BUSTER}&b={Macro.ID.text}&c={Macro.PRICE.encoded('B64')}&d=%7Be%7D"
    assert filled(known, (CACHE_BUSTER,), player=False) == "https://x/?a=0&b=0&c=0&d=%7Be%7D"
    assert filled("https://x/?a=[CACHEBUSTING]", (), player=True) == "https://x/?a=0"
    for foreign in (
        "${CLICK_URL}", "${AUCTION_PRIZE}", "${", "{rand}", "{{x}}", "%%CACHEBUSTER%%", "[timestamp]", "[A_B]", "[",
        CACHE_BUSTER,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="a macro that nobody replaces"):
            filled(f"https://x/?a={foreign}", (), player=True)
    with pytest.raises(ValueError, match="CACHEBUSTING"):
        filled("https://x/?a=[CACHEBUSTING]", (), player=False)


def _image(event: str, url: str) -> Tracker:
    return Tracker(event=TrackerEvent(event), url=url)


def _vast(version: str, **changes: Any) -> str:
    fields: dict[str, Any] = {
        "version": version,
        "ad_id": "42",
        "serving_id": "01m82vh564sx4krv8yzm1b3tse",
        "title": ADVERSE,
        "media_url": "https://cdn.example/a.mp4?x=1&y=]]>",
        "mime": "video/mp4",
        "duration_seconds": 3_675,
        "width": 640,
        "height": 360,
        "bitrate_kbps": 800,
        "click_url": "https://a.example/click?t=1&p=${AUCTION_PRICE}",
        "trackers": [_image("impression", "https://a.example/imp?a=1&b=2"), _image("impression", "https://b.example/")],
        "skip_after_seconds": 5,
    }
    return vast.inline(**{**fields, **changes})


@pytest.mark.parametrize("version", vast.PROTOCOLS.values())
@pytest.mark.parametrize("audio", [False, True])
def test_vast_is_valid_and_says_what_it_was_given(version: str, audio: bool) -> None:
    changes = {"audio": True, "mime": "audio/mpeg", "width": 0, "height": 0} if audio else {}
    text = _vast(version, **changes)
    result = vastlint.validate(text)
    assert result.valid, [issue.message for issue in result.issues]
    assert result.version == version
    root = etree.fromstring(text.encode())

    def texts(name: str) -> list[str]:
        return [node.text for node in root.iter(f"{{*}}{name}")]

    assert texts("AdServingId") == (["01m82vh564sx4krv8yzm1b3tse"] if version in ("4.1", "4.2") else [])
    assert texts("AdTitle") == ['A & B ]]> <x attr="1">  ü 漢 😀']
    assert texts("MediaFile") == ["https://cdn.example/a.mp4?x=1&y=]]>"]
    assert texts("Impression") == ["https://a.example/imp?a=1&b=2", "https://b.example/"]
    assert texts("ClickThrough") == ["https://a.example/click?t=1&p=${AUCTION_PRICE}"]
    assert texts("Duration") == ["01:01:15"]


@pytest.mark.parametrize("version", vast.PROTOCOLS.values())
def test_vast_has_its_elements_in_the_order_of_its_schema(version: str) -> None:
    root = etree.fromstring(_vast(version, trackers=[_image("impression", "https://a.example/imp")]).encode())

    def children(name: str) -> list[str]:
        node = next(root.iter(f"{{*}}{name}"))
        return [etree.QName(child).localname for child in node]

    serving = ["AdServingId"] if version in ("4.1", "4.2") else []
    modern = version.startswith("4")
    assert children("InLine") == (
        ["AdSystem", "Impression", *serving, "AdTitle", "Creatives"]
        if modern
        else ["AdSystem", "AdTitle", "Impression", "Creatives"]
    )
    assert children("Linear") == [
        "Duration",
        *(["MediaFiles", "VideoClicks"] if modern else ["VideoClicks", "MediaFiles"]),
    ]
    identified = {
        "4.0": ["UniversalAdId", "Linear"],
        "4.1": ["UniversalAdId", "Linear"],
        "4.2": ["Linear", "UniversalAdId"],
    }
    assert children("Creative") == identified.get(version, ["Linear"])


#: One of each that a document can have.
EACH = [
    *[_image(event, f"https://t.example/{event}?a=1&b=]]>") for event in TrackerEvent],
    Tracker(
        event=TrackerEvent.IMPRESSION,
        method=TrackerMethod.OMID,
        url="https://v.example/omid.js",
        vendor="v.example-omid",
        parameters='{"a":"]]><b>"}',
    ),
]
MODERN = [version for version in vast.PROTOCOLS.values() if version.startswith("4")]
PLAYED = {"start", "firstQuartile", "midpoint", "thirdQuartile", "complete"}


def _wrapper(version: str) -> str:
    return vast.wrapper(
        version=version, ad_id="42", tag_url="https://v.example/vast?x=1&y=[CACHEBUSTING]", trackers=EACH
    )


@pytest.mark.parametrize("version", vast.PROTOCOLS.values())
@pytest.mark.parametrize("write", [lambda version: _vast(version, trackers=EACH), _wrapper], ids=["inline", "wrapper"])
def test_players_tell_third_parties(version: str, write: Callable[[str], str]) -> None:
    text = write(version)
    result = vastlint.validate(text)
    assert result.valid, [issue.message for issue in result.issues]
    root = etree.fromstring(text.encode())

    def told(path: str) -> list[str]:
        return [node.text.removeprefix("https://t.example/").partition("?")[0] for node in root.iterfind(path)]

    ad = f"{{*}}Ad/{{*}}{'Wrapper' if write is _wrapper else 'InLine'}"
    assert told(f"{ad}/{{*}}Impression") == ["impression"]
    assert told(f"{ad}/{{*}}ViewableImpression/{{*}}Viewable") == (["viewable"] if version in MODERN else [])
    linear = f"{ad}/{{*}}Creatives/{{*}}Creative/{{*}}Linear"
    assert told(f"{linear}/{{*}}VideoClicks/{{*}}ClickTracking") == ["click"]
    assert {node.get("event") for node in root.iterfind(f"{linear}/{{*}}TrackingEvents/{{*}}Tracking")} == PLAYED
    own = version in ("4.1", "4.2")  # before, players look for it among extensions
    place = f"{ad}/{{*}}AdVerifications" if own else f"{ad}/{{*}}Extensions/{{*}}Extension/{{*}}AdVerifications"
    (verification,) = root.iterfind(f"{place}/{{*}}Verification")
    assert verification.get("vendor") == "v.example-omid"
    script, parameters = verification
    assert (script.get("apiFramework"), script.text) == ("omid", "https://v.example/omid.js")
    assert parameters.text == '{"a":"]]><b>"}'
    assert [one.get("type") for one in root.iter("{*}Extension")] == ([] if own else ["AdVerifications"])


@pytest.mark.parametrize("version", vast.PROTOCOLS.values())
def test_what_is_measured_has_the_order_of_its_schema_too(version: str) -> None:
    def children(text: str, name: str) -> list[str]:
        return [etree.QName(one).localname for one in next(etree.fromstring(text.encode()).iter(f"{{*}}{name}"))]

    inline, wrapper = _vast(version, trackers=EACH), _wrapper(version)
    own, serving = (["AdVerifications"], ["AdServingId"]) if version in ("4.1", "4.2") else ([], [])
    if version not in MODERN:
        assert children(inline, "InLine") == ["AdSystem", "AdTitle", "Impression", "Creatives", "Extensions"]
        assert children(wrapper, "Wrapper") == ["AdSystem", "VASTAdTagURI", "Impression", "Creatives", "Extensions"]
        assert children(inline, "Linear") == ["Duration", "TrackingEvents", "VideoClicks", "MediaFiles"]
        assert children(inline, "VideoClicks") == ["ClickThrough", "ClickTracking"]
        return
    begin = ["AdSystem", *([] if own else ["Extensions"]), "Impression", "ViewableImpression"]
    assert children(inline, "InLine") == [*begin, *serving, "AdTitle", *own, "Creatives"]
    assert children(wrapper, "Wrapper") == [*begin, *own, "Creatives", "VASTAdTagURI"]
    assert children(inline, "Linear") == ["TrackingEvents", "Duration", "MediaFiles", "VideoClicks"]
    assert children(inline, "VideoClicks") == ["ClickTracking", "ClickThrough"]
    assert children(wrapper, "Linear") == ["TrackingEvents", "VideoClicks"]


@pytest.mark.parametrize(("code", "version"), vast.WRAPPERS.items())
def test_a_wrapper_says_where_the_ad_is(code: int, version: str) -> None:
    text = _wrapper(version)
    assert vast.read(text) == (code, 0, frozenset())
    (tag,) = etree.fromstring(text.encode()).iter("{*}VASTAdTagURI")
    assert tag.text == "https://v.example/vast?x=1&y=[CACHEBUSTING]"
    assert vast.protocol((2, 3, 7, code), (), vast.TAG_MIME) == code
    assert vast.protocol((2, 3, 7, 11, 13), (), vast.TAG_MIME) == 0
    assert vast.protocol((), (code,), vast.TAG_MIME) == code


@pytest.mark.parametrize(
    ("mime", "want"),
    [("video/mp4", "progressive"), ("audio/mpeg", "progressive"), ("application/x-mpegURL", "streaming")],
)
def test_vast_says_how_its_media_are_delivered(mime: str, want: str) -> None:
    (media,) = etree.fromstring(_vast("3.0", mime=mime).encode()).iter("MediaFile")
    assert media.get("delivery") == want


@pytest.mark.parametrize("version", vast.PROTOCOLS.values())
def test_players_are_told_that_a_script_is_to_be_run(version: str) -> None:
    text = _vast(version, mime="application/javascript", media_url="https://cdn.example/vpaid.js")
    assert vastlint.validate(text).valid
    frameworks = [next(etree.fromstring(one.encode()).iter("{*}MediaFile")) for one in (text, _vast(version))]
    assert [media.get("apiFramework") for media in frameworks] == ["VPAID", None]


def test_vast_of_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match=r"VAST 1\.0"):
        _vast("1.0")


@pytest.mark.parametrize(
    ("accepted", "spoken", "want"),
    [
        ((), (), 3),
        ((2, 3, 7), (), 7),
        ((2, 5), (), 2),
        ((2, 3), (7, 3), 3),
        ((5, 6), (), 0),
        ((), (2,), 2),
        ((), (2, 3, 7), 3),
        ((), (2, 7), 7),
        ((2,), (3,), 0),
    ],
)
def test_the_protocol_is_one_both_speak(accepted: tuple[int, ...], spoken: tuple[int, ...], want: int) -> None:
    assert vast.protocol(accepted, spoken) == want


ASSETS = native.NativeAssets(
    title="A fairly long title of an ad",
    image=native.NativeImage(url="https://c.example/i.jpg", w=1200, h=627),
    icon=native.NativeImage(url="https://c.example/l.png", w=80, h=80),
    data={1: "Ford", 2: "A description", 12: "Buy"},
)


TRACKERS = [_image("impression", "https://i/")]


def _respond(request: dict[str, Any], trackers: Sequence[Tracker] = TRACKERS) -> Any:
    text = native.respond(json.dumps(request), ASSETS, click_url="https://c/", trackers=trackers)
    return json.loads(text)


def test_native_answers_each_asset_in_order() -> None:
    got = _respond(
        {
            "ver": "1.2",
            "assets": [
                {"id": 7, "required": 1, "title": {"len": 10}},
                {"id": 1, "required": 1, "img": {"type": 3, "wmin": 600, "hmin": 300}},
                {"id": 2, "img": {"type": 1}},
                {"id": 3, "data": {"type": 12}},
                {"id": 4, "data": {"type": 3}},
            ],
            "eventtrackers": [{"event": 1, "methods": [1, 2]}],
        }
    )
    assert got["assets"] == [
        {"id": 7, "title": {"text": "A fairly…"}},
        {"id": 1, "img": {"url": "https://c.example/i.jpg", "w": 1200, "h": 627}},
        {"id": 2, "img": {"url": "https://c.example/l.png", "w": 80, "h": 80}},
        {"id": 3, "data": {"value": "Buy"}},
    ]
    assert got["link"]["url"] == "https://c/"
    assert got["eventtrackers"] == [{"event": 1, "method": 1, "url": "https://i/"}]
    assert "imptrackers" not in got


def test_native_tells_third_parties_of_the_events_that_a_slot_offers_and_by_its_methods() -> None:
    script = Tracker(event=TrackerEvent.IMPRESSION, method=TrackerMethod.SCRIPT, url="https://s/?a=1&b")
    theirs = [*TRACKERS, _image("impression", "https://t/"), _image("viewable", "https://v/"), script]
    theirs.append(_image("click", "https://k/"))
    assets = [{"id": 1, "title": {"len": 90}}]
    impressions = [{"event": 1, "method": 1, "url": "https://i/"}, {"event": 1, "method": 1, "url": "https://t/"}]
    viewable, scripts = {"event": 2, "method": 1, "url": "https://v/"}, {"event": 1, "method": 2, "url": script.url}
    for offered, events, others in (
        ([{"event": 1, "methods": [1]}], impressions, {}),
        ([{"event": 1, "methods": [2, 1]}, {"event": 2, "methods": [1]}], [*impressions, viewable, scripts], {}),
        ([{"event": 2, "methods": [1, 2]}], [viewable], {"imptrackers": ["https://i/", "https://t/"]}),
        (
            [{"event": 3, "methods": [1]}, {"event": 0, "methods": [0, 1]}],
            None,
            {"imptrackers": ["https://i/", "https://t/"]},
        ),
        (
            [],
            None,
            {
                "imptrackers": ["https://i/", "https://t/"],
                "jstracker": '<script async src="https://s/?a=1&amp;b"></script>',
            },
        ),
    ):
        got = _respond({"ver": "1.2", "assets": assets, "eventtrackers": offered}, theirs)
        assert got.get("eventtrackers") == events
        assert {name: got[name] for name in ("imptrackers", "jstracker") if name in got} == others
        assert got["link"] == {"url": "https://c/", "clicktrackers": ["https://k/"]}
    assert _respond({"assets": assets})["link"] == {"url": "https://c/"}


def test_native_1_0_keeps_its_root_and_its_trackers() -> None:
    for version in ({"ver": "1.0"}, {"ver": 1}, {}):
        got = _respond({"native": {**version, "assets": [{"id": 1, "title": {"len": 90}}]}})
        assert list(got) == ["native"]
        assert got["native"]["imptrackers"] == ["https://i/"]
    assert "native" not in _respond({"native": {"ver": "1.1", "assets": [{"id": 1, "title": {"len": 90}}]}})


def test_a_native_logo_is_the_icon_and_an_exchanges_own_type_of_image_is_not_guessed() -> None:
    types = [{"id": number, "img": {"type": number, "wmin": 48, "hmin": 48}} for number in (0, 1, 2, 3, 501)]
    got = {asset["id"]: asset["img"]["url"][-5:] for asset in _respond({"assets": types})["assets"]}
    assert got == {0: "i.jpg", 1: "l.png", 2: "l.png", 3: "i.jpg"}


@pytest.mark.parametrize(
    ("asset", "fits"),
    [
        ({"data": {"type": 3}}, False),
        ({"video": {"minduration": 5}}, False),
        ({"img": {"type": 3, "wmin": 1_300}}, False),
        ({"img": {"type": 3, "wmin": 1_200}}, True),
        ({"img": {"type": 3, "w": 1_300, "wmin": 1_200}}, True),
        ({"img": {"type": 3, "w": 1_100}}, False),
        ({"img": {"type": 3, "w": 1_200}}, True),
        ({"img": {"type": 3, "mimes": ["image/png", "image/gif"]}}, False),
        ({"img": {"type": 3, "mimes": ["image/png", "image/jpg"]}}, True),
        ({"img": {"type": 1, "mimes": ["image/PNG"]}}, True),
        ({"img": {"type": 3, "mimes": []}}, True),
        ({}, False),
    ],
)
def test_native_without_a_required_asset_is_refused(asset: dict[str, Any], fits: bool) -> None:
    request = {"assets": [{"id": 1, "required": 1, **asset}]}
    if fits:
        assert _respond(request)["assets"]
        return
    with pytest.raises(InputError) as caught:
        _respond(request)
    assert caught.value.reason == "native_mismatch"


@pytest.mark.parametrize(
    ("video", "fits"),
    [
        ({"mimes": ["video/mp4"], "minduration": 5, "maxduration": 15, "protocols": [2, 3]}, True),
        ({"mimes": ["video/webm"]}, False),
        ({"mimes": ["video/webm", "Video/MP4"]}, True),
        ({"maxduration": 14}, False),
        ({"minduration": 16}, False),
        ({"protocols": [2, 6, 7]}, False),
        ({}, True),
    ],
)
def test_a_native_slot_gets_a_film_that_it_plays(video: dict[str, Any], fits: bool) -> None:
    assets = msgspec.structs.replace(ASSETS, video_vast=_vast("3.0", duration_seconds=15))
    wanted = msgspec.convert({"id": 1, "required": 1, "video": video}, native.Asset)
    assert native.meets(assets, [wanted]) == fits


def test_a_film_says_of_itself_what_its_document_says() -> None:
    for protocol, version in vast.PROTOCOLS.items():
        assert vast.read(_vast(version)) == (protocol, 3_675, {"video/mp4"})
    wrapper = '<VAST version="4.2"><Ad><Wrapper><VASTAdTagURI>https://v.example/</VASTAdTagURI></Wrapper></Ad></VAST>'
    assert vast.read(wrapper) == (14, 0, frozenset())
    assert vast.read("no document") == (0, 0, frozenset())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", "3", '{"assets":[]}', '{"native":{}}', '{"native":3}', "[" * 99_999]
)
def test_unreadable_native_requests_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        native.respond(text, ASSETS, click_url="https://c/", trackers=TRACKERS)
    assert caught.value.reason == "native_request"
    assert native.request_text(msgspec.Raw(msgspec.json.encode(text))) == ""


@pytest.mark.parametrize(
    "assets",
    [
        [{"title": {"len": 10}}],
        [{"id": None, "title": {"len": 10}}, {"id": 1, "img": {}}],
        [{"id": 1, "title": {"len": 10}}, {"id": 1, "img": {}}],
    ],
)
def test_native_assets_that_an_answer_could_not_name_are_refused(assets: list[dict[str, Any]]) -> None:
    assert native.request_text(msgspec.Raw(msgspec.json.encode({"assets": assets}))) == ""


def test_native_requests_are_read_leniently() -> None:
    got = _respond(
        {
            "ver": None,
            "assets": [
                {"id": "7", "required": True, "title": {"len": "10"}, "img": None},
                {"id": 1, "required": False, "img": {"type": None, "wmin": 600.0, "hmin": None}},
                None,
            ],
            "eventtrackers": [{"event": "1", "methods": [None, 1]}],
        }
    )
    assert [asset["id"] for asset in got["assets"]] == [7, 1]
    assert got["assets"][0]["title"]["text"] == "A fairly…"
    assert got["eventtrackers"]
    with pytest.raises(InputError):
        _respond({"assets": [{"id": 1, "required": True, "data": {"type": 3, "len": None}}]})


def test_native_assets_are_read_from_markup() -> None:
    markup = '{"title":"T","image":{"url":"https://c/i.jpg"},"data":{"1":"Ford"}}'
    assert native.read_assets(markup).data == {1: "Ford"}
    for broken in ("", "<div>", '{"titel":"T"}', "[" * 99_999):
        with pytest.raises(InputError):
            native.read_assets(broken)
