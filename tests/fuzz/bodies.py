"""JSON bodies of the chat, responses, completions and tokenize routes: documented examples, changed in places."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from hypothesis import strategies as st

from serve_app.ingress.chat.request import ChatBody
from serve_app.ingress.completions.request import CompletionBody
from serve_app.ingress.examples import CHAT, COMPLETION, RED_SQUARE, RESPONSE, TOKENS
from serve_app.ingress.responses.request import ResponseBody
from serve_app.ingress.tokenize.request import ChatTokensBody, TextTokensBody
from tests.fuzz.pictures import mutated, seeds
from tests.fuzz.service import Case

_BODIES: dict[str, tuple[Any, list[str]]] = {
    "/v1/chat/completions": (CHAT, sorted({*ChatBody.model_fields, *ChatBody.unsupported})),
    "/v1/responses": (RESPONSE, sorted({*ResponseBody.model_fields, *ResponseBody.unsupported})),
    "/v1/completions": (COMPLETION, sorted({*CompletionBody.model_fields, *CompletionBody.unsupported})),
    "/tokenize": (TOKENS, sorted({*TextTokensBody.model_fields, *ChatTokensBody.model_fields})),
}
_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1e308, 2**31, 2**63, 2**64, 10**30, -(10**30), float("nan"), float("inf"),
    "", "a", "auto", "none", "required", "json_object", "json_schema", "text", "image_url", "input_image",
    "input_file", "function", "user", "assistant", "tool", "system", "developer", "low", "original", "enabled", "\0",
    "\ud800", "<|user|>", "<|image|>", "</think>", "é" * 300, "9" * 400, RED_SQUARE, "data:,",
    "data:image/png;base64,AAAA", "http://127.0.0.1/", "http://[::1]:99999/", "http://xn--a/", "file:///etc/passwd",
    "AAAA", "call_1", "get_weather", [], {}, [[]], [None],
)  # fmt: skip
_KEYS = (
    "type", "text", "content", "role", "image_url", "url", "detail", "file", "file_data", "input_file", "name",
    "strict", "function", "arguments", "parameters", "tool_calls", "tool_call_id", "call_id", "output", "schema",
    "json_schema", "id", "effort", "summary", "format", "include_usage", "pages", "", "\0", "x" * 200,
)  # fmt: skip
_SCHEMA_KEYS = (
    "type", "properties", "required", "items", "prefixItems", "enum", "const", "pattern", "format", "minLength",
    "maxLength", "minimum", "maximum", "multipleOf", "minItems", "maxItems", "additionalProperties", "anyOf", "oneOf",
    "allOf", "not", "$ref", "$defs", "patternProperties", "if", "then", "dependentRequired", "uniqueItems",
)  # fmt: skip
_SCHEMA_LEAVES: tuple[Any, ...] = (
    "object", "string", "integer", "number", "array", "null", "boolean", "#", "#/$defs/a", "#/properties/a", "a",
    "[a-z]+", "(", "(?:.{0,3}[0-9a-f].{0,3}){120}", '9})/ & /INJECTED/', "^\\d{3}$", "date-time", 0, 1, -1, 10**9,
    0.1, True, False, ["a", "b"], ["string", "null"], [], {}, None,
)  # fmt: skip
_PIECES = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"1e999", b"-", b"\xff",
    b"\xef\xbb\xbf", b"[" * 300, b'{"a":' * 150, b"9" * 5000, b" ", b"\0", b"//", b"'", b"NaN",
)  # fmt: skip
_KINDS = (
    "text/plain", "", "application/vnd.api+json", "application/json; charset=utf-16", "application/x-ndjson",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "\xff",
)  # fmt: skip


def anything(rng: Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth >= 4 or kind < 0.6:
        return copy.deepcopy(rng.choice(_LEAVES))
    if kind < 0.7:
        return schema(rng)
    if kind < 0.85:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))] * rng.choice((1, 1, 1, 1, 40))
    return {rng.choice(_KEYS): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def schema(rng: Random, depth: int = 0) -> Any:
    """A JSON Schema whose keywords may have values of any type."""
    found: dict[str, Any] = {}
    for keyword in (rng.choice(_SCHEMA_KEYS) for _ in range(rng.choice((0, 1, 2, 4)))):
        if depth >= 4 or rng.random() < 0.4:
            found[keyword] = copy.deepcopy(rng.choice(_SCHEMA_LEAVES))
        elif rng.random() < 0.5:
            found[keyword] = schema(rng, depth + 1)
        elif rng.random() < 0.5:
            found[keyword] = {rng.choice(("a", "b", "")): schema(rng, depth + 1)}
        else:
            found[keyword] = [schema(rng, depth + 1) for _ in range(rng.choice((1, 3)))]
    return found


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a body."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from places(node[key])


def body(rng: Random, path: str) -> Any:
    examples, fields = _BODIES[path]
    if rng.random() < 0.03:
        return anything(rng)
    found = copy.deepcopy(rng.choice([example["value"] for example in examples.values()]))
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        found[rng.choice(fields)] = anything(rng)
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        container, key = rng.choice(list(places(found)) or [({}, "model")])
        match rng.randrange(6):
            case 0 if isinstance(container, dict):
                container.pop(key, None)
            case 1 if isinstance(container, dict):
                container[rng.choice(_KEYS)] = anything(rng)
            case 2 if isinstance(container, list):
                container.extend([copy.deepcopy(container[key])] * rng.choice((1, 20)))
            case 3:
                container[key] = copy.deepcopy(rng.choice([value for _, value in _values(rng)]))
            case _:
                container[key] = anything(rng)
    for container, key in list(places(found)):
        if key == "schema" or (key == "parameters" and rng.random() < 0.3):
            container[key] = schema(rng) if rng.random() < 0.5 else container[key]
        elif container[key] == RED_SQUARE and rng.random() < 0.1:
            container[key] = _data_url(rng)
    return found


def _values(rng: Random) -> list[tuple[Any, Any]]:
    """Values of another route's example."""
    examples, _ = _BODIES[rng.choice(sorted(_BODIES))]
    example = rng.choice([example["value"] for example in examples.values()])
    return [(key, container[key]) for container, key in places(example)]


def _data_url(rng: Random) -> str:
    files = seeds()[rng.choice(sorted(seeds()))]
    return "data:image/png;base64," + base64.b64encode(mutated(rng, rng.choice(files), files)).decode()


def damaged(rng: Random, raw: bytes) -> bytes:
    place = rng.randrange(len(raw) + 1)
    match rng.randrange(4):
        case 0:
            return raw[:place]
        case 1:
            return raw[:place] + rng.choice(_PIECES) + raw[place:]
        case 2:
            return raw[:place] + rng.randbytes(2) + raw[place + rng.choice((1, 2, 10)) :]
        case _:
            return raw[:place] + raw[rng.randrange(len(raw) + 1) :]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rng = draw(st.randoms(use_true_random=False))
    path = rng.choice(sorted(_BODIES))
    raw = json.dumps(body(rng, path)).encode()  # NaN and lone surrogates too: not JSON, but sent
    if rng.random() < 0.2:
        raw = damaged(rng, raw)
    return Case(path, raw, rng.choice(_KINDS) if rng.random() < 0.03 else "application/json")
