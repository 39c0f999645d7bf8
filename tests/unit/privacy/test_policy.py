"""What combinations of signals allow, and the strings behind them against another implementation."""

import json
from pathlib import Path
from typing import Any

import iab_tcf
import pytest

from dsp.openrtb.codec import decode_request
from dsp.openrtb.opportunity import Permissions
from dsp.privacy import consent, gpp
from dsp.privacy.policy import permissions

from .strings import tcf

RECORDED = Path(__file__).parents[3].parent / "shared" / "data" / "openrtb" / "tcf_consent_strings.txt"
VENDOR = 755

FREE = Permissions()
NO_PROFILE = Permissions(may_personalise=False)
CONTEXTUAL = Permissions(may_store=False, may_personalise=False)
FORBIDDEN = Permissions(may_bid=False, may_store=False, may_personalise=False)

ALL = range(1, 11)
FULL = tcf(purposes=ALL, vendors=[VENDOR])
#: The GPP specification's own examples: EU TCF with US privacy "1YNN", and Canada's TCF with the same.
GPP_EU_US = "DBACNY~CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA~1YNN"
GPP_CANADA = "DBABjw~CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA~1YNN"


def _decide(country_default: str = "", **fields: Any) -> Permissions:
    body = json.dumps({"id": "a", "imp": [{"id": "1"}], **fields}).encode()
    return permissions(decode_request(body), VENDOR, country_default)


