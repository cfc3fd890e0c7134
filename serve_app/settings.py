"""All settings, with type, bounds, default and description.

`engine.max_slots` in code is `settings.engine.max_slots` in Helm values and `GLM_ENGINE__MAX_SLOTS`
in the environment. Arguments given in code override the environment. No other module of the package
reads settings from the environment. A secret is never a value here, only the path of its file.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serve_app.settings_access import AccessSettings, JwtSettings, LimitSettings
from serve_app.settings_audit import AuditSettings
from serve_app.settings_bots import BotSettings, DingtalkSettings, FeishuSettings, WecomSettings
from serve_app.settings_cache import CacheSettings
from serve_app.settings_http import HttpSettings
from serve_app.settings_scan import ScanSettings
from serve_app.settings_section import Section

DEMO_MODEL = Path(__file__).parent / "demo" / "model"


class ModelSettings(Section):
    """Which checkpoint is served, and in which weight format."""

    path: str = Field("", description="Model folder or hub id; empty: the demo model in the package.")
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit); None: the default branch.")
    name: str = Field("", description="Name in the API; empty: the last part of the path.")
    aliases: tuple[str, ...] = Field(
        (), description="More names that requests may give the model; the hub id is always one. Any letter case."
    )
    quantization: Literal["none", "fp8", "nf4", "int8"] = Field(
        "none",
        description="Weight format of the text layers; lm_head is not quantized. fp8 needs a GPU of compute capability"
        " 8.9 or newer.",
    )
    quantize_vision: bool = Field(
        False, description="Quantize the vision tower too: for cards with little memory (GLM-4V-9B's tower has 8 GiB)."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute type; auto: the checkpoint's own if the device supports it, float32 on a CPU."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs; auto: a GPU if present.")
    context_tokens: int = Field(
        8192, ge=64, description="Longest prompt plus answer, in tokens; reduced to what the checkpoint allows."
    )

    @property
    def served_name(self) -> str:
        return self.name or (Path(self.path).name if self.path else "glm-vision-demo")

    @property
    def source(self) -> str:
        return self.path or str(DEMO_MODEL)

    @property
    def is_demo(self) -> bool:
        return Path(self.source).resolve() == DEMO_MODEL.resolve()


class PreprocessSettings(Section):
    """Limits of pictures and of the work on a CPU."""

    renamed: ClassVar[Mapping[str, str]] = {"max_answer_tokens": "default_max_tokens"}

    max_images: int = Field(16, ge=0, description="Maximum number of pictures in one request.")
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="Largest encoded picture, in bytes.")
    max_image_pixels: int = Field(
        65_000_000,
        ge=1,
        le=178_956_970,
        description="Maximum number of pixels of one picture, read from its header before it is decoded; Pillow"
        " allows no more.",
    )
    max_request_pixels: int = Field(
        260_000_000,
        ge=1,
        description="Maximum number of pixels of all pictures of one request, read from their headers.",
    )
    max_jpeg_scans: int = Field(
        100, ge=1, le=1000, description="Maximum number of scans of a progressive JPEG; each is a pass over all pixels."
    )
    max_decode_cpu_s: float = Field(
        20.0, gt=0, le=300, description="Maximum CPU time to decode the pictures of one request, in seconds."
    )
    max_decode_queue: int = Field(
        256, ge=1, description="Maximum number of requests that wait for a decoder; further ones are refused (503)."
    )
    max_pdf_pages: int = Field(16, ge=1, description="Maximum number of pages of one PDF; each counts as a picture.")
    pdf_dpi: int = Field(150, ge=36, le=600, description="Resolution at which the pages of a PDF are rendered.")
    decoders: int = Field(
        2,
        ge=1,
        le=64,
        description="Processes of each replica that decode pictures; with two or more, one is reserved for small"
        " pictures.",
    )
    decoded_cache_mib: int = Field(
        64,
        ge=0,
        description="Size of each replica's cache of decoded pictures, in MiB, for follow-ups about them; 0: no cache.",
    )
    max_image_tokens: int = Field(
        6144, ge=4, description="Maximum number of tokens of one picture; larger pictures are scaled down."
    )
    low_detail_tokens: int = Field(256, ge=4, description='Maximum number of tokens of a picture with detail "low".')
    default_max_tokens: int = Field(
        1024,
        ge=1,
        description="The default of max_tokens: maximum number of tokens of an answer; reduced to what the context"
        " allows.",
    )
    clip_max_tokens: bool = Field(
        True,
        description="Lower a request's max_tokens to what is left of the context, and say so in X-Max-Tokens; false:"
        " refuse it.",
    )
    fetch_timeout_s: float = Field(
        10.0, gt=0, description="Longest time to fetch one picture from its URL, in seconds."
    )
    dns_timeout_s: float = Field(
        5.0, gt=0, le=60, description="Longest time to look up the host of a picture's URL, in seconds."
    )
    max_fetches: int = Field(
        64,
        ge=1,
        le=1024,
        description="Maximum number of pictures fetched at the same time; with those that wait, four times as many.",
    )
    max_fetches_per_host: int = Field(
        8, ge=1, description="Maximum number of pictures fetched from one host at the same time."
    )
    max_bytes_in_flight: int = Field(
        2**30,
        ge=2**20,
        description="Maximum size of files and pixels of all requests of a replica, in bytes; above it, 503.",
    )
    fetch_private_addresses: bool = Field(
        False, description="Also fetch pictures from private, loopback and link-local addresses."
    )


class EngineSettings(Section):
    """Batching in the model replica."""

    max_slots: int = Field(
        16, ge=1, le=512, description="Maximum number of sequences that are decoded together (rows of the KV cache)."
    )
    prefill_tokens: int = Field(
        1024,
        ge=16,
        description="Prompt tokens computed in one step, between decode steps. On a GPU, rows that decode in it count"
        " too, and pictures of three quarters as many tokens are encoded.",
    )
    max_waiting: int = Field(
        256,
        ge=0,
        description="Maximum number of requests that wait for a slot; further ones are refused (503). Also bounds the"
        " queue of preprocess and the requests in progress in an ingress.",
    )
    feature_cache_mib: int = Field(
        256, ge=0, description="Size of the cache of image features by content hash, in MiB; 0: no cache."
    )
    stream_interval_ms: float = Field(
        20.0,
        ge=0,
        le=1000,
        description="Shortest time between two events of a streamed answer; 0: one event for each token.",
    )
    grammar_processes: int = Field(
        2,
        ge=2,
        le=32,
        description="Processes that test the schemas, patterns and tools of requests; one is reserved for those that"
        " compile fast.",
    )
    grammar_cpu_s: float = Field(
        0.5, gt=0.01, le=60, description="Maximum CPU time to compile one schema, pattern or set of tools, in seconds."
    )
    grammar_memory_mib: int = Field(
        1024, ge=256, description="Maximum memory to compile one schema, pattern or set of tools, in MiB."
    )
    grammar_queue: int = Field(
        32,
        ge=1,
        le=1024,
        description="Maximum number of schemas, patterns and tools that wait to be compiled; further ones are"
        " refused (503).",
    )
    threads: int = Field(
        0, ge=0, description="CPU threads of the model; 0: all cores of the machine, divided among engine replicas."
    )


class ReplicaSettings(Section):
    """Processes of each stage that `glm-serve up` starts on one machine; the chart has `stages` instead."""

    engine: int = Field(1, ge=1, le=64, description="Engine replicas; on GPUs each has one of its own.")
    preprocess: int = Field(
        0,
        ge=0,
        le=256,
        description="Preprocess replicas; 0: one, and with several engine replicas one for each, or two where there are"
        " four CPU cores for each of them.",
    )
    ingress: int = Field(
        0,
        ge=0,
        le=64,
        description="Ingress replicas, which share one port; 0: one for each engine replica, or one if callers are"
        " counted in its memory (keys or limits without `limits.redis_url`).",
    )


class MetricsSettings(Section):
    """The Prometheus endpoint."""

    port: int = Field(8080, ge=1, le=65535, description="Port of the Prometheus endpoint of each node.")
    refresh_s: float = Field(
        5.0,
        gt=0,
        le=10,
        description="Interval at which memory gauges are refreshed, in seconds; Ray drops them after 20 s.",
    )


class LogSettings(Section):
    """The log."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")
    folder: str = Field(
        "",
        description="Folder of log files; empty: Ray's own in a pod, and for `glm-serve up` "
        "$XDG_STATE_HOME/glm-vision-serve/logs, or ~/.local/state/glm-vision-serve/logs.",
    )
    kept_runs: int = Field(10, ge=1, description="`glm-serve up`: how many runs the log folder keeps.")


