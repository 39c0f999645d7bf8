"""Where: country codes in one form, and regions, cities and postcodes qualified by their country."""

from typing import NamedTuple

from dsp.kernel.remember import Remembered
from dsp.openrtb.request import Geo

# ISO 3166-1, alpha-2 and alpha-3. The specification asks for alpha-3; many exchanges send alpha-2.
_COUNTRIES = """
AD:AND AE:ARE AF:AFG AG:ATG AI:AIA AL:ALB AM:ARM AO:AGO AQ:ATA AR:ARG AS:ASM AT:AUT AU:AUS AW:ABW AX:ALA AZ:AZE
BA:BIH BB:BRB BD:BGD BE:BEL BF:BFA BG:BGR BH:BHR BI:BDI BJ:BEN BL:BLM BM:BMU BN:BRN BO:BOL BQ:BES BR:BRA BS:BHS
BT:BTN BV:BVT BW:BWA BY:BLR BZ:BLZ CA:CAN CC:CCK CD:COD CF:CAF CG:COG CH:CHE CI:CIV CK:COK CL:CHL CM:CMR CN:CHN
CO:COL CR:CRI CU:CUB CV:CPV CW:CUW CX:CXR CY:CYP CZ:CZE DE:DEU DJ:DJI DK:DNK DM:DMA DO:DOM DZ:DZA EC:ECU EE:EST
EG:EGY EH:ESH ER:ERI ES:ESP ET:ETH FI:FIN FJ:FJI FK:FLK FM:FSM FO:FRO FR:FRA GA:GAB GB:GBR GD:GRD GE:GEO GF:GUF
GG:GGY GH:GHA GI:GIB GL:GRL GM:GMB GN:GIN GP:GLP GQ:GNQ GR:GRC GS:SGS GT:GTM GU:GUM GW:GNB GY:GUY HK:HKG HM:HMD
HN:HND HR:HRV HT:HTI HU:HUN ID:IDN IE:IRL IL:ISR IM:IMN IN:IND IO:IOT IQ:IRQ IR:IRN IS:ISL IT:ITA JE:JEY JM:JAM
JO:JOR JP:JPN KE:KEN KG:KGZ KH:KHM KI:KIR KM:COM KN:KNA KP:PRK KR:KOR KW:KWT KY:CYM KZ:KAZ LA:LAO LB:LBN LC:LCA
LI:LIE LK:LKA LR:LBR LS:LSO LT:LTU LU:LUX LV:LVA LY:LBY MA:MAR MC:MCO MD:MDA ME:MNE MF:MAF MG:MDG MH:MHL MK:MKD
ML:MLI MM:MMR MN:MNG MO:MAC MP:MNP MQ:MTQ MR:MRT MS:MSR MT:MLT MU:MUS MV:MDV MW:MWI MX:MEX MY:MYS MZ:MOZ NA:NAM
NC:NCL NE:NER NF:NFK NG:NGA NI:NIC NL:NLD NO:NOR NP:NPL NR:NRU NU:NIU NZ:NZL OM:OMN PA:PAN PE:PER PF:PYF PG:PNG
PH:PHL PK:PAK PL:POL PM:SPM PN:PCN PR:PRI PS:PSE PT:PRT PW:PLW PY:PRY QA:QAT RE:REU RO:ROU RS:SRB RU:RUS RW:RWA
SA:SAU SB:SLB SC:SYC SD:SDN SE:SWE SG:SGP SH:SHN SI:SVN SJ:SJM SK:SVK SL:SLE SM:SMR SN:SEN SO:SOM SR:SUR SS:SSD
ST:STP SV:SLV SX:SXM SY:SYR SZ:SWZ TC:TCA TD:TCD TF:ATF TG:TGO TH:THA TJ:TJK TK:TKL TL:TLS TM:TKM TN:TUN TO:TON
TR:TUR TT:TTO TV:TUV TW:TWN TZ:TZA UA:UKR UG:UGA UM:UMI US:USA UY:URY UZ:UZB VA:VAT VC:VCT VE:VEN VG:VGB VI:VIR
VN:VNM VU:VUT WF:WLF WS:WSM YE:YEM YT:MYT ZA:ZAF ZM:ZMB ZW:ZWE UK:GBR EL:GRC XK:XKX
"""
_ALPHA3 = dict(pair.split(":") for pair in _COUNTRIES.split())
#: Every country that an opportunity may be in.
COUNTRIES = frozenset(_ALPHA3.values())

_UTC_OFFSET_MINUTES_MAX = 14 * 60


class Place(NamedTuple):
    """A place as targeting names it; "" where unknown."""

    country: str
    region: str
    city: str
    postcode: str
    utc_offset_minutes: int


def place(device_geo: Geo | None, user_geo: Geo | None, country_default: str) -> Place:
    """Return where the device is, or else its user."""
    geo = device_geo if device_geo is not None and (device_geo.country or user_geo is None) else user_geo
    if geo is None:
        return Place(country_default, "", "", "", 0)
    return _places[geo.country, geo.region, geo.city, geo.zip, geo.utcoffset, country_default]


def _place(stated: tuple[str, str, str, str, int | None, str]) -> Place:
    code, region, city, postcode, offset, country_default = stated
    country = country_alpha3(code) or country_default
    return Place(
        country,
        # ISO 3166-2 begins with the country; most exchanges send the rest alone.
        f"{country}-{region.strip().upper().rpartition('-')[2]}" if country and region else "",
        f"{country}-{city.strip().lower()}" if country and city else "",
        f"{country}-{postcode.strip().upper()}" if country and postcode else "",
        offset if offset is not None and abs(offset) <= _UTC_OFFSET_MINUTES_MAX else 0,
    )


_places = Remembered(_place, entries_max=8_192)


def country_alpha3(code: str) -> str:
    """Return the ISO 3166-1 alpha-3 code of an alpha-2 or alpha-3 code, "" for anything else."""
    code = code.strip().upper()
    return code if code in COUNTRIES else _ALPHA3.get(code, "")
