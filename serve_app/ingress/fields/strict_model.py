"""The base of all request bodies: strict JSON objects; unsupported and ignored fields of other APIs.

There are three kinds of fields. Most have an effect. Those with the description IGNORED are accepted and
have none. The `unsupported` ones of a body are accepted with a value that changes nothing and refused by
name otherwise. Any other field is refused, so that no part of a request is ignored unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self, TypeAlias

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, to_json

from serve_app.errors import InvalidRequest
from serve_app.ingress.validation import invalid_fields

IGNORED: Final = "Accepted and ignored."
MAX_INT: Final = 2**31 - 1  # of a token count or a token id


class StrictModel(BaseModel):
    """A JSON object of the API: no unknown fields, no silent conversions ("0.5" is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A field that is not supported: the values that change nothing, and what to use in its place."""

    allowed: tuple[Any, ...] = ()
    hint: str = ""


class RequestBody(StrictModel):
    """A request body; `unsupported` has the fields of the original API that this service does not support."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {}

    model: str | None = Field(None, description="Default: the served model.")

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self:
        """The validated body; raises InvalidRequest that names the field."""
        for name, field in cls.unsupported.items():
            value = fields.pop(name, None)
            if value is not None and not any(_same(value, allowed) for allowed in field.allowed):
                values = " or ".join(to_json(allowed).decode() for allowed in field.allowed)
                message = f"'{name}' is not supported by this service{f'; it may only be {values}' if values else ''}."
                raise InvalidRequest(f"{message} {field.hint}".rstrip(), name)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid_fields(error) from None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, field in cls.unsupported.items():
            description = f"Not supported; accepted with these values. {field.hint}".rstrip()
            properties[name] = {"enum": [None, *field.allowed], "description": description}
        return schema


def _same(value: Any, allowed: Any) -> bool:
    return type(value) is type(allowed) and bool(value == allowed)


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


class IgnoredFields(StrictModel):
    """OpenAI's hints for its own platform; they have no effect here."""

    user: str | None = Field(None, description=IGNORED)
    store: bool | None = Field(None, description=f"{IGNORED} Nothing is stored.")
    safety_identifier: str | None = Field(None, description=IGNORED)
    prompt_cache_key: str | None = Field(None, description=IGNORED)
    prompt_cache_retention: str | None = Field(None, description=IGNORED)
    prompt_cache_options: dict[str, Any] | None = Field(None, description=IGNORED)
    service_tier: str | None = Field(None, description=f'{IGNORED} The response has "default".')
