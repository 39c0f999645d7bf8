"""Shadow scoring: what the challenger would have predicted for bids that have left. Nothing here touches a bid."""

import msgspec

from dsp.events.schema import Decision
from dsp.kernel import metrics
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.logged import unpack
from models.serving.predictor import BatchPredictor


def scored(decision: Decision, challenger: BatchPredictor) -> Decision:
    """Return the decision with the challenger's predictions beside the champion's; as it was, where that fails."""
    try:
        requests = unpack((bid.request_features for bid in decision.bids), REQUEST_COLUMNS)
        ads = unpack((bid.ad_features for bid in decision.bids), AD_COLUMNS)
        rates = challenger.predict_rows(requests, ads).pctr.tolist()
        bids = zip(decision.bids, rates, strict=True)
        made = tuple(msgspec.structs.replace(bid, challenger_pctr=rate) for bid, rate in bids)
    except Exception:  # whatever is wrong with a challenger, the record of what was bid is kept
        metrics.SHADOW_SCORED.labels("failed").inc()
        return decision
    metrics.SHADOW_SCORED.labels("scored").inc()
    return msgspec.structs.replace(decision, bids=made, challenger_version=challenger.version)
