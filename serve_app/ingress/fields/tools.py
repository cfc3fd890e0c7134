"""The functions that a model may call, and whether it has to, as the contract's ToolUse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from serve_app.contracts import Tool, ToolUse
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import JsonObject, Wire

MAX_TOOLS: Final = 128  # OpenAI's limit

FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
STRICT: Final = "Arguments are held to the schema while they are drawn; otherwise the model only sees it."
CHOICE: Final = (
    "auto: the model decides. none: the tools are left out of the prompt. required: one tool or more is called. "
    "A named function: that one is called."
)


def _of_object(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("not_of_object", "must be the schema of an object")
    return schema


Parameters: TypeAlias = Annotated[JsonObject, AfterValidator(_of_object)]


class Function(Wire):
    """A function as its caller describes it."""

    name: FunctionName
    description: str | None = None
    parameters: Parameters | None = Field(None, description="JSON Schema of the arguments object.")
    strict: bool | None = Field(None, description=STRICT)


class FunctionTool(Wire):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(Wire):
    """The function's name."""

    name: str


class NamedToolChoice(Wire):
    """The one function that is to be called."""

    type: Literal["function"]
    function: NamedFunction


ChoiceWord: TypeAlias = Literal["none", "auto", "required"]


def word_or_object(value: Any) -> str:
    return "word" if isinstance(value, str) else "object"


ToolChoice: TypeAlias = Annotated[
    Annotated[ChoiceWord, Tag("word")] | Annotated[NamedToolChoice, Tag("object")], Discriminator(word_or_object)
]


class ToolFields(Wire):
    """Which functions there are, and how they are to be used."""

    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = Field(None, description=CHOICE)
    parallel_tool_calls: bool | None = Field(None, description="Several calls in one answer. Left out: true.")


def tool_use(fields: ToolFields) -> ToolUse | None:
    """The tools as the pipeline knows them; None if none may be called."""
    functions = [tool.function for tool in fields.tools or ()]
    choice = fields.tool_choice
    named = choice.function.name if isinstance(choice, NamedToolChoice) else None
    return use(
        tuple(tool(each.name, each.description, each.parameters, each.strict) for each in functions),
        [f"tools[{index}].function.name" for index in range(len(functions))],
        required=named is not None or choice == "required",
        forbidden=choice == "none",
        only=named,
        only_place="tool_choice.function.name",
        parallel=fields.parallel_tool_calls,
    )


def tool(name: str, description: str | None, parameters: dict[str, Any] | None, strict: bool | None) -> Tool:
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    if parameters is not None:
        function["parameters"] = parameters
    return Tool(name, {"type": "function", "function": function}, bool(strict))


def use(
    tools: tuple[Tool, ...],
    name_places: Sequence[str],
    *,
    required: bool,
    forbidden: bool,
    only: str | None,
    only_place: str,
    parallel: bool | None,
) -> ToolUse | None:
    """The tools and how they are to be used, whichever door's words said it."""
    names: set[str] = set()
    for each, place in zip(tools, name_places, strict=True):
        if each.name in names:
            raise InvalidRequest(f"'{place}' is '{each.name}' for the second time; names must differ.", place)
        names.add(each.name)
    if required and not tools:
        raise InvalidRequest("'tool_choice' asks for a call, but there are no 'tools'.", "tool_choice")
    if only is not None and only not in names:
        raise InvalidRequest(f"'{only_place}' names a function that is not among 'tools'.", only_place)
    if not tools or forbidden:
        return None
    return ToolUse(tools, required, only, parallel is not False)
