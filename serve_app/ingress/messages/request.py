"""The request of /v1/messages, Anthropic's, for texts, pictures, documents and tools."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from serve_app.contracts import ChatRequest, Constraint, Sampling, Thinking
from serve_app.ingress.fields.conversation import continues_last
from serve_app.ingress.fields.sampling import SamplingFields, StopSequences, TokenCount, TopK, sampling
from serve_app.ingress.fields.strict_model import (
    IGNORED,
    ClientNotes,
    JsonObject,
    Number,
    RequestBody,
    StrictModel,
    Switch,
    UnsupportedField,
)
from serve_app.ingress.fields.structured_output import schema_constraint
from serve_app.ingress.fields.thinking import (
    CLEAR,
    EFFORT,
    Effort,
    ThinkingFields,
    ThinkingSwitch,
    thinking,
    thinking_of_effort,
)
from serve_app.ingress.fields.tools import MAX_TOOLS, STRICT, TOOLS, Function, FunctionName, Parameters, combine_tools
from serve_app.ingress.messages.content import BlockMessage, SystemTexts, parse_conversation


class CustomTool(ClientNotes):
    """A function that the model may call."""

    type: Literal["custom"] | None = Field(None, description="Functions of the caller are the only tools.")
    name: FunctionName = Field(description="The name that the model writes.")
    description: str | None = Field(None, description="What the function does; the model reads it.")
    input_schema: Parameters = Field(description="JSON Schema of the arguments object.")
    strict: Switch | None = Field(None, description=STRICT)
    eager_input_streaming: Switch | None = Field(None, description=f"{IGNORED} Arguments are always streamed.")
    defer_loading: Any = Field(None, description=f"{IGNORED} The model always sees every tool.")
    input_examples: Annotated[list[Any], Field(max_length=0)] | None = Field(
        None, description="Not supported; give examples in the description."
    )


class AnyToolChoice(StrictModel):
    """Whether any tool is called."""

    type: Literal["auto", "any", "none"] = Field(
        description="auto: the model decides. any: at least one tool is called. none: the tools are left out."
    )
    disable_parallel_tool_use: Switch | None = Field(None, description="true: one tool call at most.")


class OneToolChoice(StrictModel):
    """The one tool that is called."""

    type: Literal["tool"] = Field(description="A tool by its name.")
    name: str = Field(description="The name of one of the tools.")
    disable_parallel_tool_use: Switch | None = Field(None, description="true: one tool call at most.")


ToolChoiceObject: TypeAlias = Annotated[AnyToolChoice | OneToolChoice, Field(discriminator="type")]


class MessagesThinking(ThinkingSwitch):
    """Whether and how long the model reasons."""

    display: Any = Field(None, description=f"{IGNORED} The complete reasoning is returned.")


class JsonSchemaOutput(StrictModel):
    """JSON that matches a schema."""

    type: Literal["json_schema"] = Field(description="The kind of format.")
    schema_: JsonObject = Field(alias="schema", description="The JSON Schema that the answer matches.")


class OutputConfig(StrictModel):
    """The effort and the form of the answer."""

    effort: Effort | None = Field(None, description=f"With `thinking` enabled and without its budget. {EFFORT}")
    format: JsonSchemaOutput | None = Field(None, description="What the text matches.")


class ContextEdit(StrictModel):
    """What leaves the conversation before the model reads it."""

    type: Literal["clear_thinking_20251015"] = Field(description=f"Earlier reasoning. {CLEAR}")
    keep: Any = Field(None, description=IGNORED)


class ContextManagement(StrictModel):
    """Edits of a long conversation; Claude Code asks for one of reasoning."""

    edits: list[ContextEdit] | None = Field(None, description="The chat template alone edits reasoning.")


class MessagesBody(RequestBody):
    """A conversation: the answer to its last message, or the rest of a last message of the assistant."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "container": UnsupportedField(),
        "diagnostics": UnsupportedField(),
        "mcp_servers": UnsupportedField(([],)),
        "speed": UnsupportedField(("standard",)),
    }

    messages: Annotated[list[BlockMessage], Field(min_length=1)] = Field(
        description="The conversation, oldest message first."
    )
    max_tokens: TokenCount | None = Field(
        None, description="Maximum number of tokens of the answer, reasoning included; Anthropic's API requires it."
    )
    system: SystemTexts | None = Field(None, description="Instructions to the model: a text, or blocks of text.")
    stream: Switch | None = Field(None, description="The answer as server-sent events, while it is generated.")
    stop_sequences: StopSequences | None = Field(
        None, description="The answer ends before the first of these; empty texts are left out."
    )
    temperature: Number | None = Field(None, ge=0, le=2, description="0: always the likeliest token. Default: 1.")
    top_p: Number | None = Field(None, ge=0, le=1, description="Sample of the likeliest tokens of this probability.")
    top_k: TopK | None = Field(None, description="Sample of this many likeliest tokens. 0 and -1: off.")
    tools: Annotated[list[CustomTool], Field(max_length=MAX_TOOLS)] | None = Field(None, description=TOOLS)
    tool_choice: ToolChoiceObject | None = Field(None, description="Whether and which tools are called.")
    thinking: MessagesThinking | None = Field(
        None, description="Whether and how long the model reasons. Default: that of the model's chat template."
    )
    output_config: OutputConfig | None = Field(None, description="The effort and the form of the answer.")
    metadata: Any = Field(None, description=IGNORED)
    context_management: ContextManagement | None = Field(None, description="Only of earlier reasoning.")
    service_tier: Any = Field(None, description=IGNORED)
    cache_control: Any = Field(None, description=IGNORED)
    inference_geo: Any = Field(None, description=IGNORED)
    user_profile_id: Any = Field(None, description=IGNORED)
    workspace_id: Any = Field(None, description=IGNORED)


def messages_request(body: MessagesBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline; raises InvalidRequest where fields contradict each other."""
    messages, form = parse_conversation(body.messages, body.system), _constraint(body)
    choice = body.tool_choice
    named = choice.name if isinstance(choice, OneToolChoice) else None
    functions = [
        Function(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
        for tool in body.tools or ()
    ]
    one_call = choice is not None and bool(choice.disable_parallel_tool_use)
    kind = "required" if choice is not None and choice.type == "any" else choice and choice.type
    return ChatRequest(
        id,
        messages,
        _sampling(body),
        deadline_s,
        bool(body.stream),
        combine_tools(functions, kind, named, not one_call, ".name"),
        form,
        _thinking(body),
        continue_last=continues_last(messages, None, None, form is None),
    )


def _sampling(body: MessagesBody) -> Sampling:
    fields = SamplingFields(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k)
    return replace(sampling(fields, max_tokens=body.max_tokens), stop=tuple(body.stop_sequences or ()))


def _thinking(body: MessagesBody) -> Thinking:
    settings = thinking(ThinkingFields(thinking=body.thinking))
    effort = body.output_config.effort if body.output_config else None
    if effort is None or settings.enabled is not True or settings.budget_tokens is not None:
        return settings
    return thinking_of_effort(effort, "output_config.effort")


def _constraint(body: MessagesBody) -> Constraint | None:
    form = body.output_config.format if body.output_config else None
    return None if form is None else schema_constraint(form.schema_, "output_config.format.schema")
