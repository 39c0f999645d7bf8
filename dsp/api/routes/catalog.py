"""/v1/{kind}: one set of endpoints for every kind of entity."""

from collections.abc import Callable, Sequence
from http import HTTPStatus
from operator import attrgetter, itemgetter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response

from dsp.api.batch import STATUSES, apply, operations
from dsp.api.context import (
    Body,
    Client,
    Member,
    Served,
    Services,
    Viewer,
    decode_object,
    fingerprint,
    idempotency_key,
    known_parameters,
    version_wanted,
)
from dsp.api.errors import RequestError
from dsp.api.json import JsonResponse
from dsp.api.openapi import operation
from dsp.api.pages import (
    ID_DIGITS_MAX,
    PAGE_SIZE,
    PageSize,
    PageToken,
    decode_token,
    entity_id,
    page,
    page_size,
)
from dsp.catalog.kinds import Entity, Kind
from dsp.catalog.status import Status
from dsp.catalog.values import TEXT_CHARS_MAX
from dsp.kernel.errors import Fault, NotFoundError, ValidationError
from dsp.store.catalog import CatalogReader, CatalogRepository
from dsp.store.idempotency import Answer, AnswerBook
from dsp.store.keys import ApiKey

_LIST_PARAMETERS = frozenset({"page_size", "page_token", "status", "external_id", "name"})
_NONE = {"id": 0}  # what no entity has
_PAGE_PARAMETERS = frozenset({"page_size", "page_token"})


def router() -> APIRouter:
    """Return the endpoints of all kinds."""
    made = APIRouter(prefix="/v1")
    for kind in Kind:
        base, one = f"/{kind.path}", f"/{kind.path}/{{id}}"
        _add(made, kind, "create", "POST", base, _create(kind))
        _add(made, kind, "list", "GET", base, _list(kind))
        _add(made, kind, "read", "GET", one, _read(kind))
        _add(made, kind, "update", "PATCH", one, _update(kind))
        _add(made, kind, "versions", "GET", f"{one}/versions", _versions(kind))
        for action, status in STATUSES.items():
            _add(made, kind, action, "POST", f"{one}/{action}", _act(kind, status))
        _add(made, kind, "batch", "POST", f"{base}/batch", _batch(kind))
    return made


def _add(made: APIRouter, kind: Kind, name: str, method: str, path: str, endpoint: Callable[..., Response]) -> None:
    made.add_api_route(path, endpoint, methods=[method], **operation(kind, name))


def _create(kind: Kind) -> Callable[..., Response]:
    def create(request: Request, served: Served, key: Member, body: Body) -> Response:
        fields = decode_object(body)

        def work(repository: CatalogRepository) -> Answer:
            entity = repository.create(kind, fields)
            location = f"{request.scope.get('root_path', '')}/v1/{kind.path}/{entity.id}"
            return _answer(repository, kind, entity, HTTPStatus.CREATED, {"Location": location})

        return _once(request, served, key, body, work)

    return create


def _list(kind: Kind) -> Callable[..., Response]:
    def list_(
        request: Request,
        served: Served,
        key: Client,
        size: PageSize = PAGE_SIZE,
        token: PageToken = None,
        status: Annotated[Status | None, Query(description="Only entities set to this status.")] = None,
        external_id: Annotated[
            str | None, Query(max_length=TEXT_CHARS_MAX, description="Only the entity with this external id.")
        ] = None,
        name: Annotated[
            str,
            Query(
                max_length=TEXT_CHARS_MAX,
                description="Only entities whose name contains this; the case of letters A to Z does not matter.",
            ),
        ] = "",
    ) -> Response:
        filters: dict[str, Any] = {"status": status and status.value, "external_id": external_id}
        owners = [f"{one}_id" for one in kind.ancestors]
        filters |= {name: _id_filter(request, name) for name in owners}
        known_parameters(request, _LIST_PARAMETERS.union(owners))
        wanted = _limited(kind, key, {name: value for name, value in filters.items() if value is not None})
        limit = page_size(size, served.config.page_size_max)
        with served.reads() as session:
            reader = CatalogReader(session)
            found = reader.list(kind, wanted, decode_token(kind, token), limit + 1, name)
            shown = _shown(reader, kind, found)
        return JsonResponse(page(kind, shown, limit, itemgetter("id")))

    return list_


def _read(kind: Kind) -> Callable[..., Response]:
    def read(id: str, request: Request, served: Served, key: Client) -> Response:
        known_parameters(request, frozenset())
        number = entity_id(kind, id)
        with served.reads() as session:
            reader = CatalogReader(session)
            if key.advertiser_id is not None and not reader.list(kind, _limited(kind, key, {"id": number})):
                raise NotFoundError(f"there is no {kind.words} {number}")
            return _response(_answer(reader, kind, reader.get(kind, number)))

    return read


