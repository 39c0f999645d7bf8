"""/v1/changes: who did what to the catalogue, across all its entities."""

from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dsp.api.context import Served, Viewer, known_parameters
from dsp.api.json import JsonResponse
from dsp.api.openapi import content, problems, ref
from dsp.api.pages import PAGE_SIZE, PageSize, PageToken, decode_token, page, page_size
from dsp.catalog.kinds import Kind
from dsp.catalog.validate import TIME_MS_MAX
from dsp.catalog.values import TEXT_CHARS_MAX
from dsp.store.changes import list_changes

router = APIRouter(prefix="/v1/changes", tags=["changes"])
_SCOPE = "changes"


@router.get(
    "",
    operation_id="list_changes",
    summary="List changes to the catalogue",
    responses={200: {"content": content(ref("EntityChangePage"))}, **problems()},
)
def changes(
    request: Request,
    served: Served,
    _key: Viewer,
    size: PageSize = PAGE_SIZE,
    token: PageToken = None,
    since_ms: Annotated[int, Query(ge=0, le=TIME_MS_MAX, description="Only changes from this instant on.")] = 0,
    entity_kind: Annotated[Kind | None, Query(description="Only changes to entities of this kind.")] = None,
    actor: Annotated[
        str | None, Query(max_length=TEXT_CHARS_MAX, description="Only changes by this actor, such as `key:me`.")
    ] = None,
) -> Response:
    """List every write of every entity, oldest first: who, when, before and after."""
    known_parameters(request, {"page_size", "page_token", "since_ms", "entity_kind", "actor"})
    limit = page_size(size, served.config.page_size_max)
    filters = {"kind": entity_kind and entity_kind.value, "actor": actor}
    wanted = {name: value for name, value in filters.items() if value is not None}
    with served.reads() as session:
        found = list_changes(session, wanted, since_ms, decode_token(_SCOPE, token), limit + 1)
    return JsonResponse(page(_SCOPE, found, limit, attrgetter("number")))
