"""Answers in JSON, written by msgspec: the structs that the OpenAPI document describes are what is sent."""

from typing import Any

import msgspec
from fastapi import Response


class JsonResponse(Response):
    """An answer whose content is anything that msgspec encodes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON."""
        return msgspec.json.encode(content)
