"""The OpenAPI document, with the bodies and streams that routes handle by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from serve_app.ingress.fields.error import ErrorReply
from serve_app.ingress.fields.strict_model import Body

_ERRORS: Final = {
    400: "The request can't be understood, is not supported, or its picture or length is refused.",
    404: "The model is not served here.",
    413: "The body is larger than the limit.",
    415: "The body is not a multipart form.",
    429: "The caller used up its allowance; Retry-After says when to come back.",
    500: "The service failed on this request.",
    503: "The service has as much work as it accepts, or is not ready; Retry-After says when to come back.",
    504: "The answer was not ready in time.",
}
_ANSWERED: Final = "The answer; with `stream` its pieces, as they are drawn."


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}}


_REQUEST_ID: Final = {"X-Request-ID": _header("The request's own id, or one made for it; the log has it too.")}
_SERVER_TIMING: Final = {"Server-Timing": _header("Milliseconds of each stage known when the headers went out.")}
_RETRY_AFTER: Final = {"Retry-After": _header("Seconds after which to come back.", "integer")}
_ALLOW: Final = {"Allow": _header("With 405: the methods that there are.")}


def reference(model: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def json_body(*models: type[Body], examples: Mapping[str, Any]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its JSON body by itself."""
    schemas = [reference(model) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def _failure(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": reference(ErrorReply)}}}


def errors_documented(*statuses: int, content: Mapping[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can fail with these statuses; `content` where success is not JSON."""
    documented: dict[int | str, dict[str, Any]] = {
        status: {
            **_failure(_ERRORS[status]),
            "headers": {**_REQUEST_ID, **(_RETRY_AFTER if status in (429, 503) else {})},
        }
        for status in statuses
    }
    documented[200] = {"headers": _REQUEST_ID, **({"content": content} if content else {})}
    documented["default"] = {
        **_failure("Any other failure, in the same shape."),
        "headers": {**_REQUEST_ID, **_ALLOW},
    }
    return documented


def answers_documented(
    *chunks: Any, last: str | None = None, errors: tuple[int, ...] = ()
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers whole or as a stream of these chunks and, at last, a bare word."""
    return {
        **errors_documented(400, 404, 413, 429, 500, 503, 504, *errors),
        200: {
            "description": _ANSWERED,
            "headers": {**_REQUEST_ID, **_SERVER_TIMING},
            "content": {"text/event-stream": {"schema": _event(chunks, last)}},
        },
    }


def _event(chunks: Sequence[Any], last: str | None) -> dict[str, Any]:
    """One server-sent event, as OpenAPI 3.1's tools and 3.2 have it: its fields, and what the data is JSON of."""
    shapes = {"anyOf": [reference(chunk) for chunk in (*chunks, ErrorReply)]}
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


def complete(
    app: FastAPI, *, bodies: tuple[type[BaseModel], ...], chunks: tuple[Any, ...], served: str, max_choices: int
) -> None:
    """Makes `app.openapi` give the whole document, with what is particular to this service filled in."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = app.openapi_schema
        if document is None:
            document = generate()
            _, definitions = TypeAdapter.json_schemas(
                [
                    *((body, "validation", TypeAdapter(body)) for body in bodies),
                    *((chunk, "serialization", TypeAdapter(chunk)) for chunk in (*chunks, ErrorReply)),
                ],
                ref_template="#/components/schemas/{model}",
            )
            document["components"]["schemas"].update(definitions["$defs"])
            for body in bodies:
                _fill_in(document["components"]["schemas"][body.__name__]["properties"], served, max_choices)
            _name_the_model(document, served)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _fill_in(properties: dict[str, Any], served: str, max_choices: int) -> None:
    properties["model"]["examples"] = [served]
    for kind in properties.get("n", {}).get("anyOf", ()):
        if kind["type"] == "integer":
            kind["maximum"] = max_choices


def _name_the_model(document: dict[str, Any], served: str) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["example"] = served