def _gdpr(text: str | None) -> Permissions:
    return _decide(regs={"gdpr": 1}, user={"consent": text})


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, FREE),
        ({"regs": {"gdpr": 0}, "user": {"consent": "rubbish"}}, FREE),
        ({"regs": {"coppa": 1}}, CONTEXTUAL),
        ({"regs": {"coppa": "true"}}, CONTEXTUAL),
        ({"regs": {"gdpr": "True"}}, CONTEXTUAL),
        ({"device": {"lmt": "true", "dnt": "false"}}, CONTEXTUAL),
        ({"device": {"lmt": "false"}}, FREE),
        ({"device": {"lmt": 1}}, CONTEXTUAL),
        ({"device": {"dnt": 1}}, CONTEXTUAL),
        ({"device": {"ext": {"atts": 1}}}, CONTEXTUAL),
        ({"device": {"ext": {"atts": 2}}}, CONTEXTUAL),
        ({"device": {"ext": {"atts": 3}}}, FREE),
        ({"regs": {"gdpr": 1}}, CONTEXTUAL),
        ({"regs": {"ext": {"gdpr": 1}}, "user": {"ext": {"consent": FULL}}}, FREE),
        ({"regs": {"ext": {"gdpr": "1"}}}, CONTEXTUAL),
        ({"regs": {"gdpr": 1, "coppa": 1}, "user": {"consent": FULL}}, CONTEXTUAL),
        # Who does not say whether GDPR applies is asked where the device is.
        ({"device": {"geo": {"country": "DE"}}}, CONTEXTUAL),
        ({"device": {"geo": {"country": "DEU"}}, "user": {"consent": FULL}}, FREE),
        ({"device": {"geo": {"country": "DEU"}}, "regs": {"gdpr": 0}}, FREE),
        ({"device": {"geo": {"country": "USA"}}}, FREE),
        ({"device": {"geo": {"country": "REU"}}}, CONTEXTUAL),  # a part of France, and so of the Union
        ({"device": {"geo": {}}, "user": {"geo": {"country": "DEU"}}}, CONTEXTUAL),
        ({"device": {"geo": {"country": "USA"}}, "user": {"geo": {"country": "DEU"}}}, CONTEXTUAL),
        ({"user": {"geo": {"country": "USA"}}}, FREE),
        ({"device": {"geo": {"country": "DEU"}}, "regs": {"coppa": 0, "us_privacy": "1---"}}, CONTEXTUAL),
        # US privacy
        ({"regs": {"us_privacy": "1YNN"}}, FREE),
        ({"regs": {"us_privacy": "1YYN"}}, CONTEXTUAL),
        ({"regs": {"us_privacy": "1---"}}, FREE),
        ({"regs": {"ext": {"us_privacy": "1NYN"}}}, CONTEXTUAL),
        ({"regs": {"us_privacy": "rubbish"}}, CONTEXTUAL),
        ({"regs": {"us_privacy": "1YYN", "gpp_sid": [-1]}}, CONTEXTUAL),
        # GPP
        ({"regs": {"gpp": GPP_EU_US, "gpp_sid": [6]}}, FREE),
        ({"regs": {"gpp": GPP_EU_US, "gpp_sid": [2]}}, CONTEXTUAL),
        ({"regs": {"gpp": GPP_EU_US.replace("1YNN", "1YYN"), "gpp_sid": [6]}}, CONTEXTUAL),
        ({"regs": {"gpp": GPP_EU_US.replace("1YNN", "1YYN")}}, CONTEXTUAL),
        ({"regs": {"gpp": GPP_CANADA, "gpp_sid": [5]}}, CONTEXTUAL),
        ({"regs": {"gpp": "rubbish", "gpp_sid": [7]}}, CONTEXTUAL),
        ({"regs": {"gpp": "rubbish", "gpp_sid": [-1]}}, FREE),
        ({"regs": {"gpp": "DBABLA~BVQqAAAAAgA.QA", "gpp_sid": [7]}}, FREE),
        ({"regs": {"gpp": f"DBABM~{FULL}", "gpp_sid": [2]}}, FREE),
        ({"regs": {"gdpr": 1, "gpp": "rubbish"}}, CONTEXTUAL),
        ({"regs": {"gdpr": 1, "gpp": GPP_EU_US}, "user": {"consent": FULL}}, FREE),
        ({"regs": {"gpp": "rubbish", "gpp_sid": [0]}}, FREE),
        ({"regs": {"gpp": "rubbish", "gpp_sid": [1]}}, CONTEXTUAL),  # TCF 1, which nobody reads any more
        ({"regs": {"gpp": "DBABBg~BAAAAAAAAAAAAAAA", "gpp_sid": [8]}}, FREE),  # California, nothing said
        # A section that applies and is nowhere
        ({"regs": {"gpp_sid": [7]}}, CONTEXTUAL),
        ({"regs": {"gpp": GPP_EU_US, "gpp_sid": [7]}}, CONTEXTUAL),
        ({"regs": {"gpp": f"DBABM~{FULL}", "gpp_sid": [6]}}, CONTEXTUAL),
        ({"regs": {"us_privacy": "1YNN", "gpp_sid": [6]}}, FREE),
        # The browser's Global Privacy Control
        ({"regs": {"ext": {"gpc": "1"}}}, CONTEXTUAL),
        ({"regs": {"ext": {"gpc": 1}}}, CONTEXTUAL),
        ({"regs": {"ext": {"gpc": "0"}}}, FREE),
    ],
)
def test_signals(fields: dict[str, Any], want: Permissions) -> None:
    assert _decide(**fields) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (FULL, FREE),
        (tcf(purposes=[1, 2, 3, 4, 7], vendors=[VENDOR]), FREE),
        (tcf(purposes=[1, 2, 7], vendors=[VENDOR]), NO_PROFILE),
        (tcf(purposes=[1, 2], vendors=[VENDOR]), CONTEXTUAL),
        (tcf(purposes=[2, 7], vendors=[VENDOR]), CONTEXTUAL),
        (tcf(purposes=ALL, vendors=[VENDOR - 1]), CONTEXTUAL),
        (tcf(purposes=ALL, vendors=[VENDOR], ranges=True), FREE),
        (tcf(purposes=ALL, vendors=[VENDOR - 9, VENDOR, VENDOR + 9], ranges=True), FREE),
        (tcf(purposes=ALL, vendors=[VENDOR + 1], ranges=True), CONTEXTUAL),
        # Legitimate interest may carry purposes 2 and 7, never storage.
        (tcf(purposes=[1], vendors=[VENDOR], interests=[2, 7], interest_vendors=[VENDOR]), NO_PROFILE),
        (tcf(purposes=[], vendors=[], interests=ALL, interest_vendors=[VENDOR]), CONTEXTUAL),
        # The publisher's restrictions
        (tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(2, 0, VENDOR)]), FORBIDDEN),
        (tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(2, 0, VENDOR + 1)]), FREE),
        (tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(7, 0, VENDOR)]), CONTEXTUAL),
        (tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(2, 2, VENDOR)]), CONTEXTUAL),
        (tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(2, 1, VENDOR)]), FREE),
        (
            tcf(
                purposes=[1],
                vendors=[VENDOR],
                interests=[2, 7],
                interest_vendors=[VENDOR],
                restrictions=[(2, 1, VENDOR)],
            ),
            CONTEXTUAL,
        ),
        # Unreadable
        ("B" + FULL[1:], CONTEXTUAL),  # of version 1
        ("", CONTEXTUAL),
        (None, CONTEXTUAL),
        ("rubbish", CONTEXTUAL),
        ("CP!x", CONTEXTUAL),
        (FULL[:40] + "!!!!" + FULL[40:], CONTEXTUAL),  # decoders read past it
        (FULL[:-20], CONTEXTUAL),
        ("A" * 100_000, CONTEXTUAL),
        (FULL + ".YAAAAAAAAAAA", FREE),
    ],
)
def test_consent(text: str | None, want: Permissions) -> None:
    assert _gdpr(text) == want


