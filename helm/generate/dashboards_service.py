"""The dashboard Service: requests, failures and latency as callers see them, queues, replicas, input.

It shows whether the service works and which stage causes a problem; the dashboard Engine shows the GPUs.
"""

from __future__ import annotations

from dashboards_panels import Query, dashboard_json, lines, number, states, variable
from dashboards_queries import APPLICATION, CALLER_ROUTES, FAILED, metric, quantile, rate, total

from serve_app import metrics

STAGE = 'deployment=~"$deployment"'
READY = total("ray_serve_deployment_replica_healthy", APPLICATION, STAGE, by="deployment")
WANTED = total("ray_serve_autoscaling_target_replicas", APPLICATION, STAGE, by="deployment")
STATUS = {
    0: ("unknown", "text"),
    1: ("deploy failed", "red"),
    2: ("unhealthy", "red"),
    3: ("updating", "blue"),
    4: ("scaling up", "blue"),
    5: ("scaling down", "blue"),
    6: ("healthy", "green"),
}


def _missing() -> str:
    wanted = total("ray_serve_autoscaling_target_replicas", APPLICATION, by="ray_io_cluster, deployment")
    ready = total("ray_serve_deployment_replica_healthy", APPLICATION, by="ray_io_cluster, deployment")
    return f"sum(clamp_min({wanted} - ({ready} or 0 * {wanted}), 0))"


