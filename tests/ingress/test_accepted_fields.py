"""The policy of accepted fields (docs/decisions/0018): each has an effect or none, and a typo is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.errors import InvalidRequest
from serve_app.ingress.accepted_fields import BODIES, accepted_fields, nested_objects
from serve_app.ingress.fields.other_servers import IgnoredFields
from serve_app.ingress.fields.strict_model import ClientNotes, RequestBody, StrictModel
from tests.ingress.client import MakeClient, chat, parse_chat

NAMES = [(body, name) for body in BODIES.values() for name in sorted(body.names | body.unsupported.keys())]
NESTED = [(model, name) for model in nested_objects() for name in sorted(model.names)]
VALUES = st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})


@st.composite
def typos(draw: st.DrawFn, name: str) -> str:
    """Two letters swapped, one left out, or one written twice."""
    place = draw(st.integers(0, len(name) - 1))
    rest = name[place + 1 :]
    swapped = name[:place] + rest[:1] + name[place] + rest[1:]
    return draw(st.sampled_from([swapped, name[:place] + rest, name[: place + 1] + name[place:]]))


@pytest.mark.parametrize(("body", "name"), NAMES, ids=[f"{body.__name__}-{name}" for body, name in NAMES])
@settings(max_examples=5, deadline=None)
@given(st.data(), VALUES)
def test_a_typo_of_any_field_is_refused_by_name(
    body: type[RequestBody], name: str, data: st.DataObject, value: Any
) -> None:
    typo = data.draw(typos(name))
    if typo in body.names | body.unsupported.keys():
        return
    with pytest.raises(InvalidRequest) as refused:
        body.read({typo: value})
    assert refused.value.param == typo
    assert refused.value.message.startswith(f"'{typo}' is not a field of this request.")
    if len(name) > 5:
        assert "The nearest field is '" in refused.value.message


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(NESTED), VALUES)
def test_a_typo_in_a_nested_object_is_refused_by_name(
    data: st.DataObject, field: tuple[type[StrictModel], str], value: Any
) -> None:
    model, name = field
    typo = data.draw(typos(name))
    if typo in model.names:
        return
    with pytest.raises(ValidationError) as refused:
        model.model_validate({typo: value})
    assert (typo,) in [error["loc"] for error in refused.value.errors() if error["type"] == "extra_forbidden"]


@pytest.mark.parametrize("model", [*BODIES.values(), *nested_objects()], ids=lambda model: model.__name__)
def test_every_field_says_its_effect_or_that_it_has_none(model: type[StrictModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} is in neither column of docs/fields.md: describe it"
    assert {field.name for field in accepted_fields(model)} >= model.names


@given(st.dictionaries(st.text(max_size=20), st.none(), max_size=5))
def test_null_asks_for_nothing_whatever_the_field_is_called(fields: dict[str, None]) -> None:
    fields = {name: None for name in fields if name not in ("messages", "role", "content", "type", "text")}
    body = {**fields, "messages": [{**fields, "role": "user", "content": [{**fields, "type": "text", "text": "x"}]}]}
    assert parse_chat(body) == parse_chat(chat("x"))


@pytest.mark.parametrize("note", sorted(ClientNotes.model_fields))
def test_a_clients_own_notes_change_nothing(note: str) -> None:
    notes = {note: {"any": ["thing", 7]}}
    tool = {"type": "function", "function": {"name": "f"}}
    question = [{"role": "user", "content": [{"type": "text", "text": "x", **notes}], **notes}]
    assert parse_chat({"messages": question, "tools": [{**tool, **notes}]}) == parse_chat(chat("x", tools=[tool]))


@pytest.mark.parametrize("name", sorted(IgnoredFields.model_fields))
def test_a_hint_to_another_platform_changes_nothing(name: str) -> None:
    kind = str(IgnoredFields.model_fields[name].annotation)
    value: Any = {} if "dict" in kind else True if "bool" in kind else "x"
    assert parse_chat(chat(**{name: value})) == parse_chat(chat())


@pytest.mark.parametrize(
    "fields", [{"best_of": 1.0}, {"length_penalty": 1}, {"mirostat": 0}, {"skip_special_tokens": True}]
)
def test_a_default_spelled_out_asks_for_nothing(fields: dict[str, Any]) -> None:
    assert parse_chat(chat(**fields)) == parse_chat(chat())


@pytest.mark.parametrize("fields", [{"best_of": True}, {"skip_special_tokens": 1}, {"repeat_penalty": 1.1}])
def test_another_value_of_such_a_field_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat(chat(**fields))
    assert refused.value.param == next(iter(fields))


async def test_unknown_fields_are_ignored_and_named_where_a_setting_says_so(make_client: MakeClient) -> None:
    body = chat("x", keep_alive="5m", **{"ä\r\n": 1, "chat_id": None})
    ignoring = await make_client(settings={"unknown_fields": "ignore"}).post("/v1/chat/completions", json=body)
    assert ignoring.status_code == 200
    assert ignoring.headers["x-ignored-fields"] == "keep_alive, %C3%A4%0D%0A"
    refusing = await make_client().post("/v1/chat/completions", json=body)
    assert (refusing.status_code, refusing.json()["error"]["param"]) == (400, "keep_alive")
    assert "x-ignored-fields" not in (await make_client().post("/v1/chat/completions", json=chat("x"))).headers
