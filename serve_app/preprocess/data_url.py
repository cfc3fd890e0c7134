"""Pictures inside the request: `data:` URLs and bare base64, decoded as browsers do.

White space, further parameters, a prefix written twice, missing padding and the URL-safe alphabet (RFC 4648, section
5) are accepted, since clients send them; a character outside both alphabets is refused.
"""

import base64
import binascii
from contextlib import suppress
from urllib.parse import unquote_to_bytes

from serve_app.preprocess.documents import is_pdf
from serve_app.preprocess.picture_limits import ImageLabel, check_bytes
from serve_app.preprocess.sniff import known_format

_URL_SAFE = str.maketrans("-_", "+/")
_HEAD = 64  # characters of base64 that show a format
_LEAST_PICTURE = 64  # characters; the smallest GIF and PNG


def decode_data_url(source: str, label: ImageLabel, max_bytes: int) -> bytes:
    """The bytes of a `data:...;base64,` URL; raises ImageRejected if it is not base64 or too large."""
    head, comma, payload = source.partition(",")
    parameters = [parameter.strip().lower() for parameter in head.split(";")[1:]]
    if not comma or "base64" not in parameters:
        raise label.rejected('is a data: URL without base64. It must begin like "data:image/png;base64,"')
    if payload[:_HEAD].lstrip()[:5].lower() == "data:":  # the client wrote the prefix before a data: URL
        payload = payload.partition(",")[2]
    if "%" in payload:
        payload = unquote_to_bytes(payload).decode("latin-1")
    return _decode(payload, label, max_bytes)


def is_bare_base64(text: str) -> bool:
    """Whether a text without any scheme is the base64 of a file of a known format."""
    head = "".join(text[: 2 * _HEAD].split())[:_HEAD].translate(_URL_SAFE)
    try:
        start = base64.b64decode(head[: len(head) // 4 * 4], validate=True)
    except ValueError:
        return False
    return known_format(start) is not None or is_pdf(start)


def decode_bare_base64(source: str, label: ImageLabel, max_bytes: int) -> bytes:
    """The bytes of base64 without a `data:` prefix, which z.ai's clients send; raises as `decode_data_url`."""
    return _decode(source, label, max_bytes)


def _decode(payload: str, label: ImageLabel, max_bytes: int) -> bytes:
    payload = payload.strip(" \r\n\t\f")
    if " " in payload and _lost_plus(payload):
        payload = payload.replace(" ", "+")
    if any(space in payload for space in "\r\n\t\f "):  # lines of 76 characters, as mail and shells make them
        payload = "".join(payload.split())
    if "-" in payload or "_" in payload:
        payload = payload.translate(_URL_SAFE)
    size = len(payload) * 3 // 4
    check_bytes(size - 2, max_bytes, label)  # up to two bytes are padding
    if not payload.endswith("="):
        payload += "=" * (-len(payload) % 4)
    # `b64decode` checks the text with a regular expression, which takes as long as decoding it.
    with suppress(ValueError):
        return binascii.a2b_base64(payload, strict_mode=True)
    try:
        return base64.b64decode(payload, validate=True)  # accepts more padding
    except ValueError as error:
        raise label.rejected("is not valid base64. Use A-Z, a-z, 0-9, + and /, with = at the end") from error


def _lost_plus(payload: str) -> bool:
    """Whether its spaces were `+`, as a decoder of forms or queries leaves them: a complete text, spaces anywhere.

    Without them the picture would be garbled, or called damaged. Spaces between lines are at equal distances.
    """
    if len(payload) < _LEAST_PICTURE or len(payload) % 4 or any(other in payload for other in "+-\r\n\t\f"):
        return False
    return len({len(line) for line in payload.split(" ")[:-1]}) > 1
