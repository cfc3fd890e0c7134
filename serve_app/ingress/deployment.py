"""The HTTP app as a Ray Serve deployment; the only file of ingress that imports Ray."""

from __future__ import annotations

from typing import Final

import httpx
import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.ingress.app import create_app
from serve_app.logs import join_serve_log
from serve_app.metrics import RayMeter
from serve_app.pipeline import Pipeline
from serve_app.settings import Settings

METRICS_TIMEOUT_S: Final = 5.0  # a scrape of a busy node takes 0.1 s


@serve.deployment(name="ingress", max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
@serve.ingress()
class IngressDeployment:
    """Serves the HTTP app over the pipeline. Needs little CPU: no picture is decoded and no model runs here.

    Prompts with their pixels pass through this process from preprocess to the engine: see
    docs/decisions/0003-prompt-transport.md.
    """

    def __init__(self, settings: Settings, preprocess: DeploymentHandle, engine: DeploymentHandle) -> None:
        join_serve_log()
        self._settings = settings
        self._pipeline = Pipeline(preprocess, engine)
        self._metrics_url = f"http://{ray.util.get_node_ip_address()}:{settings.metrics.port}/metrics"

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(
            self._settings,
            self._pipeline.answer,
            self._pipeline.describe,
            self._pipeline.tokenize,
            RayMeter(),
            metrics_page=self._metrics_page,
            echo_request_id=False,  # Serve writes X-Request-ID on every response by itself
        )

    async def _metrics_page(self) -> bytes:
        async with httpx.AsyncClient(timeout=METRICS_TIMEOUT_S, trust_env=False) as client:
            response = await client.get(self._metrics_url)
            return response.raise_for_status().content