def service() -> str:
    """The dashboard as JSON."""
    failed_share = f"({rate(metrics.REJECTIONS, FAILED)} or vector(0)) / ({rate(metrics.REQUESTS, CALLER_ROUTES)} > 0)"
    return dashboard_json(
        "glm-service",
        "GLM Vision Serve / Service",
        "Request rate, failures and latency as callers see them, and which stage has too few replicas.",
        [variable("deployment", "Stage", f"ray_serve_deployment_status{{{APPLICATION}}}", "deployment", multiple=True)],
        [
            (
                "Overview",
                [
                    number(
                        "Requests",
                        "Requests per second, without probes.",
                        "reqps",
                        rate(metrics.REQUESTS, CALLER_ROUTES),
                    ),
                    number(
                        "Failed requests",
                        "Share of requests that failed for reasons other than the caller's: overload, deadline, engine "
                        "or internal error, including errors inside a stream.",
                        "percentunit",
                        failed_share,
                        (0.01, "orange"),
                        (0.05, "red"),
                    ),
                    number(
                        "Time to first token, p95",
                        "From the arrival of a request to its first text; one in twenty takes longer.",
                        "s",
                        quantile(0.95, metrics.FIRST_TOKEN_SECONDS),
                    ),
                    number(
                        "Waiting for a slot",
                        "Requests in the queues of the engine replicas.",
                        "short",
                        total(metrics.WAITING),
                        (1, "orange"),
                        (20, "red"),
                    ),
                    number(
                        "In flight",
                        "Requests between arrival and the last token.",
                        "short",
                        total("ray_serve_replica_processing_queries", APPLICATION, 'deployment="ingress"'),
                    ),
                    number(
                        "Replicas missing",
                        "Wanted replicas that are not ready, all stages. Briefly above 0 while scaling or updating.",
                        "short",
                        _missing(),
                        (1, "orange"),
                    ),
                ],
            ),
            (
                "Requests and latency",
                [
                    lines(
                        "Requests by status",
                        "HTTP status; 499: the caller disconnected. An error inside a running stream keeps status 200 "
                        "and is shown under Errors by code.",
                        "reqps",
                        Query(rate(metrics.REQUESTS, CALLER_ROUTES, by="status"), "{{status}}"),
                        stacked=True,
                    ),
                    lines(
                        "Errors by code",
                        "Errors returned to callers, by code (docs/errors.md).",
                        "reqps",
                        Query(rate(metrics.REJECTIONS, by="code"), "{{code}}"),
                        stacked=True,
                    ),
                    lines(
                        "Cancelled requests",
                        "Requests whose caller disconnected before the end; they often rise before errors do.",
                        "reqps",
                        Query(rate(metrics.CANCELLATIONS), "cancelled"),
                    ),
                    lines(
                        "Time to first token",
                        "From the arrival of a request to its first text.",
                        "s",
                        Query(quantile(0.5, metrics.FIRST_TOKEN_SECONDS), "p50"),
                        Query(quantile(0.95, metrics.FIRST_TOKEN_SECONDS), "p95"),
                        Query(quantile(0.99, metrics.FIRST_TOKEN_SECONDS), "p99"),
                    ),
                    lines(
                        "Request latency",
                        "From the first byte of a request to the last byte of its response.",
                        "s",
                        Query(quantile(0.5, metrics.REQUEST_SECONDS, CALLER_ROUTES), "p50"),
                        Query(quantile(0.95, metrics.REQUEST_SECONDS, CALLER_ROUTES), "p95"),
                    ),
                    lines(
                        "Time per token",
                        "Mean time per token after the first, per answer.",
                        "s",
                        Query(quantile(0.5, metrics.OUTPUT_TOKEN_SECONDS), "p50"),
                        Query(quantile(0.95, metrics.OUTPUT_TOKEN_SECONDS), "p95"),
                    ),
                ],
            ),
            (
                "Queues",
                [
                    lines(
                        "Wait for a slot",
                        "Time in the engine's queue. If it is most of the time to first token, there are too few "
                        "slots or replicas.",
                        "s",
                        Query(quantile(0.5, metrics.STAGE_SECONDS, 'stage="queue"'), "p50"),
                        Query(quantile(0.95, metrics.STAGE_SECONDS, 'stage="queue"'), "p95"),
                    ),
                    lines(
                        "Running requests by stage",
                        "Requests that the replicas of each stage work on.",
                        "short",
                        Query(
                            total("ray_serve_replica_processing_queries", APPLICATION, STAGE, by="deployment"),
                            "{{deployment}}",
                        ),
                    ),
                    lines(
                        "Queued requests by stage",
                        "Requests that wait for a replica of a stage. The engine accepts requests at once and has "
                        "its own queue, shown as a separate line.",
                        "short",
                        Query(
                            total("ray_serve_deployment_queued_queries", APPLICATION, STAGE, by="deployment"),
                            "{{deployment}}",
                        ),
                        Query(total(metrics.WAITING), "engine, for a slot"),
                    ),
                ],
            ),
            (
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
            ),
            (
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
            ),
            (
                "Replicas",
                [
                    lines(
                        "Ready and wanted replicas",
                        "Healthy replicas of each stage, and the number that the autoscaler wants (dashed).",
                        "short",
                        Query(READY, "{{deployment}} ready"),
                        Query(WANTED, "{{deployment}} wanted", dashed=True),
                    ),
                    states(
                        "Status by stage",
                        "The status that Serve's controller reports. Healthy without a ready replica: scaled to zero.",
                        Query(
                            f"max by (deployment) ({metric('ray_serve_deployment_status', APPLICATION, STAGE)})",
                            "{{deployment}}",
                        ),
                        STATUS,
                        width=8,
                    ),
                    lines(
                        "Failed health checks",
                        "Crashes and failed health checks since the cluster started; Serve replaces the replica each "
                        "time.",
                        "short",
                        Query(
                            total("ray_serve_health_check_failures_total", APPLICATION, STAGE, by="deployment"),
                            "{{deployment}}",
                        ),
                    ),
                    lines(
                        "Replicas by pod",
                        "How the replicas of each stage are spread over pods. With all of them in one pod, its loss is "
                        "an outage.",
                        "short",
                        Query(
                            "count by (deployment, pod) "
                            f"({metric('ray_serve_replica_processing_queries', APPLICATION, STAGE)})",
                            "{{deployment}} in {{pod}}",
                        ),
                        width=24,
                    ),
                ],
            ),
            (
                "Input",
                [
                    lines(
                        "Requests by route",
                        "Known routes; `unmatched` is any other path.",
                        "reqps",
                        Query(rate(metrics.REQUESTS, CALLER_ROUTES, by="route"), "{{route}}"),
                        stacked=True,
                    ),
                    lines(
                        "Pictures by format",
                        "Pictures decoded per second.",
                        "ops",
                        Query(rate(metrics.PICTURES, by="format"), "{{format}}"),
                        stacked=True,
                    ),
                    lines(
                        "Tokens per picture",
                        "Context and prefill tokens of one picture; larger pictures have more tokens.",
                        "short",
                        Query(quantile(0.5, metrics.PICTURE_TOKENS), "p50"),
                        Query(quantile(0.95, metrics.PICTURE_TOKENS), "p95"),
                    ),
                ],
            ),
            (
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
            ),
            (
                "HAProxy",
                [
                    lines(
                        "Responses by class",
                        "Responses sent by HAProxy. 5xx here and none above: no ingress replica could be reached.",
                        "reqps",
                        Query(
                            rate("haproxy_frontend_http_responses_total", 'proxy="http_frontend"', by="code"),
                            "{{code}}",
                        ),
                        width=12,
                        stacked=True,
                    ),
                    lines(
                        "Connections",
                        "Open sessions of HAProxy, by pod; a stream counts until it ends.",
                        "short",
                        Query(total("haproxy_frontend_current_sessions", 'proxy="http_frontend"', by="pod"), "{{pod}}"),
                        width=12,
                    ),
                ],
            ),
        ],
    )
