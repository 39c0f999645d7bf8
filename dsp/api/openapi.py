"""The OpenAPI 3.1 document: schemas from the very structs that requests are checked against, and words for people."""

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from dsp.api.batch import BatchAction
from dsp.api.context import IDEMPOTENCY_KEY, IF_MATCH
from dsp.api.delivery import DeliveryReport
from dsp.api.errors import MEDIA_TYPE, Problem
from dsp.api.explain import RequestReport
from dsp.api.sheet import ReportFormat
from dsp.api.spend import SpendDimension, SpendReport
from dsp.api.wording import ACTIONS, DESCRIPTION, FIELDS, KINDS, PROBLEMS, TAGS
from dsp.catalog.kinds import Kind
from dsp.catalog.status import Status
from dsp.catalog.validate import BOUNDS, READ_ONLY
from dsp.store.catalog import Change
from dsp.store.changes import EntityChange
from dsp.store.keys import ApiKey

_REF = "#/components/schemas/"
_JSON = "application/json"
#: Objects within entities; a patch merges into them.
_MERGED = ("Budget", "Flight", "Goal", "Targeting", "Clause")


def schema_name(kind: Kind) -> str:
    """Return the name of a kind's schema, such as `LineItem`."""
    return kind.entity.__name__


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema."""
    return {"$ref": f"{_REF}{name}"}


def content(schema: dict[str, Any], media_type: str = _JSON) -> dict[str, Any]:
    """Return the `content` of a body with this schema."""
    return {media_type: {"schema": schema}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the responses that refuse, each a problem document."""
    return {
        status: {"description": PROBLEMS[status], "content": content(ref("Problem"), MEDIA_TYPE)}
        for status in sorted({401, 403, 422, 429, 503, *statuses})
    }


def operation(kind: Kind, name: str) -> dict[str, Any]:
    """Return what FastAPI is told of one endpoint of a kind beside its path and function."""
    words, plural = kind.words, kind.plural.replace("_", " ")
    entity = schema_name(kind)
    summary, description = ACTIONS[name]
    answer = {"list": f"{entity}Page", "versions": "ChangePage", "batch": f"{entity}List"}.get(name, entity)
    success = 201 if name == "create" else 200
    refused = {
        "create": (400, 409, 413, 415),
        "list": (),
        "read": (404,),
        "versions": (404,),
        "update": (400, 404, 409, 412, 413, 415, 428),
        "batch": (400, 409, 413, 415),
    }.get(name, (400, 404, 409, 412))
    made: dict[str, Any] = {
        "operation_id": f"{name}_{kind.plural if name == 'list' else kind}",
        "summary": summary.format(one=words, many=plural),
        "description": description.format(one=words, many=plural),
        "tags": [plural],
        "status_code": success,
        "responses": {success: _success(name, answer), **problems(*refused)},
        "openapi_extra": {"parameters": _parameters(kind, name)},
    }
    if name in ("create", "update", "batch"):
        schema = f"{entity}{name.capitalize()}"
        # Changes may be `application/merge-patch+json` as well; of two types, client generators make code that fails.
        made["openapi_extra"]["requestBody"] = {"required": True, "content": content(ref(schema))}
    return made


