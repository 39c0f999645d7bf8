"""Lists of names: the same list gives the same set, whatever came between, and what is kept stays bounded."""

from dsp.openrtb import names
from dsp.openrtb.request import Text


def test_lists_are_folded_the_same_each_time() -> None:
    blocked: tuple[Text, ...] = ("iab25", 7, "IAB7-39")
    assert names.codes(blocked) == names.codes((*blocked,)) == {"IAB25", "7", "IAB7-39"}
    assert names.domains(("WWW.Ford.com", "audi.com")) == {"ford.com", "audi.com"}
    assert names.codes(()) == names.lower(()) == frozenset()
    assert names.lower(("COM.Foo", 5)) == {"com.foo", "5"}


def test_many_lists_and_long_ones_stay_right() -> None:
    for number in range(5_000):
        assert names.codes((f"iab{number}",)) == {f"IAB{number}"}
    long: tuple[Text, ...] = tuple(f"site{number}.example" for number in range(5_000))
    assert names.domains(long) == names.domains(long) == set(map(str, long))


def test_languages() -> None:
    assert [names.language(code) for code in ("en-GB", "PT_br", "de", "")] == ["en", "pt", "de", ""]
    # Android still says these as they were before 1989.
    assert [names.language(code) for code in ("iw-IL", "in_ID", "ji")] == ["he", "id", "yi"]


def test_operating_systems_are_named_without_their_versions() -> None:
    named = {
        "windows": ("Windows", "Windows 7", "windows 8.1", "Windows NT 6.1", "Windows XP", "Win32"),
        "macos": ("Mac OS X", "Mac OS X 10.15.7", "OS X 10_9", "macOS 14"),
        "ios": ("iOS", "iOS 17.2", "iPhone OS", "iPadOS 16"),
        "android": ("Android", "android 4.4.2", "Android OS"),
        "windows phone": ("Windows Phone", "Windows Phone 8.1"),
        "": ("", " ", "Unknown"),
    }
    for name, spellings in named.items():
        assert {names.os_name(one) for one in spellings} == {name}


def test_apps_by_their_address_in_a_store() -> None:
    candy = "https://play.google.com/store/apps/details?hl=en&id=com.Games.candy&referrer=a#b"
    assert names.advertised_app(candy) == "com.Games.candy"
    assert names.advertised_app("https://apps.apple.com/us/app/candy/id1234567890?mt=8") == "1234567890"
    assert names.advertised_app("https://itunes.apple.com/app/id7/") == "7"
    for elsewhere in ("https://shop.example/?id=5", "https://play.google.com/store/apps", "https://apps.apple.com/us/"):
        assert names.advertised_app(elsewhere) == ""
    assert names.store_id("https://store.example/id42") == "42"
