"""The API reference, made from the endpoint table: Markdown, OpenAPI 3.1 for HTTP, AsyncAPI 3.0 for notifications.

Imported only when somebody asks for one of them.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from moonfast.api.endpoint import Endpoint, Notification
from moonfast.api.params import Parameter
from moonfast.vocab import Access, Transport, Verb

Schema = dict[str, Any]

_SIMPLE: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    dict: {"type": "object"},
    list: {"type": "array"},
    type(None): {"type": "null"},
}
ERROR_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "data": {}},
            "required": ["code", "message"],
        }
    },
    "required": ["error"],
}


def schema_of(annotation: Any) -> Schema:
    """JSON Schema of a type; an empty one, which admits anything, for what is passed through."""
    if annotation in _SIMPLE:
        return dict(_SIMPLE[annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(item) for item in arguments]}
    if is_typeddict(annotation):
        hints = get_type_hints(annotation)
        found: Schema = {"type": "object", "properties": {name: schema_of(hint) for name, hint in hints.items()}}
        required = sorted(annotation.__required_keys__)
        return found | ({"required": required} if required else {})
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"enum": [item.value for item in annotation]}
    return {}


def parameter_schema(item: Parameter) -> Schema:
    found = schema_of(item.annotation)
    if item.meta.minimum is not None:
        found["minimum"] = item.meta.minimum
    if item.meta.maximum is not None:
        found["maximum"] = item.meta.maximum
    if not item.is_required and item.default is not None:
        found["default"] = item.default
    if item.meta.doc:
        found["description"] = item.meta.doc
    return found


def _arguments_schema(endpoint: Endpoint) -> Schema:
    items = endpoint.parameters.items
    found: Schema = {"type": "object", "properties": {item.name: parameter_schema(item) for item in items}}
    required = [item.name for item in items if item.is_required]
    return found | ({"required": required} if required else {})


def openapi(endpoints: Iterable[Endpoint], version: str) -> Schema:
    """What is there over HTTP. Klippy's own endpoints are in it while Klippy is connected."""
    paths: dict[str, Schema] = {}
    for endpoint in sorted(endpoints, key=lambda item: item.path or ""):
        if endpoint.path is None or not endpoint.transports & Transport.HTTP:
            continue
        for verb in endpoint.verb:
            paths.setdefault(endpoint.path, {})[(verb.name or "").lower()] = _operation(endpoint, verb)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "moonfast",
            "version": version,
            "description": "Every path with a JSON-RPC method of the same meaning names it in x-jsonrpc-method.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": ERROR_SCHEMA}},
    }


