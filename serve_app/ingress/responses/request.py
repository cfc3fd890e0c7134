"""What /v1/responses takes: OpenAI's newer request, as far as pictures, text and functions go."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from serve_app.contracts import ChatRequest, Constraint, ToolUse
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenCount, sampling
from serve_app.ingress.fields.strict_model import IGNORED, Body, Hints, JsonObject, Refused, Wire
from serve_app.ingress.fields.structured_output import JsonObjectFormat, Name, TextFormat, of_json_schema
from serve_app.ingress.fields.thinking import EFFORT, Effort, thinking_of_effort
from serve_app.ingress.fields.tools import (
    CHOICE,
    MAX_TOOLS,
    STRICT,
    ChoiceWord,
    FunctionName,
    Parameters,
    tool,
    use,
    word_or_object,
)
from serve_app.ingress.responses.input_items import Input, conversation

LOGPROBS: Final = "message.output_text.logprobs"
Includable: TypeAlias = Literal["message.output_text.logprobs", "reasoning.encrypted_content"]


class FlatFunctionTool(Wire):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Parameters | None = Field(None, description="JSON Schema of the arguments object.")
    strict: bool | None = Field(None, description=STRICT)


class FlatToolChoice(Wire):
    """The one function that is to be called."""

    type: Literal["function"]
    name: str


class FlatJsonSchemaFormat(Wire):
    """JSON that matches a schema; it always does, `strict` or not."""

    type: Literal["json_schema"]
    name: Name
    description: str | None = None
    schema_: JsonObject = Field(alias="schema")
    strict: bool | None = None


class TextConfig(Wire):
    """The form of the text."""

    format: Annotated[TextFormat | JsonObjectFormat | FlatJsonSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = Field(None, description="Not supported; may say so.")


class ReasoningConfig(Wire):
    """Whether and how long the model reasons before it answers."""

    effort: Effort | None = Field(None, description=EFFORT)
    summary: str | None = Field(None, description=f"{IGNORED} The whole reasoning is told, not a summary of it.")
    generate_summary: str | None = Field(None, description=IGNORED)


class ResponseStreamOptions(Wire):
    """OpenAI's options of a stream."""

    include_obfuscation: Literal[False] | None = Field(None, description="Not supported.")


class ResponseBody(Body, SamplingFields, Hints):
    """A question, or a conversation whose last item is one or a tool's result."""

    refused: ClassVar[dict[str, Refused]] = {
        "access_programs": Refused(),
        "background": Refused((False,)),
        "context_management": Refused(),
        "conversation": Refused((), "Send the whole conversation as 'input'."),
        "image": Refused(),
        "moderation": Refused(),
        "previous_response_id": Refused((), "Nothing is stored; send the whole conversation as 'input'."),
        "prompt": Refused(),
    }

    input: Input
    instructions: str | None = Field(None, description="What the model should keep to; a system message put first.")
    stream: bool | None = Field(None, description="The answer as server-sent events, while it is drawn.")
    stream_options: ResponseStreamOptions | None = Field(None, description="Only with `stream`.")
    max_output_tokens: TokenCount | None = Field(None, description="Most tokens of the answer, reasoning included.")
    text: TextConfig | None = None
    tools: Annotated[list[FlatFunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Annotated[
            Annotated[ChoiceWord, Tag("word")] | Annotated[FlatToolChoice, Tag("object")],
            Discriminator(word_or_object),
        ]
        | None
    ) = Field(None, description=CHOICE)
    parallel_tool_calls: bool | None = Field(None, description="Several calls in one answer. Left out: true.")
    max_tool_calls: int | None = Field(None, description=f"{IGNORED} It limits OpenAI's own tools.")
    reasoning: ReasoningConfig | None = None
    include: list[Includable] | None = Field(
        None, description=f"`{LOGPROBS}` tells how likely each token was; nothing is encrypted here."
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description=f"Likeliest tokens told beside each one; implies `{LOGPROBS}`."
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = Field(None, description="Given back in the reply.")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description=f"{IGNORED} What is too long is refused, never cut."
    )


def response_request(body: ResponseBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline; raises InvalidRequest where fields contradict each other."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only for a request with 'stream': true.", "stream_options")
    with_logprobs = body.top_logprobs is not None or LOGPROBS in (body.include or ())
    return ChatRequest(
        id,
        conversation(body.input, body.instructions),
        sampling(body, max_tokens=body.max_output_tokens, logprobs=(body.top_logprobs or 0) if with_logprobs else None),
        deadline_s,
        bool(body.stream),
        _tools(body),
        _constraint(body),
        thinking_of_effort(body.reasoning.effort if body.reasoning else None, "reasoning.effort"),
        param="input",
    )


def _tools(body: ResponseBody) -> ToolUse | None:
    choice, functions = body.tool_choice, body.tools or []
    named = choice.name if isinstance(choice, FlatToolChoice) else None
    return use(
        tuple(tool(each.name, each.description, each.parameters, each.strict) for each in functions),
        [f"tools[{index}].name" for index in range(len(functions))],
        required=named is not None or choice == "required",
        forbidden=choice == "none",
        only=named,
        only_place="tool_choice.name",
        parallel=body.parallel_tool_calls,
    )


def _constraint(body: ResponseBody) -> Constraint | None:
    match body.text and body.text.format:
        case JsonObjectFormat():
            return Constraint("json_object", param="text.format")
        case FlatJsonSchemaFormat(schema_=schema):
            return of_json_schema(schema, "text.format.schema")
        case _:
            return None
