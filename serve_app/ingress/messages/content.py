"""The content of messages of /v1/messages, as the contract's messages: texts, pictures, documents, tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from serve_app.contracts import ImagePart, Message, Part, TextPart, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.conversation import call_arguments, check_results
from serve_app.ingress.fields.files import PAGES, parse_pages
from serve_app.ingress.fields.messages import ARGUMENTS, ROLE, TextOrNull, as_parts
from serve_app.ingress.fields.strict_model import IGNORED, ClientNotes, MessageNotes, StrictModel, Switch

KIND: Final = "The kind of block."
SOURCE_KIND: Final = "Where the file is."
BLOCKS: Final = "A text, or blocks."
ERROR: Final = "true: the result begins with 'Error: '."


class TextBlock(ClientNotes):
    """A text."""

    type: Literal["text"] = Field(description=KIND)
    text: TextOrNull = Field(description="The text; may be empty.")
    citations: Any = Field(None, description=IGNORED)


class Base64Source(StrictModel):
    """A file in the request."""

    type: Literal["base64"] = Field(description=SOURCE_KIND)
    media_type: str | None = Field(None, description=f"{IGNORED} The file says what it is.")
    data: str = Field(description="The file as base64.")


class UrlSource(StrictModel):
    """A file at an address."""

    type: Literal["url"] = Field(description=SOURCE_KIND)
    url: str = Field(description="The http(s) address.")


class FileSource(StrictModel):
    """A stored file; refused, since this service keeps no files."""

    type: Literal["file"] = Field(description=SOURCE_KIND)
    file_id: str = Field(description="Not supported; send the file itself.")


class PlainTextSource(StrictModel):
    """A document that is a text."""

    type: Literal["text"] = Field(description=SOURCE_KIND)
    media_type: Literal["text/plain"] | None = Field(None, description="The only type.")
    data: str = Field(description="The text.")


FileBlockSource: TypeAlias = Annotated[Base64Source | UrlSource | FileSource, Field(discriminator="type")]
DocumentSource: TypeAlias = Annotated[
    Base64Source | UrlSource | FileSource | PlainTextSource, Field(discriminator="type")
]


class ImageBlock(ClientNotes):
    """A picture."""

    type: Literal["image"] = Field(description=KIND)
    source: FileBlockSource = Field(description="The picture, or where it is.")


class Citations(StrictModel):
    """Whether the answer cites the document."""

    enabled: Literal[False] | None = Field(None, description="Not supported.")


class DocumentBlock(ClientNotes):
    """A PDF, each page of which the model sees as a picture, or a text."""

    type: Literal["document"] = Field(description=KIND)
    source: DocumentSource = Field(description="The document, or where it is.")
    title: str | None = Field(None, description="Put before the document as a line of text.")
    context: str | None = Field(None, description="Put before the document as a line of text.")
    citations: Citations | None = Field(None, description="Not supported; may only be disabled.")
    pages: str | None = Field(None, description=PAGES)


ShownBlock: TypeAlias = Annotated[TextBlock | ImageBlock | DocumentBlock, Field(discriminator="type")]
ShownBlocks: TypeAlias = Annotated[
    list[ShownBlock], BeforeValidator(as_parts, json_schema_input_type=str | list[ShownBlock | str] | None)
]
SystemTexts: TypeAlias = Annotated[
    list[TextBlock], BeforeValidator(as_parts, json_schema_input_type=str | list[TextBlock | str] | None)
]


class ToolUseBlock(ClientNotes):
    """A tool call in an earlier answer."""

    type: Literal["tool_use"] = Field(description=KIND)
    id: str = Field(min_length=1, description="The id that the tool's result refers to.")
    name: str = Field(description="The tool's name.")
    input: Any = Field(None, description=ARGUMENTS)
    caller: Any = Field(None, description=IGNORED)


class ToolResultBlock(ClientNotes):
    """The result of a tool call; may have pictures."""

    type: Literal["tool_result"] = Field(description=KIND)
    tool_use_id: str = Field(description="`id` of a tool call in an earlier answer.")
    content: ShownBlocks | None = Field(None, description="A text, or texts, pictures and documents.")
    is_error: Switch | None = Field(None, description=ERROR)


class ThinkingBlock(ClientNotes):
    """The reasoning before an earlier answer."""

    type: Literal["thinking"] = Field(description=KIND)
    thinking: str = Field(description="The reasoning; the chat template decides whether the model reads it again.")
    signature: Any = Field(None, description=IGNORED)


class RedactedThinkingBlock(ClientNotes):
    """Reasoning that a client cannot read; left out."""

    type: Literal["redacted_thinking"] = Field(description=KIND)
    data: Any = Field(None, description=IGNORED)


UserBlock: TypeAlias = Annotated[TextBlock | ImageBlock | DocumentBlock | ToolResultBlock, Field(discriminator="type")]
AnswerBlock: TypeAlias = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class BlockUserMessage(MessageNotes):
    """A question, with results of tools; or instructions to the model."""

    role: Literal["user", "system"] = Field(description=ROLE)
    content: Annotated[
        list[UserBlock], BeforeValidator(as_parts, json_schema_input_type=str | list[UserBlock | str] | None)
    ] = Field(description=BLOCKS)


class BlockAnswerMessage(MessageNotes):
    """An earlier answer, with its reasoning and its tool calls."""

    role: Literal["assistant"] = Field(description=ROLE)
    content: Annotated[
        list[AnswerBlock], BeforeValidator(as_parts, json_schema_input_type=str | list[AnswerBlock | str] | None)
    ] = Field(description=BLOCKS)


BlockMessage: TypeAlias = Annotated[BlockUserMessage | BlockAnswerMessage, Field(discriminator="role")]


# -- to contracts ---------------------------------------------------------------------------------


def parse_conversation(messages: Sequence[BlockMessage], system: Sequence[TextBlock] | None) -> tuple[Message, ...]:
    """The conversation for the pipeline; raises InvalidRequest for a stored file and for a result without its call."""
    parsed: list[Message] = []
    if system:
        parsed.append(Message("system", tuple(TextPart(block.text) for block in system), param="system"))
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        parsed += [_answer(message, param)] if isinstance(message, BlockAnswerMessage) else _turn(message, param)
    return check_results(parsed, "tool_use_id")


def _turn(message: BlockUserMessage, param: str) -> list[Message]:
    """A message of the user or of a system role; each result of a tool in it becomes a message of its own."""
    turns: list[Message] = []
    parts: list[Part] = []
    for index, block in enumerate(message.content):
        at = f"{param}.content[{index}]"
        if isinstance(block, ToolResultBlock):
            shown: list[Part] = [TextPart("Error: ")] if block.is_error else []
            for place, inner in enumerate(block.content or ()):
                shown += _parts(inner, f"{at}.content[{place}]")
            turns.append(Message("tool", tuple(shown), tool_call_id=block.tool_use_id, param=at))
        else:
            parts += _parts(block, at)
    return [*turns, Message(message.role, tuple(parts), param=param)] if parts or not turns else turns


def _answer(message: BlockAnswerMessage, param: str) -> Message:
    """An earlier answer: its texts, its reasoning and its tool calls."""
    texts = tuple(TextPart(block.text) for block in message.content if isinstance(block, TextBlock))
    reasoning = "\n".join(block.thinking for block in message.content if isinstance(block, ThinkingBlock))
    calls = [block for block in message.content if isinstance(block, ToolUseBlock)]
    return Message(
        "assistant",
        texts,
        reasoning,
        tuple(ToolCall(call.id, call.name, call_arguments(call.input)) for call in calls),
        param=param,
    )


def _parts(block: TextBlock | ImageBlock | DocumentBlock, param: str) -> list[Part]:
    """What a block shows to the model."""
    match block:
        case TextBlock():
            return [TextPart(block.text)]
        case ImageBlock():
            return [ImagePart(_source(block.source, f"{param}.source"), f"{param}.source")]
        case DocumentBlock():
            heads: list[Part] = [TextPart(f"{line}\n") for line in (block.title, block.context) if line]
            if isinstance(block.source, PlainTextSource):
                return [*heads, TextPart(block.source.data)]
            source, pages = _source(block.source, f"{param}.source"), parse_pages(block.pages, f"{param}.pages")
            return [*heads, ImagePart(source, f"{param}.source", pages=pages, noun="File")]


def _source(source: Base64Source | UrlSource | FileSource, param: str) -> str:
    match source:
        case Base64Source():
            return f"data:;base64,{source.data}"
        case UrlSource():
            return source.url
        case FileSource():
            raise InvalidRequest(
                f"'{param}.file_id' is not supported: this service keeps no files. Send the file as base64.",
                f"{param}.file_id",
            )
