"""Markup that swallows what is put behind it, as a browser's parser has shown each case to be."""

import pytest

from dsp.catalog.html import unclosed


@pytest.mark.parametrize(
    ("html", "begun"),
    [
        ("<b>x</b><!-- tail", "<!--"),
        ("<b>x</b><div", "<div"),
        ('<div title="x>y', "<div"),
        ("<div title = 'x>", "<div"),
        ("x</", "</"),
        ("<script>a = 1;", "<script"),
        ('<SCRIPT src="https://x.example/a.js" />', "<SCRIPT"),
        ('<iframe src="https://x.example/"/>', "<iframe"),
        ("<script>'</scriptx>'", "<script"),
        ("<noscript><img src=x>", "<noscript"),
        ("<title/>", "<title"),
        ("<svg/><title/>", "<title"),
        ("<svg></svg><style/>", "<style"),
        ("<select><option>", "<select"),
    ],
)
def test_what_swallows_what_follows_is_named(html: str, begun: str) -> None:
    assert unclosed(html) == begun


@pytest.mark.parametrize(
    "html",
    [
        "",
        "plain, 1 < 2 and <3",
        "<div><p>never closed",
        "<!--><b>x</b><!-- > --!><!---->",
        '<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01//EN"><html><body>x',
        '<div title="a>b" data-x=it\'s data-y = "<!--">x</div>',
        "<script>if (a < b) write('<!--<div title=\"');</script >",
        "<style>a::after{content:'<x'}</STYLE\n>",
        "<textarea><!-- </textarea>",
        "<svg><title/><style/><path d='M0'/></svg><svg viewBox='0'><title>x</title>",
        "<select><option>x</select>",
        "</>x</p>",
    ],
)
def test_what_lets_it_be_is_nothing(html: str) -> None:
    assert unclosed(html) == ""
