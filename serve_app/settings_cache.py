"""Settings of the answer cache, and of feedback on answers."""

from typing import Literal

from pydantic import Field, model_validator

from serve_app.settings_section import Section


class CacheSettings(Section):
    """The answer cache (docs/answer-cache.md) and feedback on answers."""

    backend: Literal["off", "memory", "redis"] = Field(
        "memory", description="Where answers are kept: nowhere, in each ingress replica, or in Redis for all of them."
    )
    answers: Literal["deterministic", "all"] = Field(
        "deterministic",
        description="Which answers are kept: those that repeat (temperature 0 or a seed), or sampled ones too.",
    )
    ttl_s: float = Field(3600.0, gt=0, description="How long an answer is kept, in seconds.")
    memory_mib: int = Field(
        64, ge=1, description="Backend memory: maximum size of all kept answers of one ingress replica, in MiB."
    )
    max_answer_kib: int = Field(512, ge=1, description="Maximum size of one kept answer, in KiB.")
    candidates_file: str = Field(
        "",
        description="File of JSON lines for questions, answers and comments of answers that were rated down; empty:"
        " none are kept.",
    )
    redis_url: str = Field(
        "",
        description="Backend redis: address of the server, `redis://host:6379/0`, with TLS `rediss://host:6379/0`;"
        " without a password.",
        json_schema_extra={"pattern": "^[^@]*$"},
    )
    redis_user: str = Field("", description="Backend redis: user name of the server.")
    redis_password_file: str = Field("", description="Backend redis: file with the password of the server.")
    redis_timeout_ms: float = Field(
        50.0, gt=0, le=5000, description="Backend redis: a lookup that takes longer is a miss, in milliseconds."
    )
    signing_key_file: str = Field(
        "",
        description="Backend redis: file with a secret of 16 bytes or more, by which answers are signed; the same for"
        " all replicas. Empty: a checksum, which finds damage but no forgery.",
    )

    @model_validator(mode="after")
    def _redis_has_an_address(self) -> "CacheSettings":
        if self.backend == "redis" and not self.redis_url:
            raise ValueError("cache.backend is redis, so cache.redis_url must have its address.")
        if "@" in self.redis_url:
            raise ValueError("cache.redis_url must not have a password; use cache.redis_password_file.")
        return self
