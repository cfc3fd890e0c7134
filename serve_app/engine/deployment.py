"""Ray Serve deployment of the engine; only this file and request_router.py of this stage import Ray."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from ray import serve
from ray.serve._private import replica as serve_replica

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import Prompt
from serve_app.in_flight import InFlight, folder_of_pod
from serve_app.logs import join_serve_log
from serve_app.metrics import RayMeter
from serve_app.read_ahead import read_ahead
from serve_app.replies import EngineEvents, ModelCard
from serve_app.settings import EngineSettings, MetricsSettings, ModelSettings

if TYPE_CHECKING:
    from serve_app.engine.replica import EngineReplica

# Prompts have megabytes of pixels. By default gRPC begins each message with a small window and measures the bandwidth,
# which took 11 to 24 ms for 3.8 MB on one machine; with a fixed window of 4 MiB it took 6 to 12 ms.
_GRPC_OPTIONS: Final = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4 * 2**20)]
_create_server = serve_replica.create_grpc_server_with_interceptors


def _create_server_for_large_messages(*, options: Sequence[tuple[str, Any]] = (), **others: Any) -> Any:
    """The gRPC server of a replica; Serve 2.60 creates it after it has imported this module, without a setting."""
    return _create_server(options=[*options, *_GRPC_OPTIONS], **others)


serve_replica.create_grpc_server_with_interceptors = _create_server_for_large_messages


def _load(model: ModelSettings, engine: EngineSettings, metrics: MetricsSettings) -> "EngineReplica":
    """The engine's replica. Not a method: Ray pickles the class itself by value, and this function by its name.

    So the replica's process imports this module, with the server above, before Serve creates its own.
    """
    read_ahead(checkpoint_folder(model))  # while the next line imports torch, which only this process needs
    from serve_app.engine.replica import EngineReplica

    return EngineReplica(model, engine, metrics, RayMeter())


@serve.deployment(
    name="engine",
    # Admission is the engine's own (slots and queue, reported as `overloaded`); Serve must not queue requests.
    max_ongoing_requests=10_000,
    ray_actor_options={"num_cpus": 1},
    health_check_period_s=5,
    graceful_shutdown_timeout_s=30,
)
class EngineDeployment:
    """Model replicas; each batches continuously over its own slots."""

    def __init__(self, model: ModelSettings, engine: EngineSettings, metrics: MetricsSettings) -> None:
        join_serve_log()
        self._in_flight = InFlight(folder_of_pod())
        self._replica: EngineReplica = _load(model, engine, metrics)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[EngineEvents, None]:
        """Events of one answer, or that pixels are needed."""
        with self._in_flight:
            async with aclosing(self._replica.generate(prompt)) as messages:  # a disconnect closes it at once
                async for events in messages:
                    yield events

    async def begin(self, light: Prompt, prompt: Prompt) -> None:
        """Begin an answer; the request is routed by `light`, the prompt without pixels, which `generate` then gets."""
        await self._replica.begin(prompt)

    async def describe(self) -> ModelCard:
        """The model card; an answer also means that the replica is ready."""
        self._replica.check()
        return self._replica.card

    async def slots_used(self) -> int:
        """Slots in use; tests and operators check it for leaks."""
        return self._replica.loop.slots_used()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The load of this replica; Serve calls this every few seconds and passes it to `scaling.replicas_for_load`."""
        return self._replica.loop.load()

    async def check_health(self) -> None:
        """Raises EngineFailed if the engine loop has failed, so that Serve replaces this replica."""
        self._replica.check()

    def __del__(self) -> None:
        if replica := getattr(self, "_replica", None):
            replica.close()
