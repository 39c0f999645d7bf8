"""Bytes to a typed request and a response to bytes: content encodings, JSON, 2.5 locations, and what must hold.

Whatever the bytes are, only the errors of `InputError`'s tree leave this module.
"""

import json
import zlib
from typing import Any

import msgspec

from dsp.kernel.errors import DecodeError, InputError
from dsp.openrtb import lenient
from dsp.openrtb.request import BidRequest, Regs, RegsExt, Source
from dsp.openrtb.response import BidResponse

BODY_BYTES_MAX = 262_144
#: Identifiers travel in notice tokens, whose length is bounded.
ID_BYTES_MAX = 512

_ZLIB = 15
_GZIP = 31
_RAW_DEFLATE = -15

_decoder = msgspec.json.Decoder(BidRequest, strict=False)
_untyped = msgspec.json.Decoder()
_read_request = lenient.reader(BidRequest)
_encoder = msgspec.json.Encoder()


def decode_request(body: bytes, *, encoding: str = "", bytes_max: int = BODY_BYTES_MAX) -> BidRequest:
    """Decode one request body.

    Args:
        body: as received.
        encoding: the Content-Encoding header; gzip, deflate, identity or none.
        bytes_max: the bound on the body, before and after decompression.

    Raises:
        DecodeError: `empty_body`, `body_too_large`, `encoding_unsupported`, `encoding_broken`, `json_broken`,
            `json_too_deep`, `number_out_of_range`, `wrong_type` or `id_too_long`.
    """
    if len(body) > bytes_max:
        raise DecodeError(f"the body is larger than {bytes_max} bytes", reason="body_too_large")
    if encoding:
        body = _decompress(body, encoding, bytes_max)
    if not body:
        raise DecodeError("the body is empty", reason="empty_body")
    try:
        request = _decoder.decode(body)
    except (ValueError, RecursionError) as fault:
        request = _decode_leniently(body, fault)
    return _fold(request)


def encode_response(response: BidResponse) -> bytes:
    """Return the response's JSON."""
    return _encoder.encode(response)


def validate(request: BidRequest) -> None:
    """Refuse a request that breaks what the specification requires of all requests.

    What concerns one impression alone (no format, no size, an absurd floor, an id used twice) is not judged here:
    it costs that impression, in `dsp.openrtb.normalise`, and leaves the others.

    Raises:
        InputError: `missing_id`, `id_too_long`, `id_with_nul`, `no_impressions`, `missing_imp_id` or `site_and_app`.
    """
    if not request.id:
        raise InputError("the request has no id (3.2.1)", reason="missing_id")
    _check_id("id", request.id)
    if not request.imp:
        raise InputError("the request offers no impression (3.2.1)", reason="no_impressions")
    for imp in request.imp:
        if not imp.id:
            raise InputError("an impression has no id (3.2.4)", reason="missing_imp_id")
        _check_id("imp.id", imp.id)
    if (request.site is not None) + (request.app is not None) + (request.dooh is not None) > 1:
        raise InputError("only one of site, app and dooh may be present (3.2.13)", reason="site_and_app")


def _check_id(field: str, value: str) -> None:
    if "\0" in value:  # the book could not hold what is billed for it: a database's texts have no NUL
        raise InputError(f"{field} contains NUL", reason="id_with_nul")
    if len(value) > ID_BYTES_MAX or (not value.isascii() and len(value.encode()) > ID_BYTES_MAX):
        raise InputError(f"{field} is longer than {ID_BYTES_MAX} bytes", reason="id_too_long")


def _decompress(body: bytes, encoding: str, bytes_max: int) -> bytes:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name in ("gzip", "x-gzip"):
        return _inflate(body, _GZIP, bytes_max)
    if name == "deflate":
        # RFC 9110 means the zlib format; some senders mean bare deflate.
        zlib_header = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        return _inflate(body, _ZLIB if zlib_header else _RAW_DEFLATE, bytes_max)
    raise DecodeError("only gzip, deflate and identity bodies are read", reason="encoding_unsupported")


def _inflate(body: bytes, wbits: int, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(wbits)
    try:
        inflated = inflater.decompress(body, bytes_max + 1)
    except zlib.error as fault:
        raise DecodeError("the body is not what its Content-Encoding says", reason="encoding_broken") from fault
    if len(inflated) > bytes_max:
        raise DecodeError(f"the body inflates to more than {bytes_max} bytes", reason="body_too_large")
    if not inflater.eof or inflater.unused_data:
        raise DecodeError("the compressed body is cut short or followed by something", reason="encoding_broken")
    return inflated


def _decode_leniently(body: bytes, fault: Exception) -> BidRequest:
    """Read what the typed decoder refused, or say why it cannot be read."""
    if isinstance(fault, RecursionError):
        raise DecodeError("the JSON is nested too deeply", reason="json_too_deep") from fault
    try:
        request = _read_request(_read_json(body), "request")
    except RecursionError as deep:
        raise DecodeError("the JSON is nested too deeply", reason="json_too_deep") from deep
    except msgspec.ValidationError as number:  # without a type to match, only numbers can be invalid
        raise DecodeError(f"a number is out of range: {number}", reason="number_out_of_range") from number
    except ValueError as broken:
        raise DecodeError(f"not JSON: {broken}", reason="json_broken") from broken
    if not isinstance(request, BidRequest):
        raise DecodeError("the body must be an object", reason="wrong_type")
    return request


def _read_json(body: bytes) -> Any:
    """Read JSON whose texts may hold halves of characters (RFC 8259, 8.2), which the faster decoder refuses.

    Senders write them that cut texts at so many UTF-16 units.
    """
    try:
        return _untyped.decode(body)
    except msgspec.ValidationError:
        raise
    except ValueError:
        return json.loads(body.decode(), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _fold(request: BidRequest) -> BidRequest:
    """Move what 2.5 and older say in `ext` to where 2.6 says it; the newer place wins."""
    regs, user, source = request.regs, request.user, request.source
    if regs is not None and regs.ext is not None:
        _fold_regs(regs, regs.ext)
    if user is not None and user.ext is not None:
        user.consent = user.consent or user.ext.consent
        user.eids = user.eids or user.ext.eids
    if source is not None and source.ext is not None:
        source.schain = source.schain or source.ext.schain
    if request.ext is not None:
        request.wlang = request.wlang or request.ext.wlang
        request.bapp = request.bapp or request.ext.bapp
        request.cattax = request.cattax if request.cattax > 1 else request.ext.cattax
        if request.ext.schain is not None:
            request.source = request.source or Source()
            request.source.schain = request.source.schain or request.ext.schain
    for imp in request.imp:
        if imp.ext is not None:
            imp.rwdd = imp.rwdd or imp.ext.rwdd or imp.ext.rewarded or imp.ext.reward
            if imp.ext.prebid is not None:
                imp.rwdd = imp.rwdd or imp.ext.prebid.is_rewarded_inventory
        if imp.video is not None and imp.video.ext is not None:
            imp.rwdd = imp.rwdd or imp.video.ext.rewarded
    return request


def _fold_regs(regs: Regs, ext: RegsExt) -> None:
    if regs.gdpr is None:
        regs.gdpr = ext.gdpr
    regs.us_privacy = regs.us_privacy or ext.us_privacy
    regs.gpp = regs.gpp or ext.gpp
    regs.gpp_sid = regs.gpp_sid or ext.gpp_sid
    regs.coppa = regs.coppa or ext.coppa
