"""Every metric of the service, declared once; written through Ray, which exports them on each node.

The Grafana panels that show them are in helm/generate/dashboards_service.py and dashboards_engine.py.

Code gets a `Meter` and calls `meter.observe(FIRST_TOKEN_SECONDS, 0.2)`. In a Serve replica it is a
`RayMeter`; elsewhere (unit tests, offline engine) a `SilentMeter`. Ray adds `ray_` to the names and the
tags `deployment`, `replica`, `application`. With Ray, a gauge that is not set again disappears after 20 s,
and a histogram's `_sum` is approximate, so query quantiles, not means.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A declared metric: `name` follows glm_<what>_<unit>, counters end in _total."""

    name: str
    kind: Kind
    description: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300,
)  # fmt: skip
_FINE_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10,
)  # fmt: skip
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)

# -- ingress
REQUESTS = Metric("glm_requests_total", "counter", "Requests by route and HTTP status.", ("route", "status"))
REJECTIONS = Metric(
    "glm_rejections_total", "counter", "Requests refused or failed, by error code; without probes.", ("code",)
)
CANCELLATIONS = Metric(
    "glm_cancellations_total", "counter", "Answers whose client closed the connection before the end."
)
REQUEST_SECONDS = Metric(
    "glm_request_seconds", "histogram", "Duration of a request at the HTTP server.", ("route",), _SECONDS
)
FIRST_TOKEN_SECONDS = Metric(
    "glm_first_token_seconds", "histogram", "From the request's arrival to its first text.", (), _SECONDS
)
OUTPUT_TOKEN_SECONDS = Metric(
    "glm_output_token_seconds", "histogram", "Mean time per token after the first, of one answer.", (), _FINE_SECONDS
)

LIMIT_STORE_ERRORS = Metric(
    "glm_limit_store_errors_total", "counter", "Times that the Redis of limits failed or took too long."
)
LIMIT_STORE_DOWN = Metric(
    "glm_limit_store_down", "gauge", "1 while this replica counts limits for itself, because Redis does not respond."
)
CALLER_TOKENS = Metric(
    "glm_caller_tokens_total", "counter", "Tokens of prompts and answers, by class of tenants.", ("tenant_class",)
)
CALLER_DEVICE_SECONDS = Metric(
    "glm_caller_device_seconds_total",
    "counter",
    "Time of the model's device (encode, prefill and decode), by class of tenants.",
    ("tenant_class",),
)
JWKS_ERRORS = Metric("glm_jwks_errors_total", "counter", "Readings of the keys of JSON Web Tokens that failed.")

# -- answer cache
ANSWER_CACHE_LOOKUPS = Metric(
    "glm_answer_cache_lookups_total",
    "counter",
    "Lookups by result: hit, miss, joined (an identical request in progress), refresh, blocked, invalid, unavailable;"
    " not_kept: an answer could not be stored.",
    ("result",),
)
ANSWER_CACHE_LOOKUP_SECONDS = Metric(
    "glm_answer_cache_lookup_seconds", "histogram", "Duration of a lookup.", (), _FINE_SECONDS
)
ANSWER_CACHE_BYTES = Metric("glm_answer_cache_bytes", "gauge", "Size of the answers kept in this process.")

# -- audit log
AUDIT_LINES = Metric("glm_audit_lines_total", "counter", "Lines written to the audit log.")
AUDIT_FAILURES = Metric("glm_audit_failures_total", "counter", "Lines of the audit log that could not be written.")

# -- bots
BOT_MESSAGES = Metric(
    "glm_bot_messages_total",
    "counter",
    "Messages of chat platforms by outcome: answered, repeated, command, too_many, file_failed or an error code.",
    ("platform", "outcome"),
)
BOT_ANSWER_SECONDS = Metric(
    "glm_bot_answer_seconds", "histogram", "From a bot's message to its complete answer.", ("platform",), _SECONDS
)
BOT_WAITING = Metric("glm_bot_waiting", "gauge", "Questions of bots that wait for the model.")
BOT_CALLBACKS_REFUSED = Metric(
    "glm_bot_callbacks_refused_total",
    "counter",
    "Callbacks refused: signature, time, body or another receiver.",
    ("platform", "reason"),
)
BOT_SENDS = Metric(
    "glm_bot_sends_total", "counter", "Texts sent to a chat platform, by result: ok or failed.", ("platform", "result")
)

