"""Fields of tools: the functions that the model may or must call, as the contract's ToolUse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from serve_app.contracts import Tool, ToolUse
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import JsonObject, StrictModel

MAX_TOOLS: Final = 128  # OpenAI's limit

FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
STRICT: Final = "Arguments are generated so that they match the schema; otherwise the model only sees it."
CHOICE: Final = (
    "auto: the model decides. none: the tools are left out of the prompt. required: at least one tool is called. "
    "A named function: this one is called."
)


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("not_object_schema", "must be the schema of an object")
    return schema


Parameters: TypeAlias = Annotated[JsonObject, AfterValidator(_object_schema)]


class Function(StrictModel):
    """A function as the caller describes it."""

    name: FunctionName
    description: str | None = None
    parameters: Parameters | None = Field(None, description="JSON Schema of the arguments object.")
    strict: bool | None = Field(None, description=STRICT)


class FunctionTool(StrictModel):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(StrictModel):
    """The function's name."""

    name: str


class NamedToolChoice(StrictModel):
    """The one function that must be called."""

    type: Literal["function"]
    function: NamedFunction


ChoiceWord: TypeAlias = Literal["none", "auto", "required"]


def choice_kind(value: Any) -> str:
    return "word" if isinstance(value, str) else "object"


ToolChoice: TypeAlias = Annotated[
    Annotated[ChoiceWord, Tag("word")] | Annotated[NamedToolChoice, Tag("object")], Discriminator(choice_kind)
]


class ToolFields(StrictModel):
    """The functions, and how the model may use them."""

    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = Field(None, description=CHOICE)
    parallel_tool_calls: bool | None = Field(
        None, description="Whether one answer may have several tool calls. Default: true."
    )


def tool_use(fields: ToolFields) -> ToolUse | None:
    """The contract's ToolUse; None if no tool may be called."""
    functions = [tool.function for tool in fields.tools or ()]
    choice = fields.tool_choice
    named = choice.function.name if isinstance(choice, NamedToolChoice) else None
    return combine_tools(
        tuple(tool(each.name, each.description, each.parameters, each.strict) for each in functions),
        [f"tools[{index}].function.name" for index in range(len(functions))],
        required=named is not None or choice == "required",
        forbidden=choice == "none",
        only=named,
        only_param="tool_choice.function.name",
        parallel=fields.parallel_tool_calls,
    )


def tool(name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None) -> Tool:
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    return Tool(name, {"type": "function", "function": function}, bool(strict))


def combine_tools(
    tools: tuple[Tool, ...],
    name_params: Sequence[str],
    *,
    required: bool,
    forbidden: bool,
    only: str | None,
    only_param: str,
    parallel: bool | None,
) -> ToolUse | None:
    """The tools of any API's request; `name_params` and `only_param` are the fields that errors name."""
    names: set[str] = set()
    for each, param in zip(tools, name_params, strict=True):
        if each.name in names:
            raise InvalidRequest(f"'{param}' is '{each.name}' for the second time; names must differ.", param)
        names.add(each.name)
    if required and not tools:
        raise InvalidRequest("'tool_choice' requires a call, but there are no 'tools'.", "tool_choice")
    if only is not None and only not in names:
        raise InvalidRequest(f"'{only_param}' names a function that is not in 'tools'.", only_param)
    if not tools or forbidden:
        return None
    return ToolUse(tools, required, only, parallel is not False)
