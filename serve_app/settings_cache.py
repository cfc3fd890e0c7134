"""Settings of the answer cache."""

from typing import Literal

from pydantic import Field

from serve_app.settings_section import Section


class CacheSettings(Section):
    """The answer cache (docs/answer-cache.md)."""

    backend: Literal["off", "memory"] = Field(
        "memory", description="Where answers are kept: nowhere, or in each ingress replica."
    )
    answers: Literal["deterministic", "all"] = Field(
        "deterministic",
        description="Which answers are kept: those that repeat (temperature 0 or a seed), or sampled ones too.",
    )
    ttl_s: float = Field(3600.0, gt=0, description="How long an answer is kept, in seconds.")
    memory_mib: int = Field(64, ge=1, description="Maximum size of all kept answers of one ingress replica, in MiB.")
    max_answer_kib: int = Field(512, ge=1, description="Maximum size of one kept answer, in KiB.")
