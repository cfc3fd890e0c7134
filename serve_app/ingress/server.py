"""Customizes Ray Serve's HTTP server: protocol, outer middlewares, SO_REUSEPORT, cancellation and stop.

Ray Serve 2.60 builds uvicorn's server itself and offers no setting for these. Its functions are replaced in the ingress
replica's process; they are private, Ray is pinned exactly, and tests/cluster fails if an upgrade breaks this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ray.serve._private import replica
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY
from ray.serve.context import _get_in_flight_requests
from starlette.types import ASGIApp

from serve_app.ingress.disconnect import stop_running_work
from serve_app.ingress.http_protocol import BoundedHttpProtocol

ERRORS_BEFORE_KILL_S: Final = 2.0  # a stream's last events have this long to reach its client


def customize_server(protocol: type[BoundedHttpProtocol], outer: Callable[[ASGIApp, str], ASGIApp], port: int) -> None:
    """Makes every HTTP server that this process starts from now on use `protocol` and `outer(application, host)`.

    Without HAProxy, all ingress replicas open the same `port` with SO_REUSEPORT, and the kernel distributes
    connections; the number that Serve gives to each of them is not used. SO_REUSEPORT is needed for one replica too:
    Serve binds its port without SO_REUSEADDR, so for a minute after a stop, or after the death of the replica, the
    kernel would refuse it while old connections end. With HAProxy each replica must have a port of its own.
    """
    reuse_port = not RAY_SERVE_ENABLE_HA_PROXY
    start_server = replica.start_asgi_http_server

    async def start_customized_server(app: ASGIApp, http_options: Any, **options: Any) -> Any:
        if reuse_port:
            http_options = http_options.model_copy(update={"port": port})
        task, server = await start_server(app, http_options, **{**options, "enable_so_reuseport": reuse_port})
        make_app = server.config.app  # not called before the task's first step
        server.config.app = lambda: outer(make_app(), http_options.host)
        server.config.http = protocol
        server.config.proxy_headers = False  # a client of this machine could name any address in X-Forwarded-For
        return task, server

    shut_down = replica.Replica._perform_graceful_shutdown

    async def shut_down_with_errors(self: Any) -> None:
        """Serve waits for running requests and then kills the process: those that are left get an error before."""
        left_s = self._deployment_config.graceful_shutdown_timeout_s - ERRORS_BEFORE_KILL_S
        timer = asyncio.get_running_loop().call_later(max(0.0, left_s), stop_running_work)
        try:
            await shut_down(self)
        finally:
            timer.cancel()

    replica.start_asgi_http_server = start_customized_server
    replica.Replica._perform_graceful_shutdown = shut_down_with_errors
    replica._get_in_flight_requests = calls_in_flight


def calls_in_flight(request_id: str) -> dict[str, Any]:
    """A copy of the calls that Serve cancels when the client of this request disconnects.

    Serve 2.60 iterates over its own dictionary, from which a cancelled gRPC call removes itself at once: RuntimeError.
    """
    return dict(_get_in_flight_requests(request_id))
