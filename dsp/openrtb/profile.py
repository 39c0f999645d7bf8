"""How one exchange differs from the specification and from the others: one TOML file each, named after it."""

import re
import tomllib
from pathlib import Path

import msgspec

from dsp.kernel import config
from dsp.kernel.config import Secret
from dsp.kernel.errors import ConfigError, Fault
from dsp.openrtb.geo import COUNTRIES
from dsp.openrtb.price import ENCRYPTED, PRICE_CIPHERS, GooglePrice, PlainPrice, PriceCipher, key_from_text

BILLING_EVENTS = ("win", "bill", "imp")
_POSITIVE = ("tmax_default_ms", "qps_max", "impressions_max", "bids_max", "notice_ttl_seconds")
_KEYS = ("price_encryption_key", "price_integrity_key")
_MACRO = re.compile(r"[\w%${}\[\].:/?=#@-]*", re.ASCII)


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the bidder must know of one exchange. `name` is the last part of its bid URL."""

    name: str  # of the file without `.toml`, and only that: the last part of the URL that bid requests are sent to
    seat: str = "1"  # ours with this exchange
    #: The notice that bills: "win" (nurl), "bill" (burl) or "imp" (our pixel in the markup).
    billing: str = "bill"
    #: How ${AUCTION_PRICE} comes back: "plain", or encrypted and signed: "google" (what one impression costs, as Google
    #: and OpenX send it) or "google_cpm" (a CPM, as others do who took Google's encryption over).
    price_cipher: str = "plain"
    #: What asks for it in that form, where the exchange wants that said: X of ${AUCTION_PRICE:X} (OpenRTB 4.4).
    price_encoding: str = ""
    price_encryption_key: Secret = Secret("")  # of the cipher, hexadecimal or base64
    price_integrity_key: Secret = Secret("")  # of the cipher, hexadecimal or base64
    #: The key before, still accepted while the exchange goes over to the new one; empty: none.
    price_encryption_key_before: Secret = Secret("")
    price_integrity_key_before: Secret = Secret("")  # its companion
    #: What the exchange replaces by an address of its own, where it counts clicks on banners and then leads on to ours.
    #: That follows percent-encoded: "%%CLICK_URL_UNESC%%" with Google, "${CLICK_URL}" with others; empty: nothing.
    click_macro: str = ""
    #: Currencies the exchange takes bids in when the request names none; the first is its default.
    currencies: tuple[str, ...] = ("USD",)
    #: Auction type where the request says none: 1 first price, 2 second price (the specification's default).
    auction_default: int = 2
    tmax_default_ms: int = 100  # where the request says none
    network_margin_ms: int = 20  # time that the network takes of tmax, both ways
    qps_max: int = 10_000  # requests a second of this exchange that one bidder process takes; the others get a 204
    no_bid_body: bool = False  # answer "no" with a body that says why (200 and `nbr`), instead of 204
    gzip: bool = False  # compress answers where the exchange takes that
    version: str = "2.6"  # of OpenRTB that answers state where the request states none
    impressions_max: int = 64  # of one request; those beyond are not bid on
    bids_max: int = 16  # in one answer
    #: How long a bid's money is set aside, and so how long after the auction a notice may bill it.
    notice_ttl_seconds: int = 3_600
    #: The same where an impression says that it may take longer (`imp.exp`): so long, but no longer than this.
    notice_ttl_seconds_max: int = 3_600
    country_default: str = ""  # ISO 3166-1 alpha-3 of where requests come from that name no country
    supply_chain_required: bool = False  # bid only where the supply chain is stated to be complete
    win_notice: bool = True  # ask for it, with `nurl`
    loss_notice: bool = True  # ask for it, with `lurl`; without it, money of lost bids is set aside until they expire

    def __post_init__(self) -> None:
        encoding, margin = self.price_encoding, self.network_margin_ms
        config.require(
            ("seat", bool(self.seat), "must not be empty"),
            ("billing", self.billing in BILLING_EVENTS, f"must be one of {', '.join(BILLING_EVENTS)}"),
            ("billing, win_notice", self.billing != "win" or self.win_notice, "a win bills, and is not asked for"),
            ("price_cipher", self.price_cipher in PRICE_CIPHERS, f"must be one of {', '.join(PRICE_CIPHERS)}"),
            (
                "price_encoding",
                not encoding or (encoding.isascii() and encoding.isalnum()),
                "must be letters and digits",
            ),
            (
                "click_macro",
                _MACRO.fullmatch(self.click_macro) is not None,
                "must be a macro that can stand in an address",
            ),
            ("auction_default", self.auction_default in (1, 2), "must be 1 or 2"),
            ("currencies", bool(self.currencies), "must name at least one currency"),
            *[
                ("currencies", len(code) == 3 and code.isupper(), f"{code!r} is not an ISO 4217 code")
                for code in self.currencies
            ],
            ("network_margin_ms, tmax_default_ms", 0 <= margin < self.tmax_default_ms, "must leave some of tmax"),
            ("country_default", self.country_default in ("", *COUNTRIES), "must be an ISO 3166-1 alpha-3 country"),
            *[(name, getattr(self, name) > 0, "must be positive") for name in _POSITIVE],
            *[
                (name, len(key_from_text(getattr(self, name))) >= 16, "must hold 16 bytes or more")
                for name in self._keys()
            ],
        )

    def _keys(self) -> tuple[str, ...]:
        """Return the fields that must hold keys."""
        if self.price_cipher == "plain":
            return ()
        rotates = self.price_encryption_key_before or self.price_integrity_key_before
        return _KEYS + tuple(f"{name}_before" for name in _KEYS) if rotates else _KEYS


def cipher(profile: Profile) -> PriceCipher:
    """Return the cipher that the profile names."""
    impressions = ENCRYPTED.get(profile.price_cipher)
    if impressions is None:
        return PlainPrice()

    def google(encryption_key: str, integrity_key: str, before: PriceCipher | None = None) -> PriceCipher:
        return GooglePrice(key_from_text(encryption_key), key_from_text(integrity_key), before, impressions)

    before = None
    if profile.price_encryption_key_before:
        before = google(profile.price_encryption_key_before, profile.price_integrity_key_before)
    return google(profile.price_encryption_key, profile.price_integrity_key, before)


def load_profiles(directory: str | Path) -> dict[str, Profile]:
    """Read every `*.toml` of a directory.

    Raises:
        ConfigError: with every fault of every file.
    """
    faults: list[Fault] = []
    profiles: dict[str, Profile] = {}
    paths = sorted(Path(directory).glob("*.toml"))
    if not paths:
        faults.append(Fault(str(directory), "holds no exchange profile (*.toml)"))
    for path in paths:
        profile = _load(path, faults)
        if profile is not None:
            profiles[profile.name] = profile
    if faults:
        raise ConfigError(faults)
    return profiles


def _load(path: Path, faults: list[Fault]) -> Profile | None:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        faults.append(Fault(str(path), str(fault)))
        return None
    if values.get("name", path.stem) != path.stem:
        faults.append(Fault(f"{path.name}.name", f"must be the file's name, {path.stem}"))
    return config.build(path.name, Profile, {"name": path.stem, **values}, faults)
