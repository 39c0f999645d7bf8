"""/v1/keys: owners see which API keys there are and revoke them. Keys are made on the command line."""

from fastapi import APIRouter, Response

from dsp.api.context import Owner, Served
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems
from dsp.store.keys import list_keys, revoke_key

router = APIRouter(prefix="/v1/keys", tags=["keys"])

_KEY = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "prefix": {"type": "string", "description": "How the key begins."},
        "role": {"enum": ["client", "viewer", "member", "owner"]},
        "advertiser_id": {"type": ["integer", "null"], "description": "Whose client it is for."},
        "created_ms": {"type": "integer"},
        "revoked_ms": {"type": ["integer", "null"]},
    },
}
_KEYS = {"type": "object", "properties": {"items": {"type": "array", "items": _KEY}}, "required": ["items"]}


@router.get("", summary="List API keys", responses={200: {"content": content(_KEYS)}, **problems()})
def list_(served: Served, _key: Owner) -> Response:
    """List every key, revoked ones too. The keys themselves are not stored and cannot be shown."""
    with served.reads() as session:
        return JsonResponse({"items": list_keys(session)})


@router.post("/{name:path}/revoke", summary="Revoke an API key", status_code=204, responses=problems(404))
def revoke(name: str, served: Served, _key: Owner) -> Response:
    """Make a key worthless at once; repeating it is harmless."""
    with served.writes.begin() as session:
        revoke_key(session, name, served.clock.now_ms())
    return Response(status_code=204)
