"""Fields of reasoning: whether and how long; five fields that may not contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import Field, model_validator

from serve_app.contracts import Thinking
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import IGNORED, MAX_INT, Integer, StrictModel, Switch, read_number

T = TypeVar("T")

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# OpenAI defines no numbers for its efforts; these are ours. None: the answer's token limit only.
BUDGETS: Final[dict[Effort, int | None]] = {
    "minimal": 512,
    "low": 1024,
    "medium": 4096,
    "high": None,
    "xhigh": None,
    "max": None,
}
EFFORT: Final = (
    "none: the answer without reasoning. "
    + ", ".join(f"{effort}: {budget} tokens" for effort, budget in BUDGETS.items() if budget)
    + " of reasoning at most. high, xhigh and max: no limit. Default: that of the model's chat template."
)

CLEAR: Final = f"{IGNORED} The chat template decides which earlier reasoning the model reads. (z.ai's)"

Budget: TypeAlias = Annotated[Integer, Field(ge=1, le=MAX_INT)]


class TemplateArguments(StrictModel):
    """vLLM's arguments for the chat template; GLM's template takes this one."""

    enable_thinking: Switch | None = Field(None, description="Whether the model reasons before it answers.")
    clear_thinking: Any = Field(None, description=CLEAR)


class ThinkingSwitch(StrictModel):
    """z.ai's and Anthropic's field."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] = Field(
        description="Whether the model reasons. adaptive, auto: the default of its chat template."
    )
    budget_tokens: Budget | None = Field(
        None, description="The answer begins after this many tokens of reasoning; 0 only with `disabled`."
    )
    clear_thinking: Any = Field(None, description=CLEAR)

    @model_validator(mode="before")
    @classmethod
    def _without_budget_of_0(cls, fields: Any) -> Any:
        """LobeChat sends `{"type": "disabled", "budget_tokens": 0}`."""
        if not isinstance(fields, dict) or fields.get("type") != "disabled":
            return fields
        return {**fields, "budget_tokens": None} if read_number(fields.get("budget_tokens")) == 0 else fields


class ThinkingFields(StrictModel):
    """Whether and how long the model reasons; refused where the served model can't."""

    reasoning_effort: Effort | None = Field(None, description=EFFORT)
    thinking: ThinkingSwitch | None = Field(None, description="Whether and how long the model reasons.")
    enable_thinking: Switch | None = Field(None, description="Whether the model reasons. (Qwen's and SGLang's)")
    thinking_token_budget: Budget | None = Field(
        None, description="The same as `thinking.budget_tokens`. (vLLM's and SGLang's)"
    )
    chat_template_kwargs: TemplateArguments | None = Field(None, description="Arguments for the chat template.")


def thinking(fields: ThinkingFields) -> Thinking:
    """The contract's Thinking; raises InvalidRequest where one field contradicts another."""
    budgets: dict[str, int | None] = {"thinking_token_budget": fields.thinking_token_budget}
    enabled: dict[str, bool | None] = {}
    if fields.chat_template_kwargs is not None:
        enabled["chat_template_kwargs.enable_thinking"] = fields.chat_template_kwargs.enable_thinking
    enabled["enable_thinking"] = fields.enable_thinking
    if fields.thinking is not None:
        enabled["thinking.type"] = {"enabled": True, "disabled": False}.get(fields.thinking.type)
        budgets["thinking.budget_tokens"] = fields.thinking.budget_tokens
    enabled |= {name: True for name, budget in budgets.items() if budget is not None}
    if fields.reasoning_effort is not None:
        enabled["reasoning_effort"] = fields.reasoning_effort != "none"
        budgets["reasoning_effort"] = BUDGETS.get(fields.reasoning_effort)
    settings = Thinking(_single_value(enabled), _single_value(budgets))
    param = next((name for name, value in enabled.items() if value is not None), settings.param)
    return replace(settings, param=param)


def thinking_of_effort(effort: Effort | None, param: str) -> Thinking:
    """The settings of an effort alone; `param` is the request field that holds it."""
    return replace(thinking(ThinkingFields(reasoning_effort=effort)), param=param)


def _single_value(fields: Mapping[str, T | None]) -> T | None:
    """The value of the fields that are set; raises InvalidRequest if two of them differ."""
    given = {name: value for name, value in fields.items() if value is not None}
    first = next(iter(given), "")
    for name, value in given.items():
        if value != given[first]:
            raise InvalidRequest(f"'{name}' contradicts '{first}'; give one of them.", name)
    return given.get(first)