def _update(kind: Kind) -> Callable[..., Response]:
    def update(id: str, request: Request, served: Served, key: Member, body: Body) -> Response:
        version = version_wanted(request.headers, required=True)
        fields = decode_object(body)

        def work(repository: CatalogRepository) -> Answer:
            return _answer(repository, kind, repository.update(kind, entity_id(kind, id), fields, version))

        return _once(request, served, key, body, work)

    return update


def _versions(kind: Kind) -> Callable[..., Response]:
    def versions(
        id: str,
        request: Request,
        served: Served,
        _key: Viewer,
        size: PageSize = PAGE_SIZE,
        token: PageToken = None,
    ) -> Response:
        known_parameters(request, _PAGE_PARAMETERS)
        number, limit = entity_id(kind, id), page_size(size, served.config.page_size_max)
        scope = f"{kind}/{number}"
        with served.reads() as session:
            changes = CatalogReader(session).versions(kind, number, decode_token(scope, token), limit + 1)
        return JsonResponse(page(scope, changes, limit, attrgetter("version")))

    return versions


def _act(kind: Kind, status: Status) -> Callable[..., Response]:
    def act(id: str, request: Request, served: Served, key: Member, body: Body) -> Response:
        version = version_wanted(request.headers, required=False)
        if body.strip() and decode_object(body):
            raise ValidationError([Fault("", "the body must be empty")])

        def work(repository: CatalogRepository) -> Answer:
            return _answer(repository, kind, repository.set_status(kind, entity_id(kind, id), status, version))

        return _once(request, served, key, body, work)

    return act


def _batch(kind: Kind) -> Callable[..., Response]:
    def batch(request: Request, served: Served, key: Member, body: Body) -> Response:
        wanted = operations(decode_object(body), served.config.page_size_max)

        def work(repository: CatalogRepository) -> Answer:
            entities = _shown(repository, kind, apply(repository, kind, wanted))
            return Answer(status=HTTPStatus.OK, headers={}, body=msgspec.json.encode({"items": entities}))

        return _once(request, served, key, body, work)

    return batch


def _once(
    request: Request, served: Services, key: ApiKey, body: bytes, work: Callable[[CatalogRepository], Answer]
) -> Response:
    """Do a write, or repeat the answer it got when it was done before under the same Idempotency-Key."""
    known_parameters(request, frozenset())
    name, now_ms = idempotency_key(request.headers), served.clock.now_ms()
    with served.writes.begin() as session:
        repository = CatalogRepository(session, key.actor, now_ms)
        if name is None:
            return _response(work(repository))
        book = AnswerBook(session, key.id, now_ms, served.config.idempotency_seconds)
        mark = fingerprint(request, body)
        known = book.find(name, mark)
        if known is not None:
            return _response(known, {"Idempotency-Replayed": "true"})
        answer = work(repository)
        book.keep(name, mark, answer)
        return _response(answer)


def _answer(
    reader: CatalogReader,
    kind: Kind,
    entity: Entity,
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> Answer:
    body = msgspec.json.encode(_shown(reader, kind, [entity])[0])
    return Answer(status=status, headers={"ETag": f'"{entity.version}"', **(headers or {})}, body=body)


def _shown(reader: CatalogReader, kind: Kind, entities: Sequence[Entity]) -> list[dict[str, Any]]:
    """Return the entities as the API shows them: their fields, and the status they effectively have."""
    statuses = reader.effective_statuses(kind, entities)
    return [
        {**msgspec.to_builtins(entity), "effective_status": status.value}
        for entity, status in zip(entities, statuses, strict=True)
    ]


def _response(answer: Answer, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.body, answer.status, {**answer.headers, **(headers or {})}, "application/json")


def _limited(kind: Kind, key: ApiKey, filters: dict[str, Any]) -> dict[str, Any]:
    """Return filters that leave what a key may see: a client's, what is its advertiser's."""
    if key.advertiser_id is None:
        return filters
    if Kind.ADVERTISER not in (kind, *kind.ancestors):
        raise RequestError(HTTPStatus.FORBIDDEN, f"A client sees what is its advertiser's, and a {kind.words} is not.")
    name = "id" if kind is Kind.ADVERTISER else f"{Kind.ADVERTISER}_id"
    return filters | ({name: key.advertiser_id} if filters.get(name, key.advertiser_id) == key.advertiser_id else _NONE)


def _id_filter(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < ID_DIGITS_MAX):
        raise ValidationError([Fault(name, "must be an id")])
    return int(text)
