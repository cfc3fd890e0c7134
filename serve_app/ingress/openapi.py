"""The OpenAPI document: bodies, streams and errors of routes that handle their JSON by themselves."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from serve_app.ingress.errors import has_anthropic_errors
from serve_app.ingress.fields.error import AnthropicErrorReply, ErrorReply
from serve_app.ingress.fields.strict_model import RequestBody

_ERRORS: Final = {
    400: "The request can't be parsed, is not supported, or its picture or length is refused.",
    401: "The credentials are missing, wrong or expired.",
    403: "The credentials do not have the scope of this route.",
    404: "The model is not served here.",
    413: "The body is larger than the limit.",
    415: "The body is compressed, or is not a multipart form.",
    429: "The caller has exceeded its rate limit; Retry-After has the seconds to wait.",
    500: "The service failed on this request.",
    503: "The service is at its limit of work, or is not ready; Retry-After has the seconds to wait.",
    504: "The answer was not ready in time.",
}
BOUNDS: Final = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_REQUEST_ID: Final = {"X-Request-ID": _header("The request's own id, or a new one; the log has it too.")}
_SERVER_TIMING: Final = {"Server-Timing": _header("Milliseconds of each stage known when the headers were sent.")}
_CACHE: Final = {"X-Cache": _header("`hit` or `miss`, where the answer cache was asked (docs/answer-cache.md).")}
_RETRY_AFTER: Final = {"Retry-After": _header("Seconds to wait before the next try.", "integer")}
_LANGUAGE: Final = {"Content-Language": _header("Language of `message`: `zh` if Accept-Language prefers it, or `en`.")}
_ALLOW: Final = {"Allow": _header("With 405: the methods of this path.")}

SECURITY_SCHEMES: Final[dict[str, dict[str, str]]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JSON Web Token."},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key", "description": "An API key."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}

_referenced: dict[str, Any] = {}  # models by schema name; FastAPI does not know those of openapi_extra


def reference(model: Any) -> dict[str, str]:
    """A reference to the model's schema, which the document then contains."""
    _referenced[model.__name__] = model
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def json_body(*models: type[RequestBody], examples: Mapping[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its JSON body by itself."""
    schemas = [reference(model) for model in models]
    return body("application/json", schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, examples)


def body(media_type: str, schema: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    content = {media_type: {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


def _error(description: str, error: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": reference(error)}}}


def error_responses(
    *statuses: int, content: Mapping[str, Any] | None = None, error: Any = ErrorReply
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with these statuses; `content` where success is not JSON."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {
            **_error(_ERRORS[status], error),
            "headers": {**_REQUEST_ID, **_LANGUAGE, **(_RETRY_AFTER if status in (429, 503) else {})},
        }
        for status in statuses
    }
    documented[200] = {"headers": _REQUEST_ID, **({"content": content} if content else {})}
    documented["default"] = {
        **_error("Any other error, in the same format.", error),
        "headers": {**_REQUEST_ID, **_LANGUAGE, **_ALLOW},
    }
    return documented


def answer_responses(
    *chunks: Any, last: str | None = None, errors: tuple[int, ...] = (), error: Any = ErrorReply
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with JSON or with a stream of these chunks and the text `last`."""
    return {
        **error_responses(400, 404, 413, 429, 500, 503, 504, *errors, error=error),
        200: {
            "description": "The answer; with `stream` its pieces, as they are generated.",
            "headers": {**_REQUEST_ID, **_SERVER_TIMING, **_CACHE},
            "content": {"text/event-stream": {"schema": _event((*chunks, error), last)}},
        },
    }


def _event(chunks: Sequence[Any], last: str | None) -> dict[str, Any]:
    """One server-sent event, as OpenAPI 3.1's tools and 3.2 describe it: its fields, and the schema of its data."""
    shapes = {"anyOf": [reference(chunk) for chunk in chunks]}
    payload = {"type": "string", "contentMediaType": "application/json", "contentSchema": shapes}
    return {
        "type": "object",
        "description": "One event.",
        "properties": {
            "event": {"type": "string"},
            "data": payload if last is None else {"anyOf": [{"const": last}, payload]},
        },
        "required": ["data"],
    }


def complete_openapi(
    app: FastAPI, *, served: str, max_choices: int, public_paths: Container[str], anonymous: bool
) -> None:
    """Makes `app.openapi` add the referenced schemas, the model's name, the service's limits and security.

    `anonymous`: requests without credentials are accepted.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = app.openapi_schema
        if document is None:
            document = generate()
            schemas = document["components"]["schemas"]
            bodies = {name for name, model in _referenced.items() if issubclass(model, BaseModel)}
            inputs = [
                (model, "validation" if name in bodies else "serialization", TypeAdapter(model))
                for name, model in _referenced.items()
            ]
            _, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
            schemas.update(definitions["$defs"])
            _rename_bounds(schemas)
            for name in bodies:
                _fill_in(schemas[name]["properties"], served, max_choices)
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
            security: list[dict[str, list[str]]] = [{scheme: []} for scheme in SECURITY_SCHEMES]
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    if path not in public_paths:
                        operation["security"] = [*([{}] if anonymous else []), *security]
                        error = AnthropicErrorReply if has_anthropic_errors(path) else ErrorReply
                        refusals = error_responses(401, 403, error=error)
                        operation["responses"] |= {str(status): refusals[status] for status in (401, 403)}
                    for parameter in operation.get("parameters", ()):
                        parameter["example"] = served
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _rename_bounds(schema: Any) -> None:
    """Gives bounds their names in JSON Schema: pydantic leaves its own beside a validator that runs before."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _rename_bounds(part)
    if isinstance(schema, dict):
        for name, keyword in BOUNDS.items():
            if isinstance(schema.get(name), int | float):
                schema[keyword] = schema.pop(name)


def _fill_in(properties: dict[str, Any], served: str, max_choices: int) -> None:
    properties["model"]["examples"] = [served]
    for kind in properties.get("n", {}).get("anyOf", ()):
        if kind["type"] == "integer":
            kind["maximum"] = max_choices
