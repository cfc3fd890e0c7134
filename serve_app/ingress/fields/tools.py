"""Fields of tools: the functions that the model may or must call, as the contract's ToolUse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from serve_app.contracts import Tool, ToolUse
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, ClientNotes, JsonObject, StrictModel, Switch, empty_object

MAX_TOOLS: Final = 128  # OpenAI's limit

FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
STRICT: Final = "Arguments are generated so that they match the schema; otherwise the model only sees it."
TOOLS: Final = (
    "Functions that the model may call. A model without tools answers without them where none must be called; "
    "the header X-Ignored-Fields says so."
)
CHOICE: Final = (
    "auto: the model decides. none: the tools are left out of the prompt. required: at least one tool is called. "
    "A named function: this one is called."
)


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("not_object_schema", "must be the schema of an object")
    return {**schema, "properties": {}} if schema.get("properties") == [] else schema


Parameters: TypeAlias = Annotated[
    JsonObject, AfterValidator(_object_schema), BeforeValidator(empty_object, json_schema_input_type=dict[str, Any])
]


class Function(StrictModel):
    """A function as the caller describes it."""

    name: FunctionName = Field(description="The name that the model writes.")
    description: str | None = Field(None, description="What the function does; the model reads it.")
    parameters: Parameters | None = Field(None, description="JSON Schema of the arguments object.")
    strict: Switch | None = Field(None, description=STRICT)


class FunctionType(StrictModel):
    """The type of a tool or of a tool choice."""

    type: Literal["function"] = Field(description="Functions are the only tools.")


class FunctionTool(ClientNotes, FunctionType):
    """A function that the model may call."""

    function: Function = Field(description="Its name, description and parameters.")
    name: Any = Field(None, description=IGNORED)


class NamedFunction(StrictModel):
    """The function's name."""

    name: str = Field(description="The name of one of the tools.")


class NamedToolChoice(FunctionType):
    """The one function that must be called."""

    function: NamedFunction = Field(description="The function that is called.")


ChoiceWord: TypeAlias = Literal["none", "auto", "required"]


def choice_kind(value: Any) -> str:
    return "word" if isinstance(value, str) else "object"


ToolChoice: TypeAlias = Annotated[
    Annotated[ChoiceWord, Tag("word")] | Annotated[NamedToolChoice, Tag("object")], Discriminator(choice_kind)
]


class ToolFields(StrictModel):
    """The functions, and how the model may use them."""

    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = Field(None, description=TOOLS)
    tool_choice: ToolChoice | None = Field(None, description=CHOICE)
    parallel_tool_calls: Switch | None = Field(
        None, description="Whether one answer may have several tool calls. Default: true."
    )


def tool_use(fields: ToolFields) -> ToolUse | None:
    """The contract's ToolUse; None if no tool may be called."""
    choice = fields.tool_choice
    named = choice.function.name if isinstance(choice, NamedToolChoice) else None
    functions = [tool.function for tool in fields.tools or ()]
    return combine_tools(functions, choice, named, fields.parallel_tool_calls, ".function.name")


def combine_tools(
    functions: Sequence[Function], choice: Any, named: str | None, parallel: bool | None, name_field: str
) -> ToolUse | None:
    """The tools of either API; `name_field` is where a tool and a named choice have the function's name."""
    names: set[str] = set()
    for index, function in enumerate(functions):
        if function.name in names:
            param = f"tools[{index}]{name_field}"
            raise InvalidRequest(f"'{param}' is '{function.name}' for the second time; names must differ.", param)
        names.add(function.name)
    required = named is not None or choice == "required"
    if required and not functions:
        raise InvalidRequest("'tool_choice' requires a call, but there are no 'tools'.", "tool_choice")
    if named is not None and named not in names:
        param = f"tool_choice{name_field}"
        raise InvalidRequest(f"'{param}' names a function that is not in 'tools'.", param)
    if not functions or choice == "none":
        return None
    return ToolUse(tuple(_tool(function) for function in functions), required, named, parallel is not False)


def _tool(function: Function) -> Tool:
    given = {"name": function.name, "description": function.description, "parameters": function.parameters}
    definition = {name: value for name, value in given.items() if value is not None}
    return Tool(function.name, {"type": "function", "function": definition}, bool(function.strict))
