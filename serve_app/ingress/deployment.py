"""The HTTP app as a Ray Serve deployment; the only file of ingress that imports Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import httpx
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.access.usage import usage_recorder
from serve_app.audit.request_audit import audit_log
from serve_app.cache.answer_cache import answer_cache
from serve_app.callbacks import CALLBACK_TIMEOUT_S, Callback, CallbackReply
from serve_app.in_flight import InFlight, folder_of_pod
from serve_app.ingress.app import create_app, new_uuid, route_paths
from serve_app.ingress.http_protocol import bounded_protocol
from serve_app.ingress.outer_middlewares import connection_limits, outer_middlewares, wrap
from serve_app.ingress.server import customize_server
from serve_app.logs import join_serve_log
from serve_app.metrics import Meter, RayMeter
from serve_app.pipeline import Pipeline, RequestPreparer, as_service_error
from serve_app.process_memory import return_memory
from serve_app.settings import Settings

METRICS_TIMEOUT_S: Final = 5.0  # a scrape of a busy node takes 0.1 s
STOP_S: Final = 7.0  # running requests may finish in this time; less than `standalone.shutdown.DRAIN_S`


# Far above our own limits (`outer_middlewares.py`), which refuse a request before Serve counts it.
@serve.deployment(
    name="ingress",
    max_ongoing_requests=100_000,
    ray_actor_options={"num_cpus": 0},
    graceful_shutdown_timeout_s=STOP_S,
)
@serve.ingress()
class IngressDeployment:
    """Serves the HTTP app over the pipeline. Needs little CPU: no picture is decoded and no model runs here.

    Prompts of small requests are made here: see docs/decisions/0027-prompts-made-in-the-ingress.md.

    Prompts with their pixels pass through this process from preprocess to the engine: see
    docs/decisions/0003-prompt-transport.md.
    """

    def __init__(
        self,
        settings: Settings,
        preprocess: DeploymentHandle,
        engine: DeploymentHandle,
        load_preparer: Callable[[Settings, Meter], RequestPreparer | None],
        bots: DeploymentHandle | None = None,
    ) -> None:
        join_serve_log()
        return_memory()
        self._settings = settings
        self._in_flight = InFlight(folder_of_pod())
        self._meter = RayMeter()
        self._audit = audit_log(settings, self._meter)
        self._scrape: asyncio.Task[bytes] | None = None
        self._usage = usage_recorder(settings.limits, self._meter, time.time)
        local = load_preparer(settings, self._meter)
        self._pipeline = Pipeline(preprocess, engine, answer_cache(settings, self._meter), local)
        self._bots = None if bots is None else bots.options(method_name="respond", _by_reference=False)
        self._metrics_url = f"http://{ray.util.get_node_ip_address()}:{settings.metrics.port}/metrics"

    def __serve_build_asgi_app__(self) -> FastAPI:
        meter = self._meter
        respond = None if self._bots is None else self._respond_to_callback
        app = create_app(
            self._settings,
            self._pipeline.answer,
            self._pipeline.describe,
            self._pipeline.tokenize,
            meter,
            metrics_page=self._metrics_page,
            host="0.0.0.0",  # requests by Serve's proxy: they have passed its own address
            usage=self._usage,
            audit=self._audit,
            feedback=self._pipeline.feedback,
            respond_to_callback=respond,
        )

        def outer(serve_app: ASGIApp, host: str) -> ASGIApp:
            middlewares = outer_middlewares(
                self._settings,
                meter,
                route_paths(app),
                host=host,
                clock=time.monotonic,
                new_id=new_uuid,
                usage=self._usage,
                audit=self._audit,
                respond_to_callback=respond,
            )
            return self._counted(wrap(serve_app, middlewares))

        http = self._settings.http
        customize_server(bounded_protocol(connection_limits(http)), outer, http.port)
        return app

    def _counted(self, app: ASGIApp) -> ASGIApp:
        """The app with its POST requests counted for `glm-serve drain`; health checks and scrapes are GET."""

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST":
                with self._in_flight:
                    await app(scope, receive, send)
            else:
                await app(scope, receive, send)

        return respond

    async def _respond_to_callback(self, callback: Callback) -> CallbackReply:
        """The bots' response. Raises TimeoutError before the chat platform stops waiting, and ServiceError."""
        assert self._bots is not None
        try:
            async with asyncio.timeout(CALLBACK_TIMEOUT_S):
                reply: CallbackReply = await self._bots.remote(callback)
        except TimeoutError:
            raise
        except Exception as error:
            raise as_service_error(error) from error
        return reply

    async def _metrics_page(self) -> bytes:
        """The node's metrics; requests that come while they are being read get the same page."""
        if self._scrape is None or self._scrape.done():
            self._scrape = asyncio.create_task(self._read_metrics())
        return await asyncio.shield(self._scrape)

    async def _read_metrics(self) -> bytes:
        async with httpx.AsyncClient(timeout=METRICS_TIMEOUT_S, trust_env=False) as client:
            response = await client.get(self._metrics_url)
            return response.raise_for_status().content
