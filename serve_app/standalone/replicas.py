"""How many replicas of each stage `glm-serve up` starts, where the settings leave it open."""

from __future__ import annotations

from typing import Final

from serve_app.settings import ReplicaSettings, Settings
from serve_app.settings_section import Section

_CORES_OF_PREPROCESS: Final = 4  # for a second preprocess replica of an engine replica


def with_replicas(settings: Settings, cores: int) -> tuple[Settings, str]:
    """The settings with all numbers of replicas, and a warning where callers are counted in memory, else ""."""
    given = settings.replicas
    engines = given.engine
    preprocess = given.preprocess or (
        1 if engines == 1 else max(engines, min(2 * engines, cores // _CORES_OF_PREPROCESS))
    )
    ingress, warning = given.ingress, ""
    if not ingress:
        ingress = 1 if counts_in_memory(settings) else engines
        if ingress < engines:
            warning = (
                f"One ingress replica serves {engines} engine replicas, because callers are counted in its memory. If"
                " it needs a full CPU core, give limits.redis_url, so that several can count together."
            )
    elif ingress > 1 and counts_in_memory(settings):
        warning = (
            f"Each of the {ingress} ingress replicas counts callers for itself: limits are up to {ingress} times as"
            " high, and /v1/usage shows a part. Give limits.redis_url, or set replicas.ingress to 1."
        )
    changed: dict[str, Section] = {"replicas": ReplicaSettings(engine=engines, preprocess=preprocess, ingress=ingress)}
    if engines > 1 and not settings.engine.threads:
        changed["engine"] = settings.engine.model_copy(update={"threads": max(1, cores // engines)})
    return settings.model_copy(update=changed), warning


def counts_in_memory(settings: Settings) -> bool:
    """Whether an ingress counts what callers use, and no Redis counts for all of them."""
    limits, access, jwt = settings.limits, settings.access, settings.jwt
    known = bool(access.keys_file or access.proxy_header or jwt.keys or jwt.secret_file)
    limited = any(value for name, value in limits if name.endswith(("_per_second", "_per_minute", "_requests")))
    return not limits.redis_url and (known or limited)
