"""WeCom's encryption: official vectors, vectors made with Tencent's own libraries, and damaged texts."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.bots.wecom.crypto import Crypto, CryptoError, decode_key, decrypt_file, encrypt_file
from serve_app.bots.wecom.xml_fields import XmlError, read_fields, write_fields

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
TOKEN, KEY, CORP = "QDG6eK", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C", "wx5823bf96d3bd56c7"
RANDOM = b"0123456789abcdef"
BOT, APP = Crypto(TOKEN, KEY), Crypto(TOKEN, KEY, CORP)
PNG_MD5 = "e44e7ecfec99356632c13cd3eaa3e250"
APP_TEXT = (
    "RypEvHKD8QQKFhvQ6QleEB4J58tiPdvo+rtK1I9qca6aM/wvqnLSV5zEPeusUiX5L5X/0lWfrf0QADHHhGd3QczcdCUpj911L3vg3W/sYYvuJTs3TUUk"
    "SUXxaccAS0qhxchrRYt66wiSpGLYL42aM6A8dTT+6k4aSknmPj48kzJs8qLjvd4Xgpue06DOdnLxAUHzM6+kDZ+HMZfJYuR+LtwGc2hgf5gsijff0ekU"
    "NXZiqATP7PF5mZxZ3Izoun1s4zG4LUMnvw2r+KqCKIw+3IQH03v+BCA9nMELNqbSf6tiWSrXJB3LAVGUcallcrw8V2t9EL4EhzJWrQUax5wLVMNS0+rU"
    "PA3k22Ncx4XXZS9o0MBH27Bo6BpNelZpS+/uh9KsNlY6bHCmJU9p8g7m3fVKn28H3KDYA5Pl/T8Z1ptDAVe0lXdQ2YoyyH2uyPIGHBZZIs2pDBS8R07+"
    "qN+E7Q=="
)


def test_the_key_of_the_documents_decodes_although_its_last_bits_are_set():
    assert decode_key(KEY).hex() == "8d69989bbaabe67328014c194631ad0719b3dca035b64023df292447aab60760"


def test_the_official_echostr_verifies_and_decrypts():
    echostr = unquote(
        "P9nAzCzyDtyTWESHep1vC5X9xho%2FqYX3Zpb4yKa9SKld1DsH3Iyt3tP3zNdtp%2B4RPcs8TgAE7OaBO%2BFZXvnaqQ%3D%3D"
    )
    APP.verify("5c45ff5e21c57e6ad56bac8758b79b1d9ac89fd3", "1409659589", "263014780", echostr)
    assert APP.decrypt(echostr) == b"1616140317555161061"


def test_the_official_text_message_of_an_app_verifies_decrypts_and_parses():
    APP.verify("477715d11cdb4164915debcba66cb864d751f3e6", "1409659813", "1372623149", APP_TEXT)
    plain = APP.decrypt(APP_TEXT)
    assert hashlib.sha256(plain).hexdigest() == "62f23e2db9188b2883215b599af3d8ffcaa3fae68770c8f84529cfc560683f32"
    fields = read_fields(plain)
    assert (fields["FromUserName"], fields["Content"], fields["AgentID"]) == ("mycreate", "hello", "218")


@pytest.mark.parametrize(
    ("plain", "encrypted", "signed"),
    [
        (b"1616140317555161061", "A", ("1409659589", "263014780")),
        (VECTORS["B_plain"].encode(), "B", ("1409659813", "1372623149")),
        (VECTORS["C_plain"].encode(), "C", ("1641002400", "1372623149")),
    ],
)
def test_texts_of_an_ai_bot_encrypt_as_tencents_library_does(plain: bytes, encrypted: str, signed: tuple[str, str]):
    expected = VECTORS.get(f"{encrypted}_encrypt") or VECTORS[f"{encrypted}_echostr"]
    assert BOT.encrypt(plain, RANDOM) == expected
    assert BOT.signature(*signed, expected) == VECTORS[f"{encrypted}_sig"]
    assert BOT.decrypt(expected) == plain


def test_the_reply_of_an_app_decrypts_with_the_id_of_the_corporation_only():
    assert read_fields(APP.decrypt(VECTORS["E_encrypt"]))["MsgType"] == "text"
    with pytest.raises(CryptoError, match="another receiver"):
        BOT.decrypt(VECTORS["E_encrypt"])


def test_a_picture_decrypts_as_by_tencents_python_library():
    data = decrypt_file(base64.b64decode(VECTORS["D_cipher_b64"]), BOT.key)
    assert len(data) == 68
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() == PNG_MD5
    assert decrypt_file(base64.b64decode(VECTORS["D2_b64"]), BOT.key) == bytes(range(64))


@pytest.mark.parametrize("length", range(65))
def test_every_length_is_encrypted_and_decrypted(length: int):
    assert APP.decrypt(APP.encrypt(bytes(range(length)))) == bytes(range(length))
    assert decrypt_file(encrypt_file(bytes(length), BOT.key), BOT.key) == bytes(length)


def test_a_wrong_signature_another_receiver_and_damaged_texts_are_refused():
    encrypted = VECTORS["B_encrypt"]
    with pytest.raises(CryptoError, match="signature is wrong"):
        BOT.verify("0" * 40, "1409659813", "1372623149", encrypted)
    with pytest.raises(CryptoError, match="another receiver"):
        APP.decrypt(encrypted)
    with pytest.raises(CryptoError):
        BOT.decrypt(encrypted[:-24])
    data = bytearray(base64.b64decode(encrypted))
    data[-1] ^= 1
    with pytest.raises(CryptoError, match="padding"):
        BOT.decrypt(base64.b64encode(data).decode())
    for key in ("short", "!" * 43):
        with pytest.raises(CryptoError, match="AES key"):
            Crypto(TOKEN, key)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.b64encode(data).decode()))
def test_no_text_makes_decryption_fail_otherwise(text: str):
    with pytest.raises(CryptoError):
        BOT.decrypt(text)


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE xml [<!ENTITY a "aaaa">]><xml><Content>&a;</Content></xml>',
        b'<!DOCTYPE xml SYSTEM "http://example.com/x.dtd"><xml/>',
        b'<?xml version="1.0"?><?php x?><xml/>',
        b"<xml><a>",
        b"",
        b"\xff\xfe",
        b"<a>" * 50,
        b"<xml>" + b"<a/>" * 10,
        b"<xml>" + b"<a/>" * 100 + b"</xml>",
        *(b'<?xml version="1.0" encoding="%b"?><xml/>' % name for name in (b"gbk", b"big5", b"utf-7", b"none")),
    ],
)
def test_xml_with_a_doctype_or_damage_is_refused(document: bytes):
    with pytest.raises(XmlError):
        read_fields(document)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_xml_parser_fail_otherwise(data: bytes):
    with contextlib.suppress(XmlError):
        read_fields(data)


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=50))
def test_texts_are_written_so_that_they_are_read_unchanged(text: str):
    assert read_fields(write_fields({"Content": text, "AgentID": 7})) == {"Content": text, "AgentID": "7"}
