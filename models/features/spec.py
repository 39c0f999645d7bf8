"""The identity of the feature definition, as decisions and bundles state it."""

import hashlib
import json

from models.features.columns import AD_COLUMNS, DEVICE_CODES, FORMAT_CODES, GOAL_CODES, REQUEST_COLUMNS

#: Raise it when a column keeps its name and changes its meaning.
_ENCODING = 1


def _feature_hash() -> str:
    codes = [list(DEVICE_CODES), list(FORMAT_CODES), list(GOAL_CODES)]
    parts = [_ENCODING, REQUEST_COLUMNS, AD_COLUMNS, codes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


#: Rows of another hash were made by another definition: a model must not be trained on them, nor score them.
FEATURE_HASH = _feature_hash()
