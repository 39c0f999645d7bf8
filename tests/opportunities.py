"""Opportunities held to what their struct declares."""

import msgspec

from dsp.openrtb.opportunity import Opportunity


def made_again(opportunity: Opportunity) -> Opportunity:
    """Return the opportunity made again of plain values, all but the hash for its lots.

    Raises:
        msgspec.ValidationError: a field does not hold what is declared of it.
    """
    plain = msgspec.to_builtins(opportunity, enc_hook=lambda _lots: None)
    return msgspec.convert(plain, Opportunity, dec_hook=lambda _kind, _none: opportunity.lots)
