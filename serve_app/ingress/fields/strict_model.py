"""The base of all request bodies: strict JSON objects; unknown fields are refused by name.

There are four kinds of fields (docs/decisions/0018-accepted-fields.md). Most have an effect. Those whose description
begins with IGNORED are accepted and have none. The `unsupported` ones of a body are accepted with a value that changes
nothing and refused by name otherwise. Any other field is refused, unless it is null, which asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, to_json

from serve_app.errors import InvalidRequest
from serve_app.ingress.validation import MAX_QUOTED, invalid_fields, truncate

IGNORED: Final = "Accepted and ignored."
MAX_INT: Final = 2**31 - 1  # of a token count or a token id
_EXACT: Final = 2**53  # floats of whole numbers are exact below it
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,19}(?:\.[0-9]{1,19})?(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_SWITCHES: Final = {"true": True, "false": False}


def empty_object(value: Any) -> Any:
    """An empty object for an empty list, as which PHP writes it; any other value as it is."""
    return {} if value == [] else value


def read_number(value: Any) -> Any:
    """The number that a text is, as forms and workflow tools write it ("0.5"); any other value as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value) if _WHOLE.fullmatch(value) else float(value)


def whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else value


def _read_whole(value: Any) -> Any:
    return whole(read_number(value))


def _read_text_switch(value: Any) -> Any:
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def _read_switch(value: Any) -> Any:
    return bool(value) if isinstance(value, int) and value in (0, 1) else _read_text_switch(value)


Integer: TypeAlias = Annotated[int, BeforeValidator(_read_whole, json_schema_input_type=int)]
"""A whole number; clients in JavaScript and R write it as 24.0, forms and workflow tools as "24"."""
Number: TypeAlias = Annotated[float, BeforeValidator(read_number, json_schema_input_type=float)]
"""A number, or the text of one."""
TextSwitch: TypeAlias = Annotated[bool, BeforeValidator(_read_text_switch, json_schema_input_type=bool)]
"""true or false, or "true", "false"; numbers have another meaning in the other APIs' field."""
Switch: TypeAlias = Annotated[bool, BeforeValidator(_read_switch, json_schema_input_type=bool)]
"""true or false, or "true", "false", 1 or 0."""


class StrictModel(BaseModel):
    """A JSON object of the API: no unknown fields but null ones, no conversions but those that the types above name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    names: ClassVar[frozenset[str]] = frozenset()  # of the fields, as they are in JSON

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.names = frozenset(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_nulls(cls, fields: Any) -> Any:
        fields = empty_object(fields)
        if not isinstance(fields, dict) or all(value is not None for value in fields.values()):
            return fields
        return {name: value for name, value in fields.items() if value is not None or name in cls.names}


class ClientNotes(StrictModel):
    """What clients note for themselves on messages, parts and tools, or copy from another service's response."""

    id: Any = Field(None, description=IGNORED)
    index: Any = Field(None, description=IGNORED)
    metadata: Any = Field(None, description=IGNORED)
    options: Any = Field(None, description=f"{IGNORED} (Gradio's)")
    cache_control: Any = Field(None, description=f"{IGNORED} (Anthropic's)")
    annotations: Any = Field(None, description=IGNORED)
    reasoning_details: Any = Field(None, description=f"{IGNORED} (OpenRouter's)")
    provider_specific_fields: Any = Field(None, description=f"{IGNORED} (LiteLLM's)")
    provider_options: Any = Field(None, description=f"{IGNORED} (AI SDK's)")
    created_at: Any = Field(None, description=IGNORED)
    timestamp: Any = Field(None, description=IGNORED)
    extra_content: Any = Field(None, description=f"{IGNORED} (Gemini's)")


class MessageNotes(ClientNotes):
    """What clients copy from another service's response, or from their own store, onto a message."""

    name: Any = Field(None, description=IGNORED)
    type: Any = Field(None, description=f"{IGNORED} `role` decides.")
    status: Any = Field(None, description=IGNORED)
    model: Any = Field(None, description=IGNORED)
    usage: Any = Field(None, description=IGNORED)
    finish_reason: Any = Field(None, description=IGNORED)
    stop_reason: Any = Field(None, description=f"{IGNORED} (Anthropic's)")
    stop_sequence: Any = Field(None, description=f"{IGNORED} (Anthropic's)")
    citations: Any = Field(None, description=IGNORED)
    thinking_blocks: Any = Field(None, description=f"{IGNORED} (LiteLLM's)")
    additional_kwargs: Any = Field(None, description=f"{IGNORED} (LangChain's)")
    response_metadata: Any = Field(None, description=f"{IGNORED} (LangChain's)")
    created: Any = Field(None, description=IGNORED)
    createdAt: Any = Field(None, description=f"{IGNORED} (AI SDK's)")


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A field that is not supported: the values that change nothing, and what to use in its place."""

    allowed: tuple[Any, ...] = ()
    hint: str = ""


class RequestBody(StrictModel):
    """A request body; `unsupported` has the fields of the original API that this service does not support."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {}

    model: str | None = Field(None, description="Name of the model, in any letter case. Default: the served model.")

    _ignored: tuple[str, ...] = PrivateAttr(())

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of unknown fields that were ignored, as sent."""
        return self._ignored

    @classmethod
    def read(cls, fields: dict[str, Any], *, ignore_unknown: bool = False) -> Self:
        """The validated body; raises InvalidRequest that names the field."""
        known = cls.names | cls.unsupported.keys()
        unknown = tuple(name for name, value in fields.items() if name not in known and value is not None)
        if unknown and not ignore_unknown:
            raise InvalidRequest(_unknown_field(unknown[0], known), truncate(unknown[0], 2 * MAX_QUOTED))
        for name, field in cls.unsupported.items():
            value = fields.get(name)
            if value is not None and not any(_same(value, allowed) for allowed in field.allowed):
                values = " or ".join(to_json(allowed).decode() for allowed in field.allowed)
                message = f"'{name}' is not supported by this service{f'; it may only be {values}' if values else ''}."
                raise InvalidRequest(f"{message} {field.hint}".rstrip(), name)
        try:
            body = cls.model_validate({name: value for name, value in fields.items() if name in cls.names})
        except ValidationError as error:
            raise invalid_fields(error) from None
        body._ignored = unknown
        return body

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, field in cls.unsupported.items():
            description = f"Not supported; accepted with these values. {field.hint}".rstrip()
            properties[name] = {"enum": [None, *field.allowed], "description": description}
        return schema


def _unknown_field(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, 1, 0.8) if len(name) <= MAX_QUOTED else []
    hint = f" The nearest field is '{close[0]}'." if close else ""
    return f"'{truncate(name, 2 * MAX_QUOTED)}' is not a field of this request.{hint}"


def _same(value: Any, allowed: Any) -> bool:
    numbers = isinstance(value, int | float) and isinstance(allowed, int | float)
    alike = isinstance(value, bool) == isinstance(allowed, bool) if numbers else type(value) is type(allowed)
    return alike and bool(value == allowed)


def _portable(value: dict[str, Any]) -> dict[str, Any]:
    """JSON that every parser accepts: ours reads 1e999 as infinity and integers of any length."""
    try:
        portable = orjson.loads(orjson.dumps(value)) == value
    except TypeError:
        portable = False
    if not portable:
        raise PydanticCustomError("number_range", "must have numbers within the range of 64 bits only")
    return value


JsonObject: TypeAlias = Annotated[dict[str, Any], AfterValidator(_portable)]
