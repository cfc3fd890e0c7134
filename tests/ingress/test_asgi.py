"""The OpenAPI document says what the door does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app import __version__
from serve_app.ingress.asgi import system_fingerprint
from serve_app.ingress.schema import UNSUPPORTED, ChatBody
from serve_app.settings import ModelSettings
from tests.ingress.asking import OpenDoor, make_app

DOCUMENT: dict[str, Any] = make_app().openapi()
ERROR = {"$ref": "#/components/schemas/ErrorReply"}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def operation(path: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def test_the_document_names_the_service_and_its_version() -> None:
    assert DOCUMENT["info"]["title"] == "GLM Vision Serve"
    assert DOCUMENT["info"]["version"] == __version__


def test_every_route_is_documented() -> None:
    assert {path: list(methods) for path, methods in DOCUMENT["paths"].items()} == {
        "/v1/chat/completions": ["post"],
        "/v1/ask": ["post"],
        "/healthz": ["get"],
        "/readyz": ["get"],
        "/v1/models": ["get"],
        "/v1/models/{model}": ["get"],
        "/metrics": ["get"],
    }


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        *_, name = reference.split("/")
        assert reference == f"#/components/schemas/{name}"
        assert name in DOCUMENT["components"]["schemas"]


def test_every_error_is_documented_in_the_one_envelope() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for method in methods.values():
            for status, response in method["responses"].items():
                if status != "200":
                    assert response["content"]["application/json"]["schema"] == ERROR, (path, status)
    for path in ("/v1/chat/completions", "/v1/ask"):
        assert {"200", "400", "404", "413", "500", "503", "504"} <= set(operation(path, "post")["responses"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/ask"])
def test_answers_are_json_or_a_stream_of_events(path: str) -> None:
    content = operation(path, "post")["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}


def test_the_form_is_multipart_with_pictures_as_files() -> None:
    (kind,) = operation("/v1/ask", "post")["requestBody"]["content"]
    form = DOCUMENT["components"]["schemas"]["AskUpload"]
    assert kind == "multipart/form-data"
    assert form["required"] == ["question", "image"]
    assert form["properties"]["image"]["items"]["type"] == "string"


def test_every_field_that_chat_looks_at_is_documented() -> None:
    properties = DOCUMENT["components"]["schemas"]["ChatBody"]["properties"]
    assert set(properties) == {*ChatBody.model_fields, *UNSUPPORTED}
    assert DOCUMENT["components"]["schemas"]["ChatBody"]["additionalProperties"] is False


async def test_the_documented_example_works(door: OpenDoor) -> None:
    example = operation("/v1/chat/completions", "post")["requestBody"]["content"]["application/json"]["example"]
    assert (await door().post("/v1/chat/completions", json=example)).status_code == 200


async def test_the_document_is_served_as_json(door: OpenDoor) -> None:
    response = await door().get("/openapi.json")
    assert response.json() == json.loads(json.dumps(DOCUMENT))


def test_the_fingerprint_changes_with_what_is_served() -> None:
    plain = system_fingerprint(ModelSettings())
    assert plain == system_fingerprint(ModelSettings())
    assert plain != system_fingerprint(ModelSettings(quantization="nf4"))
    assert plain != system_fingerprint(ModelSettings(path="/models/other"))
