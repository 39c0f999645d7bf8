"""/v1/keys: owners see which API keys there are and revoke them. Keys are made on the command line."""

from fastapi import APIRouter, Request, Response

from dsp.api.context import Owner, Served, known_parameters
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems, ref
from dsp.store.keys import list_keys, revoke_key

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", summary="List API keys", responses={200: {"content": content(ref("ApiKeyList"))}, **problems()})
def list_(request: Request, served: Served, _key: Owner) -> Response:
    """List every key, revoked ones too. The keys themselves are not stored and cannot be shown."""
    known_parameters(request, frozenset())
    with served.reads() as session:
        return JsonResponse({"items": list_keys(session)})


@router.post("/{name:path}/revoke", summary="Revoke an API key", status_code=204, responses=problems(404))
def revoke(name: str, request: Request, served: Served, key: Owner) -> Response:
    """Make a key worthless at once; repeating it is harmless."""
    known_parameters(request, frozenset())
    with served.writes.begin() as session:
        revoke_key(session, name, key.actor, served.clock.now_ms())
    return Response(status_code=204)
