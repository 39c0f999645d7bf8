"""Identifiers sort by time; tokens bind payload and kind, and survive a key rotation."""

import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsp.events.schema import NoticeKind, decode_facts
from dsp.kernel.errors import TokenError
from dsp.kernel.ids import TokenSigner, new_id

KEY, OLD_KEY = b"k" * 32, b"o" * 32
KINDS = ("win", "bill", "loss", "click")
SIGNER = TokenSigner([KEY], KINDS)


def sign(kind: str, payload: bytes) -> str:
    return SIGNER.tokens([kind], payload)[0]


def test_ids_sort_by_time() -> None:
    ids = [new_id(ms) for ms in range(1_700_000_000_000, 1_700_000_000_300)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 300
    assert {len(each) for each in ids} == {26}


def test_an_id_begins_with_its_time() -> None:
    assert new_id((1 << 48) - 1)[:10] == "7" + "z" * 9
    assert new_id(33)[:10] == "0" * 8 + "11"


def test_a_forked_child_does_not_repeat_its_parents_ids() -> None:
    new_id(1)  # leaves ids drawn beforehand
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id(1).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        assert pipe.read() not in {new_id(1) for _ in range(1_000)}


@given(st.binary(max_size=300))
def test_tokens_of_several_kinds_are_those_made_singly(payload: bytes) -> None:
    singly = [sign(kind, payload) for kind in ("win", "loss", "click")]
    assert SIGNER.tokens(["win", "loss", "click"], payload) == singly
    assert len({token.partition(".")[2] for token in singly}) == 3


@given(st.binary(max_size=300))
def test_round_trip(payload: bytes) -> None:
    assert SIGNER.verify("win", sign("win", payload)) == payload


def test_what_a_token_says_cannot_be_read_in_a_page() -> None:
    texts = [sign("click", b"user 7f3a worth 5000" + bytes([number])).partition(".")[0] for number in (1, 2)]
    first, second = (urlsafe_b64decode(text + "=" * (-len(text) % 4)) for text in texts)
    assert b"user" not in first
    assert b"5000" not in first
    # Facts that differ in a byte have nothing in common once sealed: nobody can tell what two bids share.
    assert sum(one == other for one, other in zip(first, second, strict=True)) < len(first) // 4
    assert first != TokenSigner([OLD_KEY], KINDS).tokens(["click"], b"user 7f3a worth 5000\x01")[0].encode()


def test_a_click_token_is_no_billing_token() -> None:
    with pytest.raises(TokenError) as refused:
        SIGNER.verify("bill", sign("click", b"facts"))
    assert refused.value.reason == "token_forged"


def test_rotation_keeps_notices_in_flight() -> None:
    token = TokenSigner([OLD_KEY], KINDS).tokens(["win"], b"facts")[0]
    assert TokenSigner([KEY, OLD_KEY], KINDS).verify("win", token) == b"facts"
    with pytest.raises(TokenError):
        SIGNER.verify("win", token)


#: Made by each version that wrote another form: facts of a bid as they stood then, and the tokens of two kinds.
UNSEALED = "3AAUo2FkeKNhLTGhMaMwazEBAgMEzgAmJaDNCcSjVVNEyz_wAAAAAAAAzwAAAZqqrCYAzwAAAZqqsLngoTfNT76hdc0LuKRJQUIyww"
SEALED = (
    "QB760Rj_Ne3OKCSQfoVDeH-mDmUhUHwgjHXRGzHHhTOoAP86KYKRk8miX9IXpxPq4k6ezugTAqtkUchR8iJumOhvThKCMH5IszvGlHNi64oc5p5E"
    "9l7Zb5v2TKRf5A"
)
FORMS = [
    (UNSEALED, {"bill": "MUac48mt166U65tvQm0vz0bZ", "conv": "1Y5aVzCY7AYGJeX7YKjpTxlS"}),
    (SEALED, {"bill": "DCVARHvWnGk79recNGcV8g9S", "conv": "ooveaYqjm-LKq5Oi3K-Sw-9Z"}),
]


@pytest.mark.parametrize(("text", "tags"), FORMS, ids=["unsealed", "sealed"])
def test_a_notice_of_a_bid_that_an_earlier_version_made_is_understood(text: str, tags: dict[str, str]) -> None:
    """A bidder that is replaced leaves bids behind: their notices come for minutes, conversions for weeks."""
    rotated = TokenSigner([OLD_KEY, KEY], NoticeKind)
    for kind, tag in tags.items():
        facts = decode_facts(rotated.verify(kind, f"{text}.{tag}"))
        assert (facts.bid_id, facts.line_item_id, facts.cost_micros_max, facts.personal) == ("0k1", 3, 2_500, True)
    for kind, token in (("win", f"{text}.{tags['bill']}"), ("bill", f"X{text[1:]}.{tags['bill']}")):
        with pytest.raises(TokenError) as refused:
            rotated.verify(kind, token)
        assert refused.value.reason in ("token_forged", "token_malformed")
    with pytest.raises(TokenError):
        TokenSigner([OLD_KEY], NoticeKind).verify("bill", f"{text}.{tags['bill']}")


@given(st.text(max_size=200))
def test_rubbish_is_a_token_error(text: str) -> None:
    with pytest.raises(TokenError):
        SIGNER.verify("win", text)


def test_every_flipped_character_is_refused() -> None:
    token = sign("win", b"some facts of a bid")
    for position, character in enumerate(token):
        other = "A" if character != "A" else "B"
        with pytest.raises(TokenError):
            SIGNER.verify("win", token[:position] + other + token[position + 1 :])


@given(st.binary(max_size=300))
def test_ids_and_tokens_complete_no_macro_and_no_address(payload: bytes) -> None:
    # No escaping changes them, they are long and never in capitals only, as macros and schemes are: dsp.openrtb.check
    # judges texts without them.
    for text in (new_id(1_700_000_000_000), *SIGNER.tokens(KINDS, payload)):
        assert re.fullmatch(r"[A-Za-z0-9_.-]{24,}", text)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda token: token[:10] + "\n" + token[10:], "token_malformed"),  # decoders read past it
        (lambda token: token.replace(".", "=."), "token_malformed"),
        (lambda token: token.replace(".", ""), "token_malformed"),
        (lambda token: token + "é", "token_malformed"),
        (lambda token: "A" + token, "token_malformed"),
        (lambda token: token + "A", "token_forged"),
        (lambda token: token[:-1], "token_forged"),
        (lambda token: token + 2_048 * "A", "token_oversized"),
    ],
)
def test_a_token_is_written_in_one_way_only(spoil: Callable[[str], str], reason: str) -> None:
    with pytest.raises(TokenError) as refused:
        SIGNER.verify("win", spoil(sign("win", b"facts!")))
    assert refused.value.reason == reason


@pytest.mark.parametrize("keys", [[], [b"k" * 15], [KEY, b"k" * 15]])
def test_without_a_key_or_with_a_short_one_there_is_no_signer(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        TokenSigner(keys, KINDS)