def _operation(endpoint: Endpoint, verb: Verb) -> Schema:
    summary, _, rest = endpoint.doc.partition("\n")
    result = schema_of(endpoint.result)
    if endpoint.is_wrapped:
        result = {"type": "object", "properties": {"result": result}, "required": ["result"]}
    found: Schema = {
        "operationId": f"{(verb.name or '').lower()}{(endpoint.path or '').replace('/', '_').translate(_BRACES)}",
        "summary": summary,
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": result}}},
            "default": {
                "description": "An error; the code is the HTTP status",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if rest.strip():
        found["description"] = rest.strip()
    if endpoint.rpc_name is not None:
        found["x-jsonrpc-method"] = endpoint.rpc_name
    in_path = [item for item in endpoint.parameters.items if f"{{{item.name}}}" in (endpoint.path or "")]
    if endpoint.parameters.items and (in_path or verb is Verb.GET):
        found["parameters"] = [
            {
                "name": item.name,
                "in": "path" if item in in_path else "query",
                "required": item.is_required,
                "schema": parameter_schema(item),
            }
            for item in endpoint.parameters.items
        ]
    elif endpoint.receiver is not None:
        found["requestBody"] = {"content": {"multipart/form-data": {"schema": {"type": "object"}}}}
    elif endpoint.parameters and verb is not Verb.GET:
        found["requestBody"] = {"content": {"application/json": {"schema": _arguments_schema(endpoint)}}}
    return found


_BRACES = str.maketrans("", "", "{}")


def asyncapi(notifications: Iterable[Notification], version: str) -> Schema:
    """What the server sends by itself on `/websocket` and the Unix socket."""
    messages = {}
    for item in sorted(notifications, key=lambda item: item.method):
        params: Schema = {} if item.payload is None else {"params": {"type": "array", "items": schema_of(item.payload)}}
        messages[item.method] = {
            "name": item.method,
            "summary": item.doc,
            "payload": {
                "type": "object",
                "properties": {"jsonrpc": {"const": "2.0"}, "method": {"const": item.method}, **params},
                "required": ["jsonrpc", "method", *params],
            },
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "moonfast notifications", "version": version},
        "channels": {"websocket": {"address": "/websocket", "messages": messages}},
        "operations": {"notify": {"action": "send", "channel": {"$ref": "#/channels/websocket"}}},
    }


def markdown(endpoints: Iterable[Endpoint], notifications: Iterable[Notification]) -> dict[str, str]:
    """File name -> text, for docs/api/."""
    groups: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        if not endpoint.is_remote:
            groups.setdefault(_group(endpoint), []).append(endpoint)
    files = {f"{name}.md": _page(name, groups[name]) for name in sorted(groups)}
    files["notifications.md"] = _notification_page(notifications)
    index = "".join(f"- [{name.removesuffix('.md')}]({name})\n" for name in sorted(files))
    files["README.md"] = f"# API reference\n\n{_NOTE}\n{_CONVENTIONS}\n{index}"
    return files


_NOTE = "<!-- Written by `python -m moonfast.reference`; do not edit. -->\n"
_CONVENTIONS = """\
Over HTTP, arguments come in the query string, a form or a JSON object; the answer is `{"result": ...}`, or
`{"error": {"code": ..., "message": ...}}` with the same code as HTTP status. In a query string `name:int=`, `:float=`,
`:bool=` and `:json=` say what a value is. Over JSON-RPC (WebSocket `/websocket`, the Unix socket, `POST
/server/jsonrpc`) the same arguments are `params`; status 404 becomes -32601 and 401 becomes -32602.

`GET /server/openapi.json` and `GET /server/asyncapi.json` give this reference for programs.
"""


def _group(endpoint: Endpoint) -> str:
    if endpoint.path is None:
        return "connection"
    parts = endpoint.path.strip("/").split("/")
    if parts[0] == "api":
        return "octoprint"
    return parts[1] if parts[0] == "server" and len(parts) > 2 else parts[0]  # `/server/files/list`: files


def _page(name: str, endpoints: list[Endpoint]) -> str:
    ordered = sorted(endpoints, key=lambda item: (item.path or item.rpc_name or "", item.verb.value))
    return f"# {name}\n\n{_NOTE}\n" + "\n".join(_section(endpoint) for endpoint in ordered)


def _section(endpoint: Endpoint) -> str:
    title = f"{' or '.join(endpoint.verb.names())} {endpoint.path}" if endpoint.path else endpoint.rpc_name
    lines = [f"## {title}", "", endpoint.doc, ""]
    if endpoint.path is not None and endpoint.rpc_name is not None:
        lines += [f"JSON-RPC: `{endpoint.rpc_name}`", ""]
    ways = [way.name.lower() for way in endpoint.transports if way.name and way is not Transport.INTERNAL]
    if endpoint.transports != Transport.ALL:
        lines += [f"Only over: {', '.join(ways)}", ""]
    if not endpoint.is_wrapped:
        lines += ["Over HTTP the answer is the result itself, without `result` around it.", ""]
    if endpoint.access is Access.OPEN:
        lines += ["Needs no rights.", ""]
    if endpoint.parameters.items:
        lines += ["| argument | type | default |", "|---|---|---|"]
        for item in endpoint.parameters.items:
            default = "required" if item.is_required else f"`{json.dumps(item.default)}`"
            lines.append(f"| `{item.name}` | {item.expected} | {default} |")
        lines.append("")
    result = schema_of(endpoint.result)
    if result:
        lines += ["Result:", "", "```json", json.dumps(_example(result), indent=2), "```", ""]
    return "\n".join(lines)


def _example(schema: Schema) -> Any:
    """The shape of a value, for people."""
    if "enum" in schema:
        return " | ".join(str(item) for item in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(str(_example(item)) for item in schema["anyOf"])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        return {name: _example(item) for name, item in schema["properties"].items()}
    if kind == "object":
        return {"...": _example(schema.get("additionalProperties", {}))}
    if kind == "array":
        return [_example(schema.get("items", {}))]
    return kind or "any"


def _notification_page(notifications: Iterable[Notification]) -> str:
    lines = ["# Notifications", "", _NOTE, "What the server sends by itself on WebSockets and on the Unix socket.", ""]
    for item in sorted(notifications, key=lambda item: item.method):
        lines += [f"## {item.method}", "", item.doc, ""]
        if item.payload is None:
            lines += ["No parameters.", ""]
        else:
            lines += ["```json", json.dumps([_example(schema_of(item.payload))], indent=2), "```", ""]
    return "\n".join(lines)
