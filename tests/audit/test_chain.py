"""Lines of the audit log: hash, order, personal part."""

from __future__ import annotations

import random

import orjson
import pytest

from serve_app.audit.chain import DELETED, START, BrokenLine, Head, decode_line, encode_line, without_personal

PERSONAL = {"caller": "alice", "question": '猫?","personal":{"caller":"bob"}', "salt": "s"}


def line_of(**fields: object) -> tuple[bytes, Head]:
    return encode_line(3, START, {"kind": "request", "total_ms": 1.5, **fields}, PERSONAL)


def test_a_line_comes_back_with_its_head():
    data, head = line_of()
    line, again = decode_line(data)
    assert (again, line["personal"], line["seq"]) == (head, PERSONAL, 3)
    assert data.endswith(b"}\n")
    assert data.count(b"\n") == 1


def test_a_change_of_any_byte_is_found():
    data, head = line_of()
    rng = random.Random(3)
    for place in rng.sample(range(len(data) - 1), 200):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            line, again = decode_line(changed)
        except BrokenLine:
            continue
        pytest.fail(f"{changed!r} was accepted: {line} {again} {head}")


def test_the_personal_part_can_be_deleted_at_the_same_length_and_hash():
    data, head = line_of(model={"name": 'x","personal":{}'})
    deleted = without_personal(data)
    assert len(deleted) == len(data)
    line, again = decode_line(deleted)
    assert (again, line["personal"]) == (head, DELETED)
    assert b"alice" not in deleted
    assert orjson.loads(deleted)["total_ms"] == 1.5


def test_a_personal_part_can_not_be_replaced_or_added():
    data, _ = line_of()
    with pytest.raises(BrokenLine, match="personal part does not fit"):
        decode_line(data.replace(b"alice", b"carol"))
    bare, _ = encode_line(0, START, {"kind": "genesis"}, None)
    with pytest.raises(BrokenLine, match="added"):
        decode_line(bare[:-2] + b',"personal":{"deleted":true}}\n')


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[]\n", b"null\n", b"\xff\n", b'{"seq": 1}\n'])
def test_what_is_no_line_is_reported(data: bytes):
    with pytest.raises(BrokenLine):
        decode_line(data)