def default_log_folder() -> Path:
    """Where `glm-serve up` keeps logs, by the XDG base directory specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "glm-vision-serve" / "logs"


class Settings(BaseSettings):
    """All sections; values from arguments, then `GLM_*` variables, then defaults."""

    model_config = SettingsConfigDict(
        env_prefix="GLM_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )

    model: ModelSettings = ModelSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    engine: EngineSettings = EngineSettings()
    replicas: ReplicaSettings = ReplicaSettings()
    http: HttpSettings = HttpSettings()
    cache: CacheSettings = CacheSettings()
    audit: AuditSettings = AuditSettings()
    scan: ScanSettings = ScanSettings()
    access: AccessSettings = AccessSettings()
    jwt: JwtSettings = JwtSettings()
    limits: LimitSettings = LimitSettings()
    bots: BotSettings = BotSettings()
    wecom: WecomSettings = WecomSettings()
    dingtalk: DingtalkSettings = DingtalkSettings()
    feishu: FeishuSettings = FeishuSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()


def unknown_variables() -> dict[str, str]:
    """Variables with our prefix that are no setting, each with the most similar setting, or "".

    Kubernetes sets variables for the services of a namespace, also for those whose names begin with `glm`; they are
    left out.
    """
    sections = {f"GLM_{name}".upper(): field.annotation for name, field in Settings.model_fields.items()}
    known = [
        f"{prefix}__{name}".upper()
        for prefix, section in sections.items()
        if isinstance(section, type) and issubclass(section, Section)
        for name in (*section.model_fields, *section.renamed)
    ]
    services = tuple(name.removesuffix("SERVICE_HOST") for name in os.environ if name.endswith("_SERVICE_HOST"))
    return {
        name: next(iter(difflib.get_close_matches(name.upper(), known, 1, 0.7)), "")
        for name in sorted(os.environ)
        if name.upper().startswith("GLM_") and not name.startswith(services)
        if "__".join(name.upper().split("__")[:2]) not in {*sections, *known}
    }
