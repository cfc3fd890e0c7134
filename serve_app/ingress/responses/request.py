"""The request of /v1/responses: OpenAI's, for pictures, text and functions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from serve_app.contracts import ChatRequest, Constraint
from serve_app.ingress.fields.conversation import continues_last
from serve_app.ingress.fields.lane import LaneFields, lane
from serve_app.ingress.fields.other_servers import UNSUPPORTED_ELSEWHERE, IgnoredFields
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenCount, sampling
from serve_app.ingress.fields.strict_model import (
    IGNORED,
    ClientNotes,
    Integer,
    RequestBody,
    StrictModel,
    Switch,
    UnsupportedField,
)
from serve_app.ingress.fields.structured_output import (
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaType,
    TextFormat,
    schema_constraint,
)
from serve_app.ingress.fields.thinking import EFFORT, Effort, thinking_of_effort
from serve_app.ingress.fields.tools import (
    CHOICE,
    MAX_TOOLS,
    TOOLS,
    ChoiceWord,
    Function,
    FunctionType,
    NamedFunction,
    choice_kind,
    combine_tools,
)
from serve_app.ingress.responses.input_items import Input, parse_input

LOGPROBS: Final = "message.output_text.logprobs"
Includable: TypeAlias = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    # of tools that no request here has
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class FlatFunctionTool(ClientNotes, Function, FunctionType):
    """A function that the model may call."""


class FlatToolChoice(NamedFunction, FunctionType):
    """The one function that must be called."""


class FlatJsonSchemaFormat(JsonSchema, JsonSchemaType):
    """JSON that matches a schema, `strict` or not."""


class TextConfig(StrictModel):
    """The form of the text."""

    format: Annotated[TextFormat | JsonObjectFormat | FlatJsonSchemaFormat, Field(discriminator="type")] | None = Field(
        None, description="Any text, a JSON object, or JSON of a schema."
    )
    verbosity: Literal["medium"] | None = Field(None, description="Not supported; accepted with this value.")


class ReasoningConfig(StrictModel):
    """Whether and how long the model reasons before its answer."""

    effort: Effort | None = Field(None, description=EFFORT)
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="The complete reasoning is then the item's `summary` and not its `content`."
    )
    generate_summary: Any = Field(None, description=IGNORED)


class ResponseStreamOptions(StrictModel):
    """OpenAI's options of a stream."""

    include_obfuscation: Literal[False] | None = Field(None, description="Not supported.")


class ResponseBody(RequestBody, SamplingFields, LaneFields, IgnoredFields):
    """A question, or a conversation whose last item is a question or a tool's result."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        **UNSUPPORTED_ELSEWHERE,
        "access_programs": UnsupportedField(),
        "background": UnsupportedField((False,)),
        "context_management": UnsupportedField(),
        "conversation": UnsupportedField((), "Send the whole conversation as 'input'."),
        "image": UnsupportedField(),
        "moderation": UnsupportedField(),
        "previous_response_id": UnsupportedField(("",), "Nothing is stored; send the whole conversation as 'input'."),
        "prompt": UnsupportedField(),
    }

    input: Input = Field(description="A question, or the items of a conversation, oldest first.")
    instructions: str | None = Field(None, description="Instructions to the model; put first as a system message.")
    stream: Switch | None = Field(None, description="The answer as server-sent events, while it is generated.")
    stream_options: ResponseStreamOptions | None = Field(None, description="Without `stream` it has no effect.")
    max_output_tokens: TokenCount | None = Field(
        None, description="Maximum number of tokens of the answer, reasoning included."
    )
    text: TextConfig | None = Field(None, description="The form of the text.")
    tools: Annotated[list[FlatFunctionTool], Field(max_length=MAX_TOOLS)] | None = Field(None, description=TOOLS)
    tool_choice: (
        Annotated[
            Annotated[ChoiceWord, Tag("word")] | Annotated[FlatToolChoice, Tag("object")],
            Discriminator(choice_kind),
        ]
        | None
    ) = Field(None, description=CHOICE)
    parallel_tool_calls: Switch | None = Field(
        None, description="Whether one answer may have several tool calls. Default: true."
    )
    max_tool_calls: Any = Field(None, description=f"{IGNORED} It limits OpenAI's own tools.")
    reasoning: ReasoningConfig | None = Field(None, description="Whether and how long the model reasons.")
    include: list[Includable] | None = Field(
        None, description=f"`{LOGPROBS}` returns the log probability of each token; the others ask for nothing here."
    )
    top_logprobs: Integer | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description=f"Number of likeliest tokens returned beside each one; implies `{LOGPROBS}`.",
    )
    store: Switch | None = Field(
        None, description="false: the items of the answer are not kept, so that no `item_reference` finds them."
    )
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = Field(None, description="Returned in the response.")
    client_metadata: Any = Field(None, description=f"{IGNORED} (Codex's)")
    truncation: Any = Field(None, description=f"{IGNORED} A conversation that is too long is refused, never truncated.")


def response_request(body: ResponseBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline; raises InvalidRequest where fields contradict each other."""
    choice = body.tool_choice
    named = choice.name if isinstance(choice, FlatToolChoice) else None
    messages, form = parse_input(body.input, body.instructions), _constraint(body)
    with_logprobs = body.top_logprobs is not None or LOGPROBS in (body.include or ())
    return ChatRequest(
        id,
        messages,
        sampling(body, max_tokens=body.max_output_tokens, logprobs=(body.top_logprobs or 0) if with_logprobs else None),
        deadline_s,
        bool(body.stream),
        combine_tools(body.tools or (), choice, named, body.parallel_tool_calls, ".name"),
        form,
        thinking_of_effort(body.reasoning.effort if body.reasoning else None, "reasoning.effort"),
        param="input",
        continue_last=continues_last(messages, None, None, form is None),
        lane=lane(body, messages),
    )


def _constraint(body: ResponseBody) -> Constraint | None:
    match body.text and body.text.format:
        case JsonObjectFormat():
            return Constraint("json_object", param="text.format")
        case FlatJsonSchemaFormat(schema_=schema):
            return schema_constraint(schema, "text.format.schema")
        case _:
            return None
