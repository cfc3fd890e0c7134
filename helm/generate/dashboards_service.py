"""The dashboard Service: requests, failures and latency as callers see them, queues, replicas, input.

It shows whether the service works and which stage causes a problem; the dashboard Engine shows the GPUs.
"""

from __future__ import annotations

from dashboards_optional import ACCESS, BOTS, CACHE_AUDIT_SCAN
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
            CACHE_AUDIT_SCAN,
            BOTS,
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
            ACCESS,
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
