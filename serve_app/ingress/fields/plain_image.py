"""A picture as transformers, LangChain and MCP write it: a part of type `image` with one of four fields."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from serve_app.contracts import ImagePart
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, ClientNotes

SOURCES: Final = ("url", "image", "base64", "data")
KIND_OF_FILE: Final = f"{IGNORED} The file says what it is."


class PlainImagePartBody(ClientNotes):
    """A picture as transformers, LangChain and MCP write it; one of the first four fields."""

    type: Literal["image"] = Field(description="The kind of part.")
    url: str | None = Field(None, description="An address or `data:` URL. (transformers' and LangChain's)")
    image: str | None = Field(None, description="The same. (Qwen's and AI SDK's)")
    base64: str | None = Field(None, description="The picture as base64. (LangChain's)")
    data: str | None = Field(None, description="The picture as base64. (MCP's)")
    mime_type: Any = Field(None, description=KIND_OF_FILE)
    media_type: Any = Field(None, description=KIND_OF_FILE)
    mimeType: Any = Field(None, description=KIND_OF_FILE)
    source_type: Any = Field(None, description=f"{IGNORED} (LangChain's)")


def plain_image_part(part: PlainImagePartBody, param: str) -> ImagePart:
    """The contract's part; raises InvalidRequest for no picture or two."""
    given = [(name, source) for name in SOURCES if (source := getattr(part, name))]
    if len(given) != 1:
        raise InvalidRequest(
            f"'{param}' has {len(given)} of the fields 'url', 'image', 'base64' and 'data'; it must have one, with the"
            " picture or its address.",
            param,
        )
    ((name, source),) = given
    if name in ("base64", "data") and not source.startswith("data:"):
        source = f"data:;base64,{source}"
    return ImagePart(source, f"{param}.{name}")