def test_a_forbidden_bid_stays_forbidden_beside_weaker_signals() -> None:
    text = tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(2, 0, VENDOR)])
    assert _decide(regs={"gdpr": 1, "coppa": 1}, user={"consent": text}) == FORBIDDEN


def test_nobody_consents_to_a_vendor_without_a_number() -> None:
    assert consent.basis(FULL, 0) == consent.NO_BASIS
    assert consent.basis(tcf(purposes=ALL, vendors=[0], ranges=True), 0) == consent.NO_BASIS


def test_a_string_cut_short_never_grants_more() -> None:
    """Every prefix gives nothing: missing bits must not read as consent."""
    core = tcf(purposes=ALL, vendors=[VENDOR], restrictions=[(3, 0, 1)])
    assert consent.basis(core, VENDOR).purposes
    for length in range(len(core) - 1):
        assert consent.basis(core[:length], VENDOR) == consent.NO_BASIS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_recorded_strings_read_as_another_library_reads_them() -> None:
    if not RECORDED.exists():
        pytest.skip("the recorded consent strings are not here")
    compared = 0
    for line in RECORDED.read_text().splitlines():
        version, _, text = line.split("\t")
        if version != "2" or consent.basis(text, 1) == consent.basis(text, 2) == consent.NO_BASIS:
            continue
        other = iab_tcf.decode(text)
        for vendor in range(1, 800):
            want = {
                purpose
                for purpose in range(1, 25)
                if (other.is_vendor_allowed(vendor) and other.is_purpose_allowed(purpose))
                or (
                    purpose not in (1, 3, 4, 5, 6)
                    and other.is_interest_allowed(vendor)
                    and other.has_purpose_legitimate_interest(purpose)
                )
            }
            if not any(entry.is_in_range(vendor) for entry in other.pub_restriction_entries):
                assert consent.basis(text, vendor).purposes == want
                compared += 1
    assert compared > 3_000


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("DBABM~CP", {2: "CP"}),
        ("DBACNY~CP~1YNN", {2: "CP", 6: "1YNN"}),
        ("DBACNYA~CP~1YNN", {2: "CP", 6: "1YNN"}),
        ("DBABjw~CP~1YNN", {5: "CP", 6: "1YNN"}),
        ("DBACNY~CP", None),
        ("DBABM", None),
        ("", None),
        ("CPXx~a", None),
        ("CBABM~CP", None),  # of another type
        ("DBAB4AAAAAAAAAG~CP", None),  # sections by the million million
        ("DB\u00e9~a", None),
        ("D" * 5_000, None),
        (f"DBAB{'A' * 4_000}D~CP", None),  # the number of one section in thousands of bits
    ],
)
def test_gpp_sections(text: str, want: dict[int, str] | None) -> None:
    assert gpp.sections(text) == want


