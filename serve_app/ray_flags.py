"""The environment that Ray's processes need: here, and in a cluster, where the Helm chart sets it.

Why each: docs/decisions/0002-serve-flags.md and 0009-losing-nodes.md. A test holds the chart to `CLUSTER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from serve_app.settings import HttpSettings

LARGEST_MESSAGE: Final = 2**30  # between replicas; Ray's own 4 MiB is less than one picture
LARGEST_KEPT_BLOCK: Final = 2**28
OBJECT_STORE_BYTES: Final = 2**30  # of Ray's object store on a machine where `glm-serve up` runs
LONGEST_ANSWER_S: Final = int(HttpSettings().request_timeout_s)  # where it is set, the chart sets what follows from it

EVERYWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's 15 lets everything else on the machine go before the model
        # The model's thread allocates and frees the same large blocks each step; kept, they are not faulted in anew.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT_BLOCK),
        "MALLOC_TRIM_THRESHOLD_": str(4 * LARGEST_KEPT_BLOCK),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # ten rounds a second take 5 % of a core from the model
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(LARGEST_MESSAGE),
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # one record a request; it should be seen at once
        "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "1.0",  # two busy cores need more than 0.1 s at times
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # num_gpus=0 hides the GPUs
    }
)

CLUSTER: Final[Mapping[str, str]] = MappingProxyType(
    {
        **EVERYWHERE,
        # `kubectl logs` shows what a container writes; Ray and Serve write to files in it unless told otherwise. Below
        # this level Ray's core tells of each worker and lease.
        "RAY_LOG_TO_STDERR": "1",
        "RAY_SERVE_LOG_TO_STDERR": "1",
        "RAY_BACKEND_LOG_LEVEL": "warning",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",  # one address before several ingress replicas, five times the Python proxy
        # To HAProxy an answer that is computed whole is silence, so it waits a minute longer than the longest one takes
        # (http.request_timeout_s). By default it never gives up on a machine that is gone, and it cuts every answer two
        # minutes after any replica has come or gone.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(LONGEST_ANSWER_S + 60),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_ANSWER_S + 60),
        # Within a cluster a connection that takes seconds goes nowhere; another ingress is tried.
        "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "2",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",  # also how long one check may take
        # How long a node's door and an ingress stay open after others were told to go elsewhere: three readiness probes
        # of KubeRay, and a few reloads of HAProxy. Ray's 30 s each make every update and every drain that much longer.
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "15",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        # A node that is gone without a word is known to be so after 21 s; Ray's own figures add up to 65 s.
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_timeout_ms": "5000",
        "RAY_health_check_failure_threshold": "3",
        # A request sent to such a node is given up and sent to another one after 20 s instead of 120 s (gRPC makes it
        # TCP_USER_TIMEOUT). The interval of pings stays: gRPC's servers hang up on clients who ping more often.
        "RAY_grpc_client_keepalive_timeout_ms": "20000",
    }
)
