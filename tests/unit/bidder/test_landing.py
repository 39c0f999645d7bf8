"""A click leads to the landing page and carries the conversion token; to nothing else, ever."""

import pytest

from bidder.landing import redirect_url


@pytest.mark.parametrize(
    ("landing", "expected"),
    [
        ("https://shop.example/", "https://shop.example/?c=T.k"),
        ("https://shop.example/a?b=1", "https://shop.example/a?b=1&c=T.k"),
        ("https://shop.example/a?b=1#top", "https://shop.example/a?b=1&c=T.k#top"),
        ("http://shop.example", "http://shop.example?c=T.k"),
        ("https://shop.example/a?c=OLD&bc=1&c&d", "https://shop.example/a?bc=1&d&c=T.k"),
        ("https://shop.example/größe?a=é%20b", "https://shop.example/gr%C3%B6%C3%9Fe?a=%C3%A9%20b&c=T.k"),
    ],
)
def test_adds_the_token(landing: str, expected: str) -> None:
    assert redirect_url(landing, "c", "T.k") == expected


def test_leaves_the_url_alone_without_a_parameter() -> None:
    assert redirect_url("https://shop.example/a?b=1", "", "T") == "https://shop.example/a?b=1"


@pytest.mark.parametrize(
    "landing",
    [
        "",
        "javascript:alert(1)",
        "data:text/html,x",
        "//elsewhere.example/",
        "/relative",
        "https://",
        "https://shop.example/\r\nSet-Cookie: a=b",
        "https://shop.example/ with space",
        "https://[broken/",
        "https://shop.example/" + "a" * 5_000,
        "https://shop.example/\u2028x",
    ],
)
def test_refuses_what_is_no_web_page(landing: str) -> None:
    assert redirect_url(landing, "c", "T") is None
