"""The OpenAPI document describes what the app does, and so does the page rendered from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serve_app import __version__
from serve_app.fingerprint import system_fingerprint
from serve_app.ingress.chat.request import ChatBody
from serve_app.ingress.completions.request import CompletionBody
from serve_app.ingress.fields.strict_model import RequestBody
from serve_app.ingress.messages.request import MessagesBody
from serve_app.ingress.responses.request import ResponseBody
from serve_app.ingress.tokenize.request import ChatTokensBody, TextTokensBody
from serve_app.settings import ModelSettings
from tests.ingress.client import MODEL, PNG, MakeClient, events_of, make_app

DOCUMENT: dict[str, Any] = make_app().openapi()
SCHEMAS = DOCUMENT["components"]["schemas"]
ERROR = {"$ref": "#/components/schemas/ErrorReply"}
ANTHROPIC_ERROR = {"$ref": "#/components/schemas/AnthropicErrorReply"}
ANSWERS = ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions", "/v1/ask"]


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


def examples() -> Iterator[Any]:
    for path, methods in DOCUMENT["paths"].items():
        for content in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
            for name, example in content["examples"].items():
                yield pytest.param(path, example["value"], id=f"{path} {name}")


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def error_of(path: str) -> dict[str, str]:
    return ANTHROPIC_ERROR if path.startswith("/v1/messages") else ERROR


def payloads(content: dict[str, Any]) -> dict[str, Any]:
    """What the data of a stream's events are JSON of."""
    data = content["text/event-stream"]["schema"]["properties"]["data"]
    payload: dict[str, Any] = data["anyOf"][1] if "anyOf" in data else data
    assert data == payload or data["anyOf"][0] == {"const": "[DONE]"}
    schema: dict[str, Any] = payload["contentSchema"]
    return schema


def test_the_document_names_the_service_and_its_version() -> None:
    assert DOCUMENT["info"]["title"] == "GLM Vision Serve"
    assert DOCUMENT["info"]["version"] == __version__


def test_every_route_is_documented() -> None:
    assert {path: list(methods) for path, methods in DOCUMENT["paths"].items()} == {
        "/v1/chat/completions": ["post"],
        "/v1/responses": ["post"],
        "/v1/usage": ["get"],
        "/v1/messages": ["post"],
        "/v1/messages/count_tokens": ["post"],
        "/v1/completions": ["post"],
        "/v1/ask": ["post"],
        "/v1/feedback": ["post"],
        "/v1/widget/tokens": ["post"],
        "/tokenize": ["post"],
        "/healthz": ["get"],
        "/health": ["get"],
        "/readyz": ["get"],
        "/v1/models": ["get"],
        "/v1/models/{model}": ["get"],
        "/metrics": ["get"],
    }


def test_every_reference_has_a_schema() -> None:
    for reference in references(DOCUMENT):
        *_, name = reference.split("/")
        assert reference == f"#/components/schemas/{name}"
        assert name in SCHEMAS


def test_every_error_is_documented_in_the_envelope_of_its_api() -> None:
    for path, methods in DOCUMENT["paths"].items():
        error = error_of(path)
        for method in methods.values():
            for status, response in method["responses"].items():
                if status != "200":
                    assert response["content"]["application/json"]["schema"] == error, (path, status)
                    assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
                assert "X-Request-ID" in response["headers"]
    for path in ANSWERS:
        assert {"200", "400", "404", "413", "429", "500", "503", "504"} <= set(operation(path, "post")["responses"])
    assert "415" in operation("/v1/ask", "post")["responses"]


@pytest.mark.parametrize("path", ANSWERS)
def test_answers_are_json_or_a_stream_of_events(path: str) -> None:
    response = operation(path, "post")["responses"]["200"]
    assert set(response["content"]) == {"application/json", "text/event-stream"}
    assert error_of(path) in payloads(response["content"])["anyOf"]
    assert "Server-Timing" in response["headers"]


def test_the_form_is_multipart_with_pictures_as_files() -> None:
    (kind,) = operation("/v1/ask", "post")["requestBody"]["content"]
    form = SCHEMAS["AskUpload"]
    assert kind == "multipart/form-data"
    assert form["required"] == ["question", "image"]
    assert form["properties"]["image"]["items"]["contentMediaType"] == "application/octet-stream"
    assert not any("anyOf" in field for field in form["properties"].values()), "a form has no null"


@pytest.mark.parametrize("body", [ChatBody, ResponseBody, MessagesBody, CompletionBody, TextTokensBody, ChatTokensBody])
def test_every_field_that_a_route_looks_at_is_documented(body: type[RequestBody]) -> None:
    schema = SCHEMAS[body.__name__]
    assert set(schema["properties"]) == {*body.model_fields, *body.unsupported}
    assert schema["additionalProperties"] is False


