"""Fields of structured output: OpenAI's response_format and vLLM's fields, as the contract's Constraint."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError, from_json

from serve_app.contracts import Constraint
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, JsonObject, StrictModel, Switch

MAX_PATTERN: Final = 10_000  # characters of a regular expression
MAX_CHOICES: Final = 1000


class TextFormat(StrictModel):
    """Any text."""

    type: Literal["text"] = Field(description="The kind of format.")


class JsonObjectFormat(StrictModel):
    """Any JSON object."""

    type: Literal["json_object"] = Field(description="The kind of format.")


class SchemaObjectFormat(JsonObjectFormat):
    """A JSON object; of a schema where there is one."""

    schema_: JsonObject | None = Field(None, alias="schema", description="As in `json_schema`. (llama.cpp's)")


class JsonSchema(StrictModel):
    """A JSON Schema as OpenAI wraps it; the answer always matches it, `strict` or not."""

    name: Any = Field(None, description=f"{IGNORED} OpenAI's API requires it.")
    description: Any = Field(None, description=IGNORED)
    schema_: JsonObject = Field(alias="schema", description="The JSON Schema that the answer matches.")
    strict: Any = Field(None, description=f"{IGNORED} The answer always matches.")


class JsonSchemaType(StrictModel):
    """The type of a format with a schema."""

    type: Literal["json_schema"] = Field(description="The kind of format.")


class JsonSchemaFormat(JsonSchemaType):
    """JSON that matches a schema."""

    json_schema: JsonSchema = Field(description="The schema and its name.")


ResponseFormat: TypeAlias = Annotated[TextFormat | SchemaObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _parse(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError as error:
        raise PydanticCustomError("json", "must be JSON ({reason})", {"reason": str(error)}) from None


# vLLM's and SGLang's clients send a schema as an object or as its text.
Schema: TypeAlias = Annotated[JsonObject, BeforeValidator(_parse, json_schema_input_type=dict[str, Any] | str)]
Pattern: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]
Choices: TypeAlias = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]


class StructuredOutputs(StrictModel):
    """vLLM's constraints, of which one may be given."""

    json_: Schema | None = Field(None, alias="json", description="A JSON Schema.")
    regex: Pattern | None = Field(None, description="A pattern that the complete text matches.")
    choice: Choices | None = Field(None, description="The text is one of these.")
    json_object: Switch | None = Field(None, description="true: any JSON object.")
    disable_fallback: Any = Field(None, description=IGNORED)
    disable_any_whitespace: Literal[False] | None = Field(None, description="Not supported.")
    disable_additional_properties: Literal[False] | None = Field(None, description="Not supported.")


class ConstraintFields(StrictModel):
    """What the text has to match; one of these fields, and none together with tools."""

    response_format: ResponseFormat | None = Field(None, description="Any text, a JSON object, or JSON of a schema.")
    structured_outputs: StructuredOutputs | None = Field(None, description="What the text matches. (vLLM's)")
    guided_json: Schema | None = Field(None, description="A JSON Schema. (vLLM's)")
    guided_regex: Pattern | None = Field(None, description="A pattern that the complete text matches. (vLLM's)")
    guided_choice: Choices | None = Field(None, description="The text is one of these. (vLLM's)")


def constraint(fields: ConstraintFields) -> Constraint | None:
    """The request's constraint; raises InvalidRequest for more than one."""
    outputs = fields.structured_outputs or StructuredOutputs()
    possible = (
        _of_format(fields.response_format),
        _of_schema(outputs.json_, "structured_outputs.json"),
        _of_pattern(outputs.regex, "structured_outputs.regex"),
        _of_choices(outputs.choice, "structured_outputs.choice"),
        Constraint("json_object", param="structured_outputs.json_object") if outputs.json_object else None,
        _of_schema(fields.guided_json, "guided_json"),
        _of_pattern(fields.guided_regex, "guided_regex"),
        _of_choices(fields.guided_choice, "guided_choice"),
    )
    given = [constraint for constraint in possible if constraint is not None]
    if len(given) > 1:
        raise InvalidRequest(
            f"'{given[1].param}' and '{given[0].param}' exclude each other; give one of them.", given[1].param
        )
    return given[0] if given else None


def _of_format(format: TextFormat | SchemaObjectFormat | JsonSchemaFormat | None) -> Constraint | None:
    match format:
        case SchemaObjectFormat(schema_=dict() as schema) if schema:
            param = "response_format.schema"
            if schema.get("type", "object") != "object":
                raise InvalidRequest(f"'{param}' must be the schema of an object.", param)
            return schema_constraint({"type": "object", **schema}, param)
        case SchemaObjectFormat():
            return Constraint("json_object", param="response_format")
        case JsonSchemaFormat():
            return schema_constraint(format.json_schema.schema_, "response_format.json_schema.schema")
        case _:
            return None


def schema_constraint(schema: dict[str, Any], param: str) -> Constraint:
    return Constraint("json_schema", _text(schema), param)


def _of_schema(schema: dict[str, Any] | None, param: str) -> Constraint | None:
    return None if schema is None else schema_constraint(schema, param)


def _of_pattern(pattern: str | None, param: str) -> Constraint | None:
    return None if pattern is None else Constraint("regex", pattern, param)


def _of_choices(choices: list[str] | None, param: str) -> Constraint | None:
    return None if choices is None else Constraint("choice", _text(choices), param)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
