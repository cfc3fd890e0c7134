"""Rows of the dashboard Service for parts that settings switch on: cache, audit, scan, bots, access."""

from __future__ import annotations

from dashboards_panels import Query, lines
from dashboards_queries import quantile, rate, total

from serve_app import metrics

CACHE_AUDIT_SCAN = (
    "Answer cache, audit and scan",
    [
        lines(
            "Answer cache lookups",
            "By result. hit and joined: no work of the model; unavailable: Redis did not respond in time; "
            "invalid: a damaged or forged answer was ignored.",
            "reqps",
            Query(rate(metrics.ANSWER_CACHE_LOOKUPS, by="result"), "{{result}}"),
            stacked=True,
            width=6,
        ),
        lines(
            "Answer cache lookup time",
            "Time of one lookup, in memory or in Redis.",
            "s",
            Query(quantile(0.5, metrics.ANSWER_CACHE_LOOKUP_SECONDS), "p50"),
            Query(quantile(0.99, metrics.ANSWER_CACHE_LOOKUP_SECONDS), "p99"),
            width=6,
        ),
        lines(
            "Audit log",
            "Lines written, and lines that could not be written.",
            "short",
            Query(rate(metrics.AUDIT_LINES), "written"),
            Query(rate(metrics.AUDIT_FAILURES), "failed"),
            width=6,
        ),
        lines(
            "Scans for malware",
            "Uploads by clamd's result. found: refused; failed: clamd did not scan, is down or late.",
            "reqps",
            Query(rate(metrics.SCANS, by="result"), "{{result}}"),
            stacked=True,
            width=6,
        ),
    ],
)

BOTS = (
    "Bots",
    [
        lines(
            "Messages of bots",
            "Messages of chat platforms by outcome. repeated: delivered again by the platform.",
            "reqps",
            Query(rate(metrics.BOT_MESSAGES, by="outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            "Answer time of bots",
            "From the message to the complete answer.",
            "s",
            Query(quantile(0.5, metrics.BOT_ANSWER_SECONDS), "p50"),
            Query(quantile(0.95, metrics.BOT_ANSWER_SECONDS), "p95"),
        ),
        lines(
            "Bots and their platforms",
            "Questions that wait for the model, refused callbacks and sent texts.",
            "short",
            Query(total(metrics.BOT_WAITING), "waiting"),
            Query(rate(metrics.BOT_CALLBACKS_REFUSED, by="reason"), "refused: {{reason}}"),
            Query(rate(metrics.BOT_SENDS, by="result"), "sent: {{result}}"),
        ),
    ],
)

ACCESS = (
    "Access",
    [
        lines(
            "Refused requests",
            "No valid credentials (401), no permission (403), above a limit of the caller (429).",
            "reqps",
            Query(
                rate(
                    metrics.REJECTIONS,
                    'code=~"invalid_api_key|permission_denied|rate_limit_exceeded"',
                    by="code",
                ),
                "{{code}}",
            ),
            width=12,
            stacked=True,
        ),
        lines(
            "Redis of the limits",
            "Replicas that count for themselves because Redis does not respond, and calls that failed.",
            "short",
            Query(total(metrics.LIMIT_STORE_DOWN), "replicas without Redis"),
            Query(total(metrics.LIMIT_STORE_ERRORS), "failed calls"),
            width=12,
        ),
        lines(
            "Tokens by class of tenants",
            "Tokens of prompts and answers; classes are the setting access.metric_classes.",
            "short",
            Query(rate(metrics.CALLER_TOKENS, by="tenant_class"), "{{tenant_class}}"),
            stacked=True,
        ),
        lines(
            "Device time by class of tenants",
            "Seconds of GPUs (or CPUs) per second: each request's share of encode, prefill and decode.",
            "short",
            Query(rate(metrics.CALLER_DEVICE_SECONDS, by="tenant_class"), "{{tenant_class}}"),
            stacked=True,
        ),
        lines(
            "Keys of JSON Web Tokens",
            "Readings of the identity provider's keys that failed; known keys stay in force.",
            "short",
            Query(total(metrics.JWKS_ERRORS), "failed readings"),
        ),
    ],
)
