"""The parser of the AI bot's messages: every JSON value is a message or a MessageError."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.bots.conversation.message import FileRef, Inbound, Quote
from serve_app.bots.json_fields import MessageError
from serve_app.bots.wecom.ai_bot_message import StreamPoll, parse_message

NAMES = ("msgid", "aibotid", "chatid", "chattype", "from", "userid", "msgtype", "text", "content", "image", "url")
MORE_NAMES = ("mixed", "msg_item", "quote", "voice", "file", "stream", "id", "event", "eventtype", "response_url")
KINDS = (
    "text",
    "image",
    "mixed",
    "voice",
    "file",
    "video",
    "stream",
    "event",
    "enter_chat",
    "feedback_event",
    "single",
)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(KINDS)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES + MORE_NAMES), inner, max_size=8),
    max_leaves=30,
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
FILES = st.tuples() | st.tuples(st.builds(FileRef, TEXTS, TEXTS, st.booleans()))


@given(JSON)
def test_any_json_value_is_a_message_or_refused(value: Any):
    try:
        parse_message(value)
    except MessageError:
        return


@given(st.dictionaries(st.sampled_from(NAMES + MORE_NAMES), JSON, max_size=10), st.sampled_from(KINDS))
def test_damaged_messages_are_read_or_refused(fields: dict[str, Any], kind: str):
    base = {"msgid": "1", "from": {"userid": "ann"}, "msgtype": kind}
    for value in ({**base, **fields}, {**fields, **base}):
        try:
            parse_message(value)
        except MessageError:
            continue


@given(
    st.builds(
        Inbound,
        *[TEXTS] * 4,
        text=TEXTS,
        files=FILES,
        quote=st.none() | st.builds(Quote, TEXTS, FILES),
        reply_to=TEXTS,
    )
)
def test_a_message_survives_the_way_through_the_kept_state(message: Inbound):
    assert Inbound.from_json(orjson.loads(orjson.dumps(message.as_json()))) == message


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"msgtype": "text"},
        {"msgtype": "text", "text": {"content": 1}, "msgid": "1", "from": {"userid": "a"}},
        {"msgtype": "image", "image": {}, "msgid": "1", "from": {"userid": "a"}},
        {"msgtype": "mixed", "mixed": {"msg_item": {}}, "msgid": "1", "from": {"userid": "a"}},
        {"msgtype": "stream", "stream": {}},
        {"msgtype": "text", "text": {"content": "x"}, "msgid": "", "from": {"userid": "a"}},
        {"msgtype": "text", "text": {"content": "x"}, "msgid": "1", "from": {"userid": ""}},
    ],
)
def test_messages_without_required_fields_are_refused(fields: dict[str, Any]):
    with pytest.raises(MessageError):
        parse_message(fields)


def test_a_refresh_needs_no_user_and_a_nested_mixed_message_is_not_read():
    assert parse_message({"msgtype": "stream", "stream": {"id": "S"}}) == StreamPoll("S")
    nested = {"msgtype": "mixed", "mixed": {"msg_item": []}}
    message = parse_message(
        {"msgid": "1", "from": {"userid": "a"}, "msgtype": "mixed", "mixed": {"msg_item": [nested]}}
    )
    assert isinstance(message, Inbound)
    assert message.unsupported == "mixed"
