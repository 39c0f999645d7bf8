"""The OpenAPI document as one page for people, at /docs: no script, and nothing that is loaded from elsewhere.

Whoever reads it may hold a key that spends money, and the host may have no way out.
"""

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

_Schema = Mapping[str, Any]
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STYLE = """\
body { font: 15px/1.5 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: .5em 0; } td { border: 1px solid #ccc; padding: .2em .6em; }
td p { margin: 0; } code { background: #f2f2f2; } h2 { border-bottom: 1px solid #ccc; margin-top: 2em; }"""
_INLINE = ((re.compile(r"`([^`]+)`"), r"<code>\1</code>"), (re.compile(r"\*\*([^*]+)\*\*"), r"<b>\1</b>"))
_ITEM = re.compile(r"^\* ", re.MULTILINE)


def install(app: FastAPI) -> None:
    """Make the application serve the page."""

    @app.get("/docs", include_in_schema=False)
    def manual(request: Request) -> Response:
        return HTMLResponse(to_html(request.app.openapi()), headers=_HEADERS)


def to_html(document: _Schema) -> str:
    """Return the page of a document: its operations by tag, then its schemas."""
    title = f"{document['info']['title']} {document['info']['version']}"
    parts = [f"<h1>{escape(title)}</h1>", _text(document["info"]["description"])]
    places = [*(tag["name"] for tag in document["tags"]), "schemas"]
    parts.append(f"<p>{' · '.join(_link(name) for name in places)}</p>")
    for tag in document["tags"]:
        parts += [_heading(2, tag["name"]), _text(tag["description"])]
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(f"{method.upper()} {path}", operation))
    parts.append(_heading(2, "schemas"))
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [_heading(3, name), _text(schema.get("description", "")), _properties(schema)]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _operation(name: str, operation: _Schema) -> str:
    rows = [
        (f"{one['name']} ({one['in']})", _type(one["schema"]), one.get("required", False), one.get("description", ""))
        for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    rows += [("(body)", _bodies(body), body["required"], "")] if body else []
    answers = "".join(
        f"<tr><td>{status}</td><td>{_bodies(one)}</td><td>{_text(one['description'])}</td></tr>"
        for status, one in operation["responses"].items()
    )
    head = f"<h3><code>{escape(name)}</code> {escape(operation['summary'])}</h3>"
    return f"{head}{_text(operation.get('description', ''))}{_table(rows)}<table>{answers}</table>"


def _properties(schema: _Schema) -> str:
    required = schema.get("required", ())
    if "properties" not in schema:
        return f"<p>{_type(schema)}</p>"
    return _table(
        (name, _type(one), name in required, one.get("description", "")) for name, one in schema["properties"].items()
    )


def _table(rows: Iterable[tuple[str, str, bool, str]]) -> str:
    lines = [
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{'required' if required else ''}</td>"
        f"<td>{_text(words)}</td></tr>"
        for name, kind, required, words in rows
    ]
    return f"<table>{''.join(lines)}</table>"


def _bodies(body: _Schema) -> str:
    return " or ".join(f"{_type(one['schema'])} ({escape(media)})" for media, one in body.get("content", {}).items())


def _type(schema: _Schema) -> str:
    """Return what a value may be, with links to schemas that have a name."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return escape(", ".join(str(one) for one in schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(values := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(values)}"
    if "properties" in schema:
        return _properties(schema)
    types = schema.get("type", "anything")
    named = types if isinstance(types, str) else " or ".join(types)
    default = f", default {schema['default']}" if schema.get("default") not in (None, "") else ""
    return escape(named + default)


def _heading(level: int, name: str) -> str:
    return f'<h{level} id="{_place(name)}">{escape(name)}</h{level}>'


def _link(name: str) -> str:
    return f'<a href="#{_place(name)}">{escape(name)}</a>'


def _place(name: str) -> str:
    return name.replace(" ", "-")


def _text(markdown: str) -> str:
    """Return paragraphs, items and the two kinds of emphasis that our descriptions have."""
    paragraphs = []
    for paragraph in escape(markdown, quote=False).split("\n\n"):
        for pattern, html in _INLINE:
            paragraph = pattern.sub(html, paragraph)
        paragraphs.append(f"<p>{_ITEM.sub('</p><p>• ', paragraph)}</p>" if paragraph.strip() else "")
    return "".join(paragraphs)
