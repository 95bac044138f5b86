"""The page that shows the documents: HTML without a script's help, every text escaped."""

import json
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

# Bounds of a JSON Schema, as readers know them.
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches {}",
    "default": "default {}",
}
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>csm-trio API</title>
<link rel="stylesheet" href="docs/{version}/docs.css">
<script src="docs/{version}/docs.js" defer></script>
</head>
<body>
<header>
<h1>csm-trio API</h1>
<p>{about} <a href="openapi.json">openapi.json</a>, <a href="asyncapi.json">asyncapi.json</a></p>
</header>
"""

Document = Mapping[str, Any]


def docs_page(openapi: Document, asyncapi: Document, *, version: str) -> str:
    """Return the page; `version` is that of its files."""
    parts = [
        _HEAD.format(version=escape(version), about=escape(openapi["info"]["description"])),
        *_contents(openapi, asyncapi),
        "<main>",
        *(part for found in operations(openapi) for part in _operation(*found)),
        *(part for name, one in asyncapi["channels"].items() for part in _socket(name, one)),
        "<section><h2>Forms of errors</h2>",
        *(_error_form(*found) for found in openapi["components"]["schemas"].items()),
        "</section>",
        f"<h2>Errors on sockets</h2><p>{escape(asyncapi['info']['description'])}</p>",
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def operations(openapi: Document) -> Iterator[tuple[str, str, Document]]:
    """Yield the path, the method and the object of every operation."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _contents(openapi: Document, asyncapi: Document) -> Iterator[str]:
    yield '<nav aria-label="Endpoints">'
    for tag in openapi["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2><ul>"
        for path, method, operation in operations(openapi):
            if tag["name"] in operation["tags"]:
                yield _link(operation["operationId"], f"{method} {path}")
        yield "</ul>"
    yield "<h2>sockets</h2><ul>"
    for name, channel in asyncapi["channels"].items():
        yield _link(name, f"WS {channel['address']}")
    yield "</ul></nav>"


def _link(anchor: str, text: str) -> str:
    return f'<li><a href="#{escape(anchor)}">{escape(text)}</a></li>'


def _operation(path: str, method: str, operation: Document) -> Iterator[str]:
    anchor = escape(operation["operationId"])
    yield f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    yield f'<h2 id="{anchor}-title">{method} {escape(path)}</h2>'
    yield f"<p>{escape(operation['summary'])}</p>"
    yield f'<pre tabindex="0">{escape(curl(path, method, operation))}</pre>'
    parameters = {one["name"]: one["schema"] | _about(one) for one in operation["parameters"]}
    required = [one["name"] for one in operation["parameters"] if one.get("required")]
    if parameters:
        yield _table("Parameters", {"properties": parameters, "required": required})
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield _table(f"Body, {content_type}", content["schema"])
    yield "<h3>Answers</h3><dl>"
    for status, answer in operation["responses"].items():
        yield f"<dt>{escape(status)}</dt><dd>{escape(answer['description'])}"
        yield from _contents_of(answer)
        yield "</dd>"
    yield "</dl></section>"


def _about(parameter: Document) -> dict[str, str]:
    return {"description": parameter["description"]} if "description" in parameter else {}


def _contents_of(answer: Document) -> Iterator[str]:
    types = ", ".join(answer["content"])
    yield f' <span class="types">{escape(types)}</span>'
    schemas = [content["schema"] for content in answer["content"].values() if content["schema"]]
    for schema in schemas[:1]:
        refs = [part["$ref"] for part in (schema, *schema.get("anyOf", ())) if "$ref" in part]
        if refs:
            names = [ref.rpartition("/")[2] for ref in refs]
            yield " or ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
        else:
            yield _schema_text("Schema", schema)


def _schema_text(title: str, schema: Document) -> str:
    text = escape(json.dumps(schema, indent=1, ensure_ascii=False))
    return f'<details><summary>{escape(title)}</summary><pre tabindex="0">{text}</pre></details>'


def _error_form(name: str, schema: Document) -> str:
    return f'<div id="{escape(name)}">{_schema_text(name, schema)}</div>'


def _socket(name: str, channel: Document) -> Iterator[str]:
    anchor = escape(name)
    yield f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
    yield f'<h2 id="{anchor}-title">WS {escape(channel["address"])}</h2>'
    yield f"<p>{escape(channel['description'])}</p>"
    yield _table("Query", channel["bindings"]["ws"]["query"])
    for title, message in channel["messages"].items():
        if title == "message":
            yield _table("Message in", message["payload"])
        else:
            yield _schema_text(f"Message out: {message['summary']}", message["payload"])
    yield "</section>"


def _table(title: str, schema: Document) -> str:
    required = schema.get("required", [])
    rows = [_row(name, one, name in required) for name, one in _members(schema)]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("name", "value", "meaning"))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
        f"<caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _members(schema: Document, within: str = "") -> Iterator[tuple[str, Document]]:
    """Yield the members of an object, and those of the objects in it by their paths."""
    for name, one in schema.get("properties", {}).items():
        yield within + name, one
        for inner in (one, one.get("items", {})):
            yield from _members(inner, f"{within}{name}.")


def _row(name: str, schema: Document, required: bool) -> str:
    value = "; ".join(_value(schema))
    need = " (required)" if required else ""
    return (
        f'<tr><th scope="row"><code>{escape(name)}</code>{need}</th>'
        f"<td>{escape(value)}</td><td>{escape(schema.get('description', ''))}</td></tr>"
    )


def _value(schema: Document) -> Iterator[str]:
    kinds = [part for part in (schema, *schema.get("anyOf", ())) if part.get("type") != "null"]
    for kind in kinds:
        if "enum" in kind:
            yield ", ".join(map(str, kind["enum"]))
        elif "type" in kind:
            names = [kind["type"]] if isinstance(kind["type"], str) else kind["type"]
            yield " or ".join(one for one in names if one != "null")
        for name, text in _BOUNDS.items():
            if name in kind:
                yield text.format(json.dumps(kind[name]).strip('"'))


def curl(path: str, method: str, operation: Document) -> str:
    """Return a command that calls an operation, with the examples of its document."""
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            schema = parameter["schema"]
            value = (schema.get("examples") or schema.get("enum") or ["ID"])[0]
            path = path.replace(f"{{{parameter['name']}}}", value)
    words = ["curl", "-s"] if method == "GET" else ["curl", "-s", "-X", method]
    line = f'{shlex.join(words)} "$SERVER{path}"'
    if "security" in operation:
        line += ' -H "xi-api-key: $KEY"'
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        example = content["application/json"].get("example", {})
        line += f" --json {shlex.quote(json.dumps(example))}"
    form = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    line += "".join(_form_part(name, schema) for name, schema in form.items())
    types = operation["responses"].get("200", {}).get("content", {})
    return f"{line} -o audio" if any(name.startswith("audio/") for name in types) else line


def _form_part(name: str, schema: Document) -> str:
    if schema.get("items", {}).get("format") == "binary":
        return f" -F {name}=@clip.wav"
    if name == "transcript":
        return f" -F {name}=…"
    return f" -F {name}=NAME" if name == "name" else ""