# -- preprocess
STAGE_SECONDS = Metric(
    "glm_stage_seconds",
    "histogram",
    "Time in one stage: fetch, decode (of pictures), resize, tokenize; in the engine queue, encode, prefill (a chunk),"
    " decode_step.",
    ("stage",),
    _FINE_SECONDS,
)
SCANS = Metric("glm_scans_total", "counter", "Uploads scanned for malware: clean, found or failed.", ("result",))
PICTURES = Metric("glm_pictures_total", "counter", "Pictures of prepared requests, by file format.", ("format",))
PICTURE_TOKENS = Metric("glm_picture_tokens", "histogram", "Tokens of one picture.", (), _TOKENS)

# -- engine
PROMPT_TOKENS = Metric("glm_prompt_tokens_total", "counter", "Prompt tokens read, pictures included.")
PREFIX_TOKENS = Metric(
    "glm_prefix_tokens_total", "counter", "Prompt tokens that were not computed: an earlier prompt's pages hold them."
)
IMAGE_TOKENS = Metric("glm_image_tokens_total", "counter", "Prompt tokens of pictures.")
OUTPUT_TOKENS = Metric("glm_output_tokens_total", "counter", "Tokens generated.")
BATCH_SIZE = Metric("glm_batch_size", "histogram", "Sequences in one decode step.", (), _BATCH)
SLOTS = Metric("glm_slots", "gauge", "Slots of the KV cache.")
SLOTS_USED = Metric("glm_slots_used", "gauge", "Slots that hold a sequence.")
WAITING = Metric("glm_waiting_requests", "gauge", "Requests waiting for a slot.")
KV_TOKENS = Metric("glm_kv_tokens", "gauge", "Tokens that the KV cache can hold.")
KV_TOKENS_USED = Metric("glm_kv_tokens_used", "gauge", "Tokens that the KV cache holds now.")
FEATURE_CACHE_HITS = Metric("glm_feature_cache_hits_total", "counter", "Pictures whose features were in the cache.")
FEATURE_CACHE_MISSES = Metric("glm_feature_cache_misses_total", "counter", "Pictures that had to be encoded.")
PICTURES_WITHOUT_PIXELS = Metric(
    "glm_pictures_without_pixels_total",
    "counter",
    "Pictures whose pixels the engine was not sent: known, or needed after all.",
    ("result",),
)
FEATURE_CACHE_BYTES = Metric("glm_feature_cache_bytes", "gauge", "Memory held by cached image features.")
OUT_OF_MEMORY = Metric("glm_out_of_memory_total", "counter", "Out-of-memory errors caught by the engine.")
VRAM_ALLOCATED = Metric("glm_vram_allocated_bytes", "gauge", "Device memory held by tensors of this replica.")
VRAM_RESERVED = Metric("glm_vram_reserved_bytes", "gauge", "Device memory held by this replica's allocator.")
VRAM_PEAK = Metric("glm_vram_peak_bytes", "gauge", "Maximum device memory that this replica's tensors have held.")
VRAM_DEVICE_USED = Metric("glm_vram_device_used_bytes", "gauge", "Device memory in use by all processes.")
VRAM_DEVICE_TOTAL = Metric("glm_vram_device_total_bytes", "gauge", "Memory of the device.")
MODEL_LOAD_SECONDS = Metric("glm_model_load_seconds", "gauge", "Time this replica took to load its model.")

DECLARED: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Meter(Protocol):
    """Records measurements; every tag that a metric declares must be given."""

    def count(self, metric: Metric, value: float = 1.0, **tags: str) -> None: ...

    def observe(self, metric: Metric, value: float, **tags: str) -> None: ...

    def set(self, metric: Metric, value: float, **tags: str) -> None: ...


class SilentMeter:
    """A meter without Ray: it discards measurements."""

    def count(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        pass

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        pass

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        pass


class RayMeter:
    """A meter inside a Serve replica; Ray's agent on each node exports its metrics."""

    def __init__(self) -> None:
        self._instruments: dict[str, Any] = {}

    def count(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        if value > 0:  # Ray does not accept zero
            self._instrument(metric).inc(value, tags=tags)

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        self._instrument(metric).observe(value, tags=tags)

    def set(self, metric: Metric, value: float, **tags: str) -> None:
        self._instrument(metric).set(value, tags=tags)

    def _instrument(self, metric: Metric) -> Any:
        instrument = self._instruments.get(metric.name)
        if instrument is None:
            instrument = self._instruments[metric.name] = _create(metric)
        return instrument


def _create(metric: Metric) -> Any:
    from ray.serve import metrics as ray_metrics  # imported late: plain tests need no Ray

    match metric.kind:
        case "counter":
            return ray_metrics.Counter(metric.name, metric.description, tag_keys=metric.tags)
        case "gauge":
            return ray_metrics.Gauge(metric.name, metric.description, tag_keys=metric.tags)
        case "histogram":
            return ray_metrics.Histogram(
                metric.name, metric.description, boundaries=list(metric.buckets), tag_keys=metric.tags
            )