@pytest.mark.parametrize(
    ("section", "offsets", "other"),
    [
        (7, (18, 20, 22), 16),
        (8, (12, 14), 10),
        (9, (12, 14), 10),
        (11, (14, 16), 12),
        (18, (14, 16), 12),
        (24, (16, 18), 14),
        (25, (16, 18), 14),
        (26, (16, 18), 14),
        (27, (16, 18), 14),
    ],
)
def test_opt_outs_by_section(section: int, offsets: tuple[int, ...], other: int) -> None:
    def body(offset: int, value: int) -> str:
        return _base64(f"{'000001':0<{offset}}{value:02b}".ljust(120, "0"))

    for offset in offsets:
        assert gpp.opted_out(section, body(offset, 1))
        assert not gpp.opted_out(section, body(offset, 2))
    assert not gpp.opted_out(section, body(other, 1))
    assert gpp.opted_out(section, "B")  # cut short
    global_control = _base64("011000")
    # What follows the core of the newest states, but for Maryland, is of sensitive data.
    assert gpp.opted_out(section, f"{body(offsets[0], 2)}.{global_control}") == (section < 25)


#: By section, where the fields on known children begin, how many there are, and where service-provider mode is.
CHILDREN = {
    7: (56, 3, 68), 8: (34, 2, 44), 9: (32, 1, 38), 10: (30, 1, 36), 11: (34, 1, 40), 12: (32, 3, 42), 13: (32, 3, 44),
    14: (32, 3, 44), 15: (38, 3, 50), 16: (32, 1, 40), 17: (34, 5, 50), 18: (34, 1, 40), 19: (32, 1, 40),
    20: (32, 3, 44), 21: (36, 5, 52), 22: (32, 1, 40), 23: (32, 1, 40), 24: (20, 0, 8), 25: (20, 1, 8), 26: (20, 1, 8),
    27: (20, 1, 8),
}  # fmt: skip


@pytest.mark.parametrize("section", CHILDREN)
def test_a_known_child_and_a_service_provider_s_mode_leave_a_user_s_data_unused(section: int) -> None:
    first, count, mode = CHILDREN[section]
    children = range(first, first + 2 * count, 2)
    assert gpp.US_STATES.stop == 28

    def body(offset: int, value: int) -> str:
        return _base64(f"{'000001':0<{offset}}{value:02b}".ljust(96, "0"))

    for offset in range(12, 72, 2):  # no other field says anything when it is 2
        assert gpp.opted_out(section, body(offset, 2)) == (offset in children)
    for offset in children:
        assert gpp.opted_out(section, body(offset, 1))
    assert gpp.opted_out(section, body(mode, 2 if section >= 24 else 1))
    assert not gpp.opted_out(section, body(mode, 1 if section >= 24 else 2))


@pytest.mark.parametrize(
    ("section", "text", "want"),
    [
        # What the IAB's own library writes when nothing is said, and an opt-out of sale.
        (24, "BQAA.Q", False),
        (24, "BQBA.Q", True),
        (24, "BQAA.Y", True),
        (25, "BQAA.AAA", False),
        (25, "BVVV.kkk", True),
        # A header, which the specifications of these sections have and that library has not.
        (25, "ZBAAAAAAAA", True),
        # The national section as it was, with ten characters or eleven: nothing said, and a child of either age.
        (7, "BVQqAAAAAgA.QA", False),
        (7, "BVQqAAAAAg", False),
        (7, "BVQqAAAAEg", True),
        (7, "BVQqAAAAhg", True),
        # A subsection that is not of Global Privacy Control
        (8, "BAAAAAAAAAAAAAAA.Y", True),
        (8, "BAAAAAAAAAAAAAAA.o", False),
        # US privacy, whatever is wrong with it
        (6, "1YNN", False),
        (6, "1-n-", False),
        (6, "1Y", True),
        (6, "1YNNN", True),
        (6, "2YNN", True),
    ],
)
def test_sections_as_others_write_them(section: int, text: str, want: bool) -> None:
    assert gpp.opted_out(section, text) == want


def _base64(bits: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "".join(alphabet[int(bits[start : start + 6], 2)] for start in range(0, len(bits), 6))


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, CONTEXTUAL),
        ({"device": {"geo": {"country": "??"}}}, CONTEXTUAL),
        ({"device": {"geo": {"country": "USA"}}}, FREE),
        ({"regs": {"gdpr": 0}}, FREE),
    ],
)
def test_where_a_request_names_no_country_the_exchange_s_own_counts(fields: dict[str, Any], want: Permissions) -> None:
    assert _decide("DEU", **fields) == want
    assert _decide("USA", **fields) == FREE