def test_the_services_own_limits_and_model_are_filled_in() -> None:
    document = make_app(settings={"max_choices": 3}).openapi()
    (count,) = [each for each in SCHEMAS["ChatBody"]["properties"]["n"]["anyOf"] if each["type"] == "integer"]
    assert count["maximum"] == 8
    (count,) = [
        each for each in document["components"]["schemas"]["ChatBody"]["properties"]["n"]["anyOf"]
        if each["type"] == "integer"
    ]  # fmt: skip
    assert count["maximum"] == 3
    assert operation("/v1/models/{model}", "get")["parameters"][0]["example"] == MODEL


@pytest.mark.parametrize(("path", "value"), list(examples()))
async def test_every_example_works_and_its_reply_is_as_documented(
    make_client: MakeClient, path: str, value: dict[str, Any]
) -> None:
    content = operation(path, "post")["responses"]["200"]["content"]
    if path == "/v1/ask":
        fields = {name: str(field) for name, field in value.items() if name != "image"}
        response = await make_client().post(path, data=fields, files={"image": PNG})
    else:
        request = operation(path, "post")["requestBody"]["content"]["application/json"]["schema"]
        validator(request).validate(value)
        client = make_client(settings={"allowed_origins": ["https://shop.example"]})
        response = await client.post(path, json=value)
    assert response.status_code == 200, response.text
    if value.get("stream"):
        events = validator(payloads(content))
        for line in events_of(response):
            if line != "[DONE]":
                events.validate(json.loads(line))
    else:
        validator(content["application/json"]["schema"]).validate(response.json())


async def test_every_example_of_a_path_works(make_client: MakeClient) -> None:
    for path, methods in DOCUMENT["paths"].items():
        if "get" in methods:
            values = {each["name"]: each["example"] for each in methods["get"].get("parameters", ())}
            assert (await make_client().get(path.format(**values))).status_code == 200


async def test_the_document_is_served_as_json(make_client: MakeClient) -> None:
    response = await make_client().get("/openapi.json")
    assert response.json() == json.loads(json.dumps(DOCUMENT))


def test_the_fingerprint_changes_with_what_is_served() -> None:
    plain = system_fingerprint(ModelSettings())
    assert plain == system_fingerprint(ModelSettings())
    assert plain != system_fingerprint(ModelSettings(quantization="nf4"))
    assert plain != system_fingerprint(ModelSettings(quantize_vision=True))
    assert plain != system_fingerprint(ModelSettings(path="/models/other"))


# -- the page ---------------------------------------------------------------------------------------


async def test_the_page_shows_every_route_and_every_example(make_client: MakeClient) -> None:
    response = await make_client().get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    for path, methods in DOCUMENT["paths"].items():
        for method, each in methods.items():
            assert f"<code>{method.upper()} {path}</code>" in response.text
            assert escape(each["summary"]) in response.text
    assert response.text.count("curl -sN $URL/") == len(list(examples()))


async def test_the_page_loads_nothing_from_other_hosts(make_client: MakeClient) -> None:
    response = await make_client().get("/docs")
    script, document = re.findall(r"(?:src|href)='([^']*)'", response.text)
    assert (re.sub(r"[0-9a-f]{16}", "", script), document) == ("web//try_it.js", "/openapi.json")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    without = make_client(settings={"web_page": False})
    assert "<script" not in (await without.get("/docs")).text


def test_every_route_but_health_documents_its_security_and_refusals():
    document = make_app(access={"keys_file": "keys.json"}).openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "api-key", "x-api-key"}
    for path, operations in document["paths"].items():
        for each in operations.values():
            if path in ("/healthz", "/readyz", "/health"):
                assert "security" not in each
            else:
                assert each["security"] == [{"bearer": []}, {"api-key": []}, {"x-api-key": []}]
                assert {"401", "403"} <= each["responses"].keys()


def test_where_requests_without_credentials_are_accepted_security_is_optional():
    assert operation("/v1/models", "get")["security"][0] == {}


def bounds_of_pydantic(node: Any) -> Iterator[str]:
    for name, part in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if name in ("ge", "le", "gt", "lt") and isinstance(part, int | float):
            yield name
        yield from bounds_of_pydantic(part)


def test_bounds_have_their_names_in_json_schema() -> None:
    """A client that is made from the document would send a temperature of 99."""
    assert not list(bounds_of_pydantic(DOCUMENT))
    temperature = SCHEMAS["ChatBody"]["properties"]["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert SCHEMAS["MessagesBody"]["properties"]["stop_sequences"]["anyOf"][0]["maxItems"] == 16
