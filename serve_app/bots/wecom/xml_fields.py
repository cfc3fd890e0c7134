"""WeCom's flat XML: reads `<xml><Name>text</Name>…</xml>`, refuses a DOCTYPE, and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from xml.parsers import expat

MAX_ELEMENTS: Final = 64
MAX_ENVELOPE_ELEMENTS: Final = 8  # of a callback: the root and ToUserName, AgentID, Encrypt
MAX_DEPTH: Final = 6


class XmlError(ValueError):
    """The text is not XML as WeCom sends it."""


def read_fields(data: bytes, max_elements: int = MAX_ELEMENTS) -> dict[str, str]:
    """Texts by path below the root, such as `MsgType` or `Image/MediaId`; of a repeated name the first.

    A DOCTYPE, an entity declaration or a processing instruction is refused, so nothing can be expanded or fetched.
    Raises XmlError.
    """
    fields: dict[str, str] = {}
    path: list[str] = []
    texts: list[str] = []
    elements = 0

    def refuse(*_: Any) -> None:
        raise XmlError("The XML has a DOCTYPE, an entity or a processing instruction, which WeCom does not send.")

    def start(name: str, _: Any) -> None:
        nonlocal elements
        elements += 1
        path.append(name)
        texts.clear()
        if len(path) > MAX_DEPTH or elements > max_elements:
            raise XmlError("The XML has more elements than a message of WeCom.")

    def end(_: str) -> None:
        if len(path) > 1:
            fields.setdefault("/".join(path[1:]), "".join(texts))
        texts.clear()
        path.pop()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = texts.append
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ProcessingInstructionHandler = refuse
    try:
        parser.Parse(data, True)
    except XmlError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: an encoding that expat can't read
        raise XmlError("The body is not XML.") from error
    return fields


def write_fields(fields: Mapping[str, str | int]) -> bytes:
    """A flat document; texts are CDATA, numbers are not."""
    parts = [
        f"<{name}>{value}</{name}>" if isinstance(value, int) else f"<{name}><![CDATA[{_split_end(value)}]]></{name}>"
        for name, value in fields.items()
    ]
    return f"<xml>{''.join(parts)}</xml>".encode()


def _split_end(text: str) -> str:
    """The text with every end mark of CDATA in two sections."""
    return text.replace("]]>", "]]]]><![CDATA[>")
