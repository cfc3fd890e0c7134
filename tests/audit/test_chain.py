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


def bytes_that_may_stand_for_others(data: bytes) -> list[bytes]:
    """Lines that parse to the same values as this one, but for one byte or some more."""
    changed = [data.replace(b'"total_ms":1.0', b'"total_ms":1e0'), data.replace(b'{"seq"', b'{"kind":"x","seq"', 1)]
    changed += [data.replace(b",", b" ,", 1), data.replace(b'"request"', b'"\\u0072equest"'), data[:-1] + b" \n"]
    return [each for each in changed if each != data]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_line_that_says_the_same_in_other_bytes_is_found(deleted: bool):
    """One byte was enough: `1.0` and `1e0` have the same hash."""
    data, _ = line_of(total_ms=1.0)
    if deleted:
        data = without_personal(data)
    decode_line(data)
    others = bytes_that_may_stand_for_others(data)
    assert len(others) == 5
    for changed in others:
        with pytest.raises(BrokenLine, match="bytes"):
            decode_line(changed)


def test_every_change_of_one_byte_is_found():
    data, _ = encode_line(
        0, START, {"kind": "genesis", "time": 1.0, "n": [0.0, 10, True]}, {"caller": "a", "salt": "s"}
    )
    accepted = []
    for place in range(len(data) - 1):
        for value in range(256):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            if changed != data:
                try:
                    decode_line(changed)
                except BrokenLine:
                    continue
                accepted.append(changed)
    assert accepted == []
