"""What the user holds: device kind, operating system, browser, make and model, from client hints or the user agent.

Parsing a user agent costs tens of microseconds, so results are kept for the most recent few thousand.
"""

from functools import lru_cache
from typing import NamedTuple

from ua_parser import BestAvailableResolver, Parser, load_builtins

from dsp.kernel.remember import Remembered
from dsp.openrtb.names import browser_name, os_name
from dsp.openrtb.opportunity import DeviceKind
from dsp.openrtb.request import Device, UserAgent

#: Real user agents are shorter; a longer one is cut, which bounds both time and the cache's memory.
_UA_CHARS_MAX = 512
_UA_CACHE = 8_192

#: AdCOM list "Device Types". 1 (mobile or tablet) is decided by the user agent.
_KINDS = {
    2: DeviceKind.DESKTOP,
    3: DeviceKind.TV,
    4: DeviceKind.PHONE,
    5: DeviceKind.TABLET,
    6: DeviceKind.TV,
    7: DeviceKind.TV,
    8: DeviceKind.OTHER,
}
_KINDS_BY_OS = {
    **dict.fromkeys(("ios", "android", "windows phone", "blackberry os", "kaios"), DeviceKind.PHONE),
    **dict.fromkeys(("windows", "macos", "linux", "chromeos"), DeviceKind.DESKTOP),
    **dict.fromkeys(("roku", "webos", "tvos", "tizen"), DeviceKind.TV),
}
_TV_MARKS = ("smart-tv", "smarttv", "hbbtv", "appletv", "bravia")

_CRAWLER = "spider"  # the make that the parser's rules give one

_parser = Parser(BestAvailableResolver(load_builtins()))


class Agent(NamedTuple):
    """What a user agent says; "" where it says nothing."""

    kind: DeviceKind
    os: str
    os_version: str
    browser: str
    make: str
    model: str


_UNKNOWN = Agent(DeviceKind.OTHER, "", "", "", "", "")


def describe(device: Device | None) -> Agent:
    """Return the device; client hints win over what the exchange states, and that over the user agent."""
    if device is None:
        return _UNKNOWN
    user_agent = device.ua[:_UA_CHARS_MAX]
    return _described[user_agent, device.sua, device.devicetype, device.os, device.osv, device.make, device.model]


def _describe(stated: tuple[str, UserAgent | None, int, str, str, str, str]) -> Agent:
    user_agent, hints, devicetype, os, os_version, make, model = stated
    agent = parse_user_agent(user_agent) if user_agent else _UNKNOWN
    os, os_version, browser = os_name(os), os_version.strip().lower(), ""
    if hints is not None:
        os, os_version, browser, model = _from_hints(hints, os, os_version, model)
    os = os or agent.os
    return Agent(
        _KINDS.get(devicetype) or _kind_without_type(devicetype, hints, agent, os),
        os,
        os_version or agent.os_version,
        browser or agent.browser,
        make.strip().lower() or agent.make,
        model.strip().lower() or agent.model,
    )


_described = Remembered(_describe)


def is_crawler(device: Device | None) -> bool:
    """Return whether the user agent is a known crawler's, whatever else is said of the device (7.1)."""
    return device is not None and parse_user_agent(device.ua[:_UA_CHARS_MAX]).make == _CRAWLER


@lru_cache(maxsize=_UA_CACHE)
def parse_user_agent(user_agent: str) -> Agent:
    """Return what a user-agent string says of the device."""
    result = _parser.parse(user_agent)
    browser = result.user_agent.family.lower() if result.user_agent else ""
    os, version = "", ""
    if result.os:
        os = os_name(result.os.family)
        version = ".".join(part for part in (result.os.major, result.os.minor, result.os.patch) if part)
    make = (result.device.brand or "").lower() if result.device else ""
    model = (result.device.model or "").lower() if result.device else ""
    kind = _kind_from_agent(user_agent.lower(), os, model)
    return Agent(kind, os, version.lower(), browser_name(browser), make, model)


def _kind_from_agent(user_agent: str, os: str, model: str) -> DeviceKind:
    kind = _KINDS_BY_OS.get(os, DeviceKind.OTHER)
    # "AFT" begins the models of a maker of televisions; "Tablet PC" is a service of Windows, on desktops too.
    if kind is DeviceKind.TV or model.startswith("aft") or any(mark in user_agent for mark in _TV_MARKS):
        return DeviceKind.TV
    tablet = "ipad" in model or "tablet" in user_agent.replace("tablet pc", "")
    if tablet or (os == "android" and "mobile" not in user_agent):
        return DeviceKind.TABLET
    return kind


def _kind_without_type(devicetype: int, hints: UserAgent | None, agent: Agent, os: str) -> DeviceKind:
    """Return the kind of a device whose type is missing, unknown or only "mobile or tablet"."""
    handheld = devicetype == 1 or (hints is not None and hints.mobile == 1)
    if handheld:
        return DeviceKind.TABLET if agent.kind is DeviceKind.TABLET else DeviceKind.PHONE
    return agent.kind if agent.kind is not DeviceKind.OTHER else _KINDS_BY_OS.get(os, DeviceKind.OTHER)


def _from_hints(hints: UserAgent, os: str, os_version: str, model: str) -> tuple[str, str, str, str]:
    """Return os, version, browser and model, client hints first (3.2.29)."""
    if hints.platform is not None and hints.platform.brand:
        os = os_name(hints.platform.brand)
        os_version = ".".join(map(str, hints.platform.version)) or os_version
    brands = [brand.brand.strip().lower() for brand in hints.browsers]
    # Browsers list a made-up brand ("Not/A)Brand") and the engine beside themselves.
    named = [brand for brand in brands if brand and "brand" not in brand]
    browser = next((brand for brand in named if brand != "chromium"), named[0] if named else "")
    return os, os_version, browser_name(browser), hints.model or model
