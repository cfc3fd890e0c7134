"""The whole service on one screen: what is bound to what."""

# No `from __future__ import annotations` here: Ray reads the builder's annotation to validate its
# arguments, and hands it an unchecked dict if that annotation is a string.
from ray.serve import Application

from serve_app.engine.deployment import EngineDeployment
from serve_app.ingress.deployment import IngressDeployment
from serve_app.preprocess.deployment import PreprocessDeployment
from serve_app.settings import Settings


def build(settings: Settings) -> Application:
    """The graph; Ray Serve calls it with the `args` of a deployment as a checked `Settings`.

    `auto` keeps the engine off GPUs here: where one is to be used, whoever knows the machine says so
    (`glm-serve up` looks, the Helm chart sets `num_gpus`).
    """
    gpus = 1 if settings.model.device == "cuda" else 0
    # Each waiting request holds its pictures in memory, so this queue has a bound too.
    preprocess = PreprocessDeployment.options(max_queued_requests=max(1, settings.engine.max_waiting)).bind(
        settings.model, settings.preprocess
    )
    engine = EngineDeployment.options(ray_actor_options={"num_cpus": 1, "num_gpus": gpus}).bind(
        settings.model, settings.engine, settings.metrics
    )
    return IngressDeployment.bind(settings, preprocess, engine)


app = build(Settings())