def install(app: FastAPI) -> None:
    """Make the application serve the document, built once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS
            )
            components = made.setdefault("components", {})
            # FastAPI's own error model is not what we answer with.
            components["schemas"] = _schemas()
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _success(name: str, schema: str) -> dict[str, Any]:
    made: dict[str, Any] = {"description": "Done.", "content": content(ref(schema))}
    if name not in ("list", "versions", "batch"):
        made["headers"] = {"ETag": _header("The entity's version, for `If-Match`.")}
    if name == "create":
        made["headers"]["Location"] = _header("Where the entity is.")
    return made


def _header(description: str, **schema: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


def _parameters(kind: Kind, name: str) -> list[dict[str, Any]]:
    def header(field: str, required: bool, pattern: str, description: str) -> dict[str, Any]:
        return {"name": field, "in": "header", "required": required, **_header(description, pattern=f"^({pattern})$")}

    made: list[dict[str, Any]] = []
    if name == "list":
        made += [
            {
                "name": f"{one}_id",
                "in": "query",
                "schema": {"type": "integer"},
                "description": f"Only those of this {one.words}.",
            }
            for one in kind.ancestors
        ]
    if name == "update":
        made.append(header("If-Match", True, IF_MATCH, "The ETag the change is based on, or `*`."))
    elif name in ("activate", "pause", "archive"):
        made.append(
            header("If-Match", False, IF_MATCH, "The ETag the change is based on; without it any version will do.")
        )
    if name not in ("list", "read", "versions"):
        description = "A value of your choice: a repetition within 24 hours gets the first answer and does nothing."
        made.append(header("Idempotency-Key", False, IDEMPOTENCY_KEY, description))
    return made


def _schemas() -> dict[str, Any]:
    shown_types = [
        ApiKey,
        BatchAction,
        Change,
        DeliveryReport,
        EntityChange,
        Problem,
        Status,
        ReportFormat,
        RequestReport,
        SpendDimension,
        SpendReport,
    ]
    _, components = msgspec.json.schema_components(
        [*(kind.entity for kind in Kind), *shown_types], ref_template=_REF + "{name}"
    )
    for name, schema in components.items():
        _describe(name, schema)
    components["Targeting"]["properties"]["clauses"]["propertyNames"] = ref("Dimension")
    schemas: dict[str, Any] = dict(components)
    for kind in Kind:
        name = schema_name(kind)
        entity = components[name]
        schemas[f"{name}Create"] = _create(entity, f"{KINDS[kind]} It begins as a draft.")
        schemas[f"{name}Update"] = _update(entity)
        shown = dict(entity["properties"]) | {
            "effective_status": ref("Status") | {"description": FIELDS["effective_status"]}
        }
        required = [*READ_ONLY, *(field for field in shown if field not in READ_ONLY)]
        schemas[name] = {**entity, "description": KINDS[kind], "properties": shown, "required": required}
        schemas[f"{name}Page"] = _page(ref(name))
        schemas[f"{name}List"] = _items("The entities after the writes, in their order.", ref(name))
        schemas[f"{name}Batch"] = _batch(name)
    schemas |= {f"{name}Update": _update(components[name]) for name in _MERGED}
    schemas |= {f"{name}Page": _page(ref(name)) for name in ("Change", "DeliveryReport", "EntityChange")}
    schemas["ApiKeyList"] = _items("Every key, oldest first.", ref("ApiKey"))
    return schemas


def _describe(name: str, schema: dict[str, Any]) -> None:
    for field, value in schema.get("properties", {}).items():
        words = FIELDS.get(f"{name}.{field}", FIELDS.get(field))
        if words is not None:
            value["description"] = words
        if (bounds := BOUNDS.get((name, field))) is not None:
            number = value.get("anyOf", [value])[0]
            number |= {"minimum": bounds.low, "maximum": bounds.high}


def _create(entity: dict[str, Any], description: str) -> dict[str, Any]:
    properties = {name: schema for name, schema in entity["properties"].items() if name not in READ_ONLY}
    required = [name for name in entity["required"] if name not in READ_ONLY]
    return _object(description, properties, required)


def _object(description: str, properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """Return the schema of an object of a request, which has no other properties."""
    made = {"type": "object", "description": description, "properties": properties, "additionalProperties": False}
    return made | ({"required": list(required)} if required else {})


def _update(entity: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a merge patch of an entity or of an object in one."""
    properties = {name: _nullable(schema) for name, schema in entity["properties"].items() if name not in READ_ONLY}
    return _object("What to change (RFC 7396): null resets a field, lists are replaced.", properties)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    bare = {key: value for key, value in schema.items() if key not in ("description", "default")}
    choices = bare.get("anyOf", [_mergeable(bare)])
    nullable = [*choices, *([] if {"type": "null"} in choices else [{"type": "null"}])]
    return {"anyOf": nullable} | ({"description": schema["description"]} if "description" in schema else {})


def _mergeable(schema: dict[str, Any]) -> dict[str, Any]:
    """Point from an object to the patch of it."""
    if "additionalProperties" in schema and isinstance(schema["additionalProperties"], dict):
        return schema | {"additionalProperties": _nullable(schema["additionalProperties"])}
    name = schema.get("$ref", "").removeprefix(_REF)
    return ref(f"{name}Update") if name in _MERGED else schema


def _batch(name: str) -> dict[str, Any]:
    entity_id = {"type": ["integer", "null"], "description": "Of which entity; of all but a creation."}
    version = {"type": ["integer", "null"], "description": "The version it is based on; without it any will do."}
    fields = {
        "description": f"What to change; to create, all that `{name}Create` requires; for nothing else.",
        **ref(f"{name}Update"),
    }
    properties = {"action": ref("BatchAction"), "id": entity_id, "version": version, "fields": fields}
    operation = _object("One write.", properties, ("action",))
    operations = {"type": "array", "minItems": 1, "items": operation}
    return _object("Writes to make in this order.", {"operations": operations}, ("operations",))


def _items(description: str, item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": {"items": {"type": "array", "items": item}},
        "required": ["items"],
    }


def _page(item: dict[str, Any]) -> dict[str, Any]:
    made = _items("One page of a list.", item)
    made["properties"]["next_page_token"] = {
        "type": ["string", "null"],
        "description": "Give it as `page_token` for the next page; null on the last.",
    }
    made["required"].append("next_page_token")
    return made
