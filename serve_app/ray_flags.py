"""The environment of Ray's processes: on one machine, and in a cluster, where the Helm chart sets it.

Reasons: docs/decisions/0002-serve-flags.md and 0009-losing-nodes.md. A test compares the chart to `CLUSTER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from serve_app.settings_http import HttpSettings

LARGEST_MESSAGE: Final = 2**30  # between replicas; Ray's own 4 MiB is less than one picture
LARGEST_KEPT_BLOCK: Final = 2**28
OBJECT_STORE_BYTES: Final = (
    2**30
)  # of `glm-serve up`, for each engine replica; Ray's own default is 30 % of the machine's memory
LONGEST_ANSWER_S: Final = int(HttpSettings().request_timeout_s)  # the chart computes it from the setting

EVERYWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's 15 gives every other process precedence over the model
        # The model's thread allocates and frees the same large blocks each step; kept blocks cause no new page faults.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT_BLOCK),
        "MALLOC_TRIM_THRESHOLD_": str(4 * LARGEST_KEPT_BLOCK),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # Serve's ten rounds a second take 5 % of a core
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(LARGEST_MESSAGE),
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # each request's record is written at once
        "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1.0",  # on two busy cores 0.1 s is too short at times
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # num_gpus=0 hides the GPUs
    }
)

CLUSTER: Final[Mapping[str, str]] = MappingProxyType(
    {
        **EVERYWHERE,
        # `kubectl logs` shows the output of a container; by default Ray and Serve write to files in it. Below this
        # level Ray's core logs each worker and lease.
        "RAY_LOG_TO_STDERR": "1",
        "RAY_SERVE_LOG_TO_STDERR": "1",
        "RAY_BACKEND_LOG_LEVEL": "warning",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",  # one address before several ingress replicas, five times the Python proxy
        # A non-streaming answer sends nothing until it is complete, so HAProxy waits a minute longer than the longest
        # one takes (http.request_timeout_s). By default it waits forever for a machine that is gone, and cuts every
        # answer two minutes after any replica started or stopped.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(LONGEST_ANSWER_S + 60),
        # How long HAProxy waits for the next bytes of a client that has to send or read some; not while a response is
        # waited for. Its own hour lets 4,096 clients with half a header each hold every connection for that long.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "30",
        # Longer headers get HAProxy's own 400; up to this size our limits respond (http.max_header_bytes, 431).
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_ANSWER_S + 60),
        # A connection within a cluster that takes seconds will fail; another ingress is tried.
        "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",  # also how long one check may take
        # How long a node's proxy and an ingress accept connections after traffic was routed to others: three readiness
        # probes of KubeRay, and a few reloads of HAProxy. Ray's 30 s each would make every update and drain longer.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "15",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # A node that disappears is detected after 21 s; with Ray's defaults after 65 s.
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "3",
        # A request sent to such a node is retried on another one after 20 s instead of 120 s (gRPC uses this as
        # TCP_USER_TIMEOUT). The interval of pings stays: gRPC servers disconnect clients that ping more often.
        "RAY_grpc_client_keepalive_timeout_ms": "20000",
    }
)
