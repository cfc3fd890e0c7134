"""What all bodies share: strict JSON objects, fields that have no effect, fields refused by name.

Three kinds of fields. Most mean what they say. Those that IGNORED describes are accepted and have
no effect. A body's `refused` ones are accepted with a value that asks for nothing and refused by
name otherwise. Any other field is refused, so that nothing is silently half-done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, to_json

from serve_app.errors import InvalidRequest
from serve_app.ingress.errors import invalid_fields

IGNORED: Final = "Accepted and ignored."
MAX_INT: Final = 2**31 - 1  # of a count of tokens, or a token's id


class Wire(BaseModel):
    """A JSON object of the API: no unknown fields, no silent conversions ("0.5" is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that is not supported: the values that ask for nothing, and what to use instead."""

    harmless: tuple[Any, ...] = ()
    instead: str = ""


class Body(Wire):
    """A request body; `refused` are fields of others' APIs that this service does not have."""

    refused: ClassVar[dict[str, Refused]] = {}

    model: str | None = Field(None, description="Left out: the served model.")

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """The checked body; raises InvalidRequest with the field at fault."""
        for name, refused in cls.refused.items():
            value = fields.pop(name, None)
            if value is not None and not any(_same(value, harmless) for harmless in refused.harmless):
                raise InvalidRequest(_not_supported(name, refused), name)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid_fields(error) from None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, refused in cls.refused.items():
            properties[name] = {
                "enum": [None, *refused.harmless],
                "description": f"Not supported; may say so.{refused.instead and f' {refused.instead}'}",
            }
        return schema


def _same(value: Any, harmless: Any) -> bool:
    return type(value) is type(harmless) and bool(value == harmless)


def _not_supported(name: str, refused: Refused) -> str:
    values = " or ".join(to_json(value).decode() for value in refused.harmless)
    told = f"'{name}' is not supported by this service{f'; it may only be {values}' if values else ''}."
    return f"{told} {refused.instead}".rstrip()


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """JSON that any reader takes: 1e999 was read as infinity, integers may be of any length."""
    try:
        plain = orjson.loads(orjson.dumps(value)) == value
    except TypeError:
        plain = False
    if not plain:
        raise PydanticCustomError("number_range", "must have numbers within the range of 64 bits only")
    return value


JsonObject: TypeAlias = Annotated[dict[str, Any], AfterValidator(_plain)]


class Hints(Wire):
    """OpenAI's hints for its own platform; they change nothing here."""

    user: str | None = Field(None, description=IGNORED)
    store: bool | None = Field(None, description=f"{IGNORED} Nothing is stored.")
    safety_identifier: str | None = Field(None, description=IGNORED)
    prompt_cache_key: str | None = Field(None, description=IGNORED)
    prompt_cache_retention: str | None = Field(None, description=IGNORED)
    prompt_cache_options: dict[str, Any] | None = Field(None, description=IGNORED)
    service_tier: str | None = Field(None, description=f'{IGNORED} The reply says "default".')
