"""The one tree of settings: every knob with its type, bound, default and description.

`engine.max_slots` in code is `settings.engine.max_slots` in Helm values and `GLM_ENGINE__MAX_SLOTS`
in the environment. Arguments given in code win over the environment. Nothing else in the package
reads the environment. No secret is ever a value here, only the path of a file that holds it.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEMO_MODEL = Path(__file__).parent / "demo" / "model"

_log: Final = logging.getLogger("glm.settings")


class Section(BaseModel):
    """A branch of the tree: unknown keys are refused, values never change after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    renamed: ClassVar[Mapping[str, str]] = {}  # old name -> name; old names are accepted until 0.2

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not (old_names := cls.renamed.keys() & values.keys()):
            return values
        values = dict(values)
        for old in old_names:
            value, name = values.pop(old), cls.renamed[old]
            values.setdefault(name, value)
            _log.warning("The setting %s is now called %s. Version 0.2 will refuse the old name.", old, name)
        return values


class ModelSettings(Section):
    """Which checkpoint is served and how its weights are held."""

    path: str = Field("", description="Model folder or hub id; empty: the demo model in the package.")
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit); None: the default branch.")
    name: str = Field("", description="Name in the API; empty: the last part of the path.")
    quantization: Literal["none", "nf4", "int8"] = Field(
        "none", description="Weight format of the text layers (bitsandbytes); lm_head stays whole."
    )
    quantize_vision: bool = Field(
        False, description="Quantize the vision tower too: for cards that do not hold it whole (GLM-4V-9B's is 8 GiB)."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute type; auto: the checkpoint's own where the device can, float32 on a CPU."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs; auto: a GPU if present.")
    context_tokens: int = Field(
        8192, ge=64, description="Longest prompt plus answer, in tokens; cut to what the checkpoint allows."
    )

    @property
    def served_name(self) -> str:
        return self.name or (Path(self.path).name if self.path else "glm-vision-demo")

    @property
    def source(self) -> str:
        return self.path or str(DEMO_MODEL)


class PreprocessSettings(Section):
    """What a picture may be, and how much CPU work one replica takes."""

    renamed = {"max_answer_tokens": "default_max_tokens"}

    max_images: int = Field(16, ge=0, description="Pictures in one request.")
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="Size of one encoded picture, in bytes.")
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        le=178_956_970,
        description="Pixels of one picture, read from its header before it is decoded; Pillow itself allows no more.",
    )
    max_image_tokens: int = Field(
        6144, ge=4, description="Most tokens one picture may cost; larger ones are scaled down."
    )
    low_detail_tokens: int = Field(256, ge=4, description='Most tokens of a picture sent with detail "low".')
    default_max_tokens: int = Field(
        1024,
        ge=1,
        description="Most tokens of an answer whose request gives no max_tokens; cut to what the context allows.",
    )
    fetch_timeout_s: float = Field(10.0, gt=0, description="Time to fetch one picture from its address, in seconds.")
    fetch_private_addresses: bool = Field(
        False, description="Also fetch pictures from private, loopback and link-local addresses."
    )


class EngineSettings(Section):
    """How the model replica batches."""

    max_slots: int = Field(16, ge=1, le=512, description="Sequences decoded together (rows of the KV cache).")
    prefill_tokens: int = Field(1024, ge=16, description="Prompt tokens computed in one step, between decode steps.")
    max_waiting: int = Field(256, ge=0, description="Requests that may wait for a slot; one more is refused (503).")
    feature_cache_mib: int = Field(256, ge=0, description="Image features kept by content hash, in MiB; 0: none.")
    stream_interval_ms: float = Field(
        20.0, ge=0, le=1000, description="Least time between two pieces of a streamed answer; 0: every token by itself."
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0: all cores the machine has.")


class HttpSettings(Section):
    """The HTTP door."""

    host: str = Field("127.0.0.1", description="Address listened on; loopback unless told otherwise.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP API.")
    max_choices: int = Field(8, ge=1, le=128, description="Most answers to one request (`n`).")
    max_body_bytes: int = Field(64 * 2**20, ge=1024, description="Largest request body, in bytes.")
    request_timeout_s: float = Field(300.0, gt=0, description="Longest time for one answer, in seconds.")


class MetricsSettings(Section):
    """Where Prometheus finds the metrics."""

    port: int = Field(8080, ge=1, le=65535, description="Port of the node's Prometheus endpoint on one machine.")
    refresh_s: float = Field(5.0, gt=0, le=10, description="Refresh of memory gauges; Ray drops them after 20 s.")


class LogSettings(Section):
    """The log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level written.")


class Settings(BaseSettings):
    """The whole tree; from arguments, then `GLM_*` variables, then defaults."""

    model_config = SettingsConfigDict(
        env_prefix="GLM_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )

    model: ModelSettings = ModelSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    engine: EngineSettings = EngineSettings()
    http: HttpSettings = HttpSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
