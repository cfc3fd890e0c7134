"""The bots as a Ray Serve deployment; the only file of this package that imports Ray."""

from __future__ import annotations

import asyncio
import logging

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.audit.request_audit import audit_log
from serve_app.bots.service import BotService
from serve_app.cache.answer_cache import answer_cache
from serve_app.callbacks import Callback, CallbackReply
from serve_app.logs import join_serve_log
from serve_app.metrics import RayMeter
from serve_app.pipeline import Pipeline
from serve_app.process_memory import return_memory
from serve_app.settings import Settings

_log = logging.getLogger("glm.bots")


# Exactly one replica: streams are in its memory, and WeCom keeps one long connection of a bot.
@serve.deployment(
    name="bots",
    num_replicas=1,
    max_ongoing_requests=1000,
    max_queued_requests=256,  # further callbacks are refused (503), and the platform sends them again
    ray_actor_options={"num_cpus": 0},
    health_check_period_s=2.0,  # a replica that died is replaced soon: chat platforms wait for their answers
    graceful_shutdown_timeout_s=7.0,
)
class BotsDeployment:
    """Answers messages of chat platforms over the same pipeline as the HTTP API."""

    def __init__(self, settings: Settings, preprocess: DeploymentHandle, engine: DeploymentHandle) -> None:
        join_serve_log()
        return_memory()
        meter = RayMeter()
        pipeline = Pipeline(preprocess, engine, answer_cache(settings, meter))
        self._service = BotService(
            settings, pipeline.answer, meter=meter, audit=audit_log(settings, meter), feedback=pipeline.feedback
        )
        if not self._service.adapters:
            _log.warning("bots.enabled is true, but the settings have no robot. Run `glm-serve wecom check`.")
        self._starting: asyncio.Task[None] | None = None

    async def respond(self, callback: Callback) -> CallbackReply:
        await self._started()
        return await self._service.respond(callback)

    async def check_health(self) -> None:
        """Serve calls it as soon as the replica runs, so it also starts the bots."""
        await self._started()

    async def __del__(self) -> None:
        await self._service.stop()

    async def _started(self) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        if number := await self._service.start():
            _log.warning("%d answers of an earlier process are continued.", number)
