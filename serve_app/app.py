"""The Ray Serve application: build(settings) binds ingress, preprocess, engine and, if enabled, the bots."""

# No `from __future__ import annotations` here: Ray reads the builder's annotation to validate its
# arguments, and passes an unchecked dict if that annotation is a string.
from typing import Any

from ray.serve import Application

from serve_app.bots.deployment import BotsDeployment
from serve_app.engine.deployment import EngineDeployment
from serve_app.engine.request_router import request_routing
from serve_app.errors import InvalidRequest
from serve_app.ingress.deployment import IngressDeployment
from serve_app.preprocess.deployment import PreprocessDeployment
from serve_app.preprocess.local_prepare import load_local_preparer
from serve_app.settings import Settings, unknown_variables


def build(settings: Settings) -> Application:
    """The deployment graph; Ray Serve calls it with the `args` of the application as validated `Settings`.

    With the device `auto` the engine gets no GPU here: `glm-serve up` looks for one and sets the device, the Helm
    chart sets `num_gpus`. Raises InvalidRequest if a `GLM_` variable of the environment is no setting.
    """
    return bind(settings)


def bind(settings: Settings, **options: Any) -> Application:
    """The same with options of Serve for all deployments."""
    if unknown := unknown_variables():
        raise InvalidRequest(f"These environment variables are not settings (docs/settings.md): {', '.join(unknown)}.")
    gpus = 1 if settings.model.device == "cuda" else 0
    replicas = settings.replicas
    # Each waiting request holds its pictures in memory, so this queue has a bound too.
    preprocess = PreprocessDeployment.options(
        max_queued_requests=max(1, settings.engine.max_waiting), **_replicas(replicas.preprocess), **options
    ).bind(settings.model, settings.preprocess, settings.scan)
    engine = EngineDeployment.options(
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        request_router_config=request_routing(settings.engine.max_slots),
        **_replicas(replicas.engine),
        **options,
    ).bind(settings.model, settings.engine, settings.metrics)
    ingress = IngressDeployment.options(**_replicas(replicas.ingress), **options)
    if not settings.bots.enabled:
        return ingress.bind(settings, preprocess, engine, load_local_preparer)
    bots = BotsDeployment.options(**options).bind(settings, preprocess, engine)
    return ingress.bind(settings, preprocess, engine, load_local_preparer, bots)


def _replicas(number: int) -> dict[str, Any]:
    """Options for several replicas; with one, or with the chart's autoscaling, the number stays Serve's."""
    return {"num_replicas": number} if number > 1 else {}


app = build(Settings())
