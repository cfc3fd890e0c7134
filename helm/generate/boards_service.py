"""The board Service: what those who ask feel, where a slow answer waits, and what has come in.

It goes from "is it well?" to "whose fault is it?"; the board Engine goes on from there.
"""

from __future__ import annotations

from boards_panels import Query, board, lines, number, states, variable
from boards_queries import APPLICATION, ASKED, FAILED, metric, quantile, rate, total

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
    """The board as JSON."""
    failed_share = f"({rate(metrics.REJECTIONS, FAILED)} or vector(0)) / ({rate(metrics.REQUESTS, ASKED)} > 0)"
    return board(
        "glm-service",
        "GLM Vision Serve / Service",
        "What those who ask feel: how much, how fast, what fails, and which stage is short of replicas.",
        [variable("deployment", "Stage", f"ray_serve_deployment_status{{{APPLICATION}}}", "deployment", every=True)],
        [
            (
                "Is it well?",
                [
                    number("Requests", "Requests a second, without probes.", "reqps", rate(metrics.REQUESTS, ASKED)),
                    number(
                        "Failed",
                        "Share of requests that failed through no fault of the caller: overload, deadline, engine or "
                        "internal error, also those told inside a stream that began well.",
                        "percentunit",
                        failed_share,
                        (0.01, "orange"),
                        (0.05, "red"),
                    ),
                    number(
                        "First token, p95",
                        "From a request's arrival to its first text: one in twenty waits longer.",
                        "s",
                        quantile(0.95, metrics.FIRST_TOKEN_SECONDS),
                    ),
                    number(
                        "Waiting for a slot",
                        "Requests that are prepared and wait in an engine's queue.",
                        "short",
                        total(metrics.WAITING),
                        (1, "orange"),
                        (20, "red"),
                    ),
                    number(
                        "In flight",
                        "Requests that are somewhere between the door and the last token.",
                        "short",
                        total("ray_serve_replica_processing_queries", APPLICATION, 'deployment="ingress"'),
                    ),
                    number(
                        "Replicas missing",
                        "Replicas that are wanted and not ready, of all stages. Short while scaling up or updating.",
                        "short",
                        _missing(),
                        (1, "orange"),
                    ),
                ],
            ),
            (
                "What callers feel",
                [
                    lines(
                        "Requests by status",
                        "HTTP status as told at the door; 499: the caller left. A failure inside a running stream "
                        "keeps its 200 and shows under Errors.",
                        "reqps",
                        Query(rate(metrics.REQUESTS, ASKED, by="status"), "{{status}}"),
                        stacked=True,
                    ),
                    lines(
                        "Errors by code",
                        "What callers were told, by the error's code (docs/errors.md).",
                        "reqps",
                        Query(rate(metrics.REJECTIONS, by="code"), "{{code}}"),
                        stacked=True,
                    ),
                    lines(
                        "Callers who left",
                        "Answers whose caller went away before the end: impatience grows before errors do.",
                        "reqps",
                        Query(rate(metrics.CANCELLATIONS), "cancelled"),
                    ),
                    lines(
                        "First token",
                        "From a request's arrival to its first text.",
                        "s",
                        Query(quantile(0.5, metrics.FIRST_TOKEN_SECONDS), "p50"),
                        Query(quantile(0.95, metrics.FIRST_TOKEN_SECONDS), "p95"),
                        Query(quantile(0.99, metrics.FIRST_TOKEN_SECONDS), "p99"),
                    ),
                    lines(
                        "Whole request",
                        "From a request's first byte to its answer's last.",
                        "s",
                        Query(quantile(0.5, metrics.REQUEST_SECONDS, ASKED), "p50"),
                        Query(quantile(0.95, metrics.REQUEST_SECONDS, ASKED), "p95"),
                    ),
                    lines(
                        "Time per token",
                        "Mean time per token after the first, of one answer.",
                        "s",
                        Query(quantile(0.5, metrics.OUTPUT_TOKEN_SECONDS), "p50"),
                        Query(quantile(0.95, metrics.OUTPUT_TOKEN_SECONDS), "p95"),
                    ),
                ],
            ),
            (
                "Where it waits",
                [
                    lines(
                        "Wait for a slot",
                        "Time in the engine's queue. If this is most of the first token's time, the engine is short of "
                        "slots or replicas.",
                        "s",
                        Query(quantile(0.5, metrics.STAGE_SECONDS, 'stage="queue"'), "p50"),
                        Query(quantile(0.95, metrics.STAGE_SECONDS, 'stage="queue"'), "p95"),
                    ),
                    lines(
                        "In work by stage",
                        "Requests that each stage's replicas hold now.",
                        "short",
                        Query(
                            total("ray_serve_replica_processing_queries", APPLICATION, STAGE, by="deployment"),
                            "{{deployment}}",
                        ),
                    ),
                    lines(
                        "Waiting by stage",
                        "Requests that wait for a replica of a stage to take them. The engine takes all at once: its "
                        "queue is the line of its own.",
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
                "Replicas",
                [
                    lines(
                        "Ready and wanted",
                        "Replicas of each stage that are healthy, and how many the autoscaler wants (dashed).",
                        "short",
                        Query(READY, "{{deployment}} ready"),
                        Query(WANTED, "{{deployment}} wanted", dashed=True),
                    ),
                    states(
                        "Status",
                        "What Serve's controller says of each stage. Healthy with no replica ready: scaled to zero.",
                        Query(
                            f"max by (deployment) ({metric('ray_serve_deployment_status', APPLICATION, STAGE)})",
                            "{{deployment}}",
                        ),
                        STATUS,
                        width=8,
                    ),
                    lines(
                        "Failed health checks",
                        "Crashes and failed health checks since the cluster started; each step is a replica replaced "
                        "or about to be.",
                        "short",
                        Query(
                            total("ray_serve_health_check_failures_total", APPLICATION, STAGE, by="deployment"),
                            "{{deployment}}",
                        ),
                    ),
                ],
            ),
            (
                "What comes in",
                [
                    lines(
                        "Requests by route",
                        "Routes that exist; `unmatched` is everything else.",
                        "reqps",
                        Query(rate(metrics.REQUESTS, ASKED, by="route"), "{{route}}"),
                        stacked=True,
                    ),
                    lines(
                        "Pictures by format",
                        "Pictures decoded a second.",
                        "ops",
                        Query(rate(metrics.PICTURES, by="format"), "{{format}}"),
                        stacked=True,
                    ),
                    lines(
                        "Tokens of a picture",
                        "What one picture costs of the context and of prefill; larger pictures are more tokens.",
                        "short",
                        Query(quantile(0.5, metrics.PICTURE_TOKENS), "p50"),
                        Query(quantile(0.95, metrics.PICTURE_TOKENS), "p95"),
                    ),
                ],
            ),
            (
                "At the cluster's door (HAProxy)",
                [
                    lines(
                        "Responses by class",
                        "As HAProxy sent them. 5xx here and none above: no ingress replica could be reached.",
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
                        "Sessions that HAProxy holds open, by pod; streams count until they end.",
                        "short",
                        Query(total("haproxy_frontend_current_sessions", 'proxy="http_frontend"', by="pod"), "{{pod}}"),
                        width=12,
                    ),
                ],
            ),
        ],
    )
