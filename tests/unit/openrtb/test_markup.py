"""Macros, VAST and native responses."""

import json
from typing import Any

import msgspec
import pytest
import vastlint
from lxml import etree

from dsp.kernel.errors import InputError
from dsp.openrtb import native, vast
from dsp.openrtb.macros import Macro, expand, unknown

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
        "impression_urls": ["https://a.example/imp?a=1&b=2", "https://b.example/"],
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
    root = etree.fromstring(_vast(version, impression_urls=["https://a.example/imp"]).encode())

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


def _respond(request: dict[str, Any]) -> Any:
    text = native.respond(json.dumps(request), ASSETS, click_url="https://c/", impression_urls=["https://i/"])
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
        native.respond(text, ASSETS, click_url="https://c/", impression_urls=["https://i/"])
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
