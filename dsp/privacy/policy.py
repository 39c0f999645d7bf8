"""From the privacy signals of a request to what we may do with it. Less permission costs data, never an error."""

from dsp.openrtb.geo import country_alpha3
from dsp.openrtb.opportunity import Permissions
from dsp.openrtb.request import BidRequest, Device, Regs
from dsp.privacy import consent, gpp

#: Storage, basic ads, measurement: what counting exposures and billing by user state rest on.
_STORE = frozenset({1, 2, 7})
#: Beyond them, making a profile and choosing an ad by it.
_PERSONALISE = _STORE | {3, 4}
_SELECT_ADS = 2

#: Where GDPR or its British twin applies, for requests that do not say: the EU with those of its regions that have a
#: code of their own, the EEA and the United Kingdom.
_GDPR = """
AUT BEL BGR HRV CYP CZE DNK EST FIN FRA DEU GRC HUN IRL ITA LVA LTU LUX MLT NLD POL PRT ROU SVK SVN ESP SWE
ALA GLP GUF MAF MTQ MYT REU
ISL LIE NOR GBR
"""
_GDPR_COUNTRIES = frozenset(_GDPR.split())
_TRACKING_REFUSED = (1, 2)  # device.ext.atts: restricted, denied

FREE = Permissions()
CONTEXTUAL = Permissions(may_store=False, may_personalise=False)
FORBIDDEN = Permissions(may_bid=False, may_store=False, may_personalise=False)


def permissions(request: BidRequest, vendor_id: int, country_default: str) -> Permissions:
    """Return what the request's privacy signals allow.

    COPPA, a device that limits tracking, a US opt-out (which a browser's Global Privacy Control is, and a known child),
    and a jurisdiction whose signal cannot be read leave contextual bidding. Under GDPR, state about the user needs
    purposes 1, 2 and 7, personalisation 3 and 4 as well; a publisher that forbids us purpose 2 forbids the bid.

    Args:
        request: decoded, its 2.5 locations folded in.
        vendor_id: ours in the IAB's global vendor list; 0 if we have none, which no consent covers.
        country_default: ISO 3166-1 alpha-3, of requests of this exchange that name no country; empty where not known.
    """
    regs, device = request.regs, request.device
    allowed = FREE
    if device is not None and _limits_tracking(device):
        allowed = CONTEXTUAL
    if regs is not None and (regs.coppa == 1 or _us_opt_out(regs) or _unreadable_jurisdiction(regs)):
        allowed = CONTEXTUAL
    if not _gdpr_applies(request, country_default):
        return allowed
    under_gdpr = _under_gdpr(request, vendor_id)
    return under_gdpr if allowed is FREE or not under_gdpr.may_bid else allowed


def _limits_tracking(device: Device) -> bool:
    tracking = device.ext.atts if device.ext is not None else None
    return device.lmt == 1 or device.dnt == 1 or tracking in _TRACKING_REFUSED


def _us_opt_out(regs: Regs) -> bool:
    if gpp.us_privacy_opted_out(regs.us_privacy):
        return True
    if regs.ext is not None and str(regs.ext.gpc) == "1":
        return True
    held = gpp.sections(regs.gpp) or {}
    if regs.us_privacy:
        held = {gpp.US_PRIVACY: regs.us_privacy, **held}
    # Without gpp_sid nobody says which sections apply; an opt-out in any of them is honoured. One that is said to apply
    # and is not there, or not to be read, is an opt-out too.
    return any(
        number not in held or gpp.opted_out(number, held[number]) for number in regs.gpp_sid or held if _is_us(number)
    )


def _is_us(number: int) -> bool:
    return number in (gpp.US_PRIVACY, gpp.US_NATIONAL) or number in gpp.US_STATES


def _unreadable_jurisdiction(regs: Regs) -> bool:
    """Return whether a section applies that nobody here can read, such as Canada's. 0 and -1 mean none applies."""
    return any(number > 0 and number != gpp.TCF_EU and not _is_us(number) for number in regs.gpp_sid)


def _gdpr_applies(request: BidRequest, country_default: str) -> bool:
    regs = request.regs
    if regs is not None and (regs.gdpr is not None or regs.gpp_sid):
        return regs.gdpr == 1 or gpp.TCF_EU in regs.gpp_sid
    # Where the person is, or lives: either may be all that is known.
    places = [holder.geo for holder in (request.device, request.user) if holder is not None and holder.geo is not None]
    countries = {country_alpha3(geo.country) for geo in places} - {""} or {country_default}
    return not countries.isdisjoint(_GDPR_COUNTRIES)


def _under_gdpr(request: BidRequest, vendor_id: int) -> Permissions:
    text = request.user.consent if request.user is not None else ""
    if not text and request.regs is not None and request.regs.gpp:
        text = (gpp.sections(request.regs.gpp) or {}).get(gpp.TCF_EU, "")
    basis = consent.basis(text, vendor_id)
    if _SELECT_ADS in basis.forbidden:
        return FORBIDDEN
    if basis.purposes >= _PERSONALISE:
        return FREE
    return Permissions(may_personalise=False) if basis.purposes >= _STORE else CONTEXTUAL
