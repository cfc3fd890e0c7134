"""Ray Serve's request router of the engine: follow-ups go to the replica with their picture's pages.

Ray Serve runs a router in every process that calls the engine, and pickles this module's class by value. The decisions
are in affinity.py. This file and deployment.py are the only ones of this stage that import Ray.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Final

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from serve_app.contracts import Prompt
from serve_app.engine.affinity import Affinity

# Each ingress counts only its own answers that end. Of the others' it learns with its next request to the same replica,
# or by asking.
_COUNTS_VALID_S: Final = 0.25


class PictureRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types for it
    """Routes by the first picture of a prompt, within bounds of load; prompts without pictures by load."""

    def initialize_state(self, slots: int) -> None:  # the arguments are `request_router_kwargs`
        self._affinity = Affinity(slots)
        self._asked_at = 0.0
        self._asking: asyncio.Task[Any] | None = None

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas: Serve takes the least busy one of the first rank that accepts the request."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # after all ranks have refused
        if len(candidate_replicas) < 2:
            return [candidate_replicas]
        self._refresh_counts(candidate_replicas)
        picture = _picture(pending_request)
        if picture is None:
            return [random.sample(candidate_replicas, 2), candidate_replicas]
        by_id = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        counts = self.replica_queue_len_cache
        loads = {name: counts.get(replica.replica_id) or 0 for name, replica in by_id.items()}
        chosen = by_id[self._affinity.choose(picture, loads)]
        return [[chosen], [replica for replica in candidate_replicas if replica is not chosen]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        picture = _picture(pending_request)
        if picture is not None:
            self._affinity.remember(picture, replica_id.unique_id)

    def _fulfill_next_pending_request(self, replica: RunningReplica, request_metadata: Any = None) -> None:
        """Gives the replica to the request for which it was chosen.

        Serve 2.60 looks it up by the id of the HTTP request, which all choices of one request share: of two choices
        that are routed at the same time the second one was never found and waited until its deadline.
        """
        for pending in self._pending_requests_to_fulfill:
            if pending.metadata is request_metadata and not pending.future.done():
                self._cancel_routing_task_for_pending_request(pending)
                self._record_queue_wait_time(pending)
                pending.future.set_result(replica)
                self._remove_pending_request_from_indices(pending)
                return

    def _refresh_counts(self, replicas: list[RunningReplica]) -> None:
        """Asks the replicas for their numbers of requests, in the background, if they were not asked recently."""
        now = time.monotonic()
        if now - self._asked_at < _COUNTS_VALID_S or (self._asking is not None and not self._asking.done()):
            return
        self._asked_at = now
        self._asking = asyncio.create_task(self._probe_queue_lens(replicas, 0))


def _picture(request: PendingRequest | None) -> str | None:
    """Tenant and digest of the prompt's first picture; None without a prompt or a picture."""
    prompt = request.args[0] if request is not None and request.args else None
    if not isinstance(prompt, Prompt) or not prompt.pictures:
        return None
    return f"{prompt.tenant}\0{prompt.pictures[0].digest}"


def request_routing(slots: int) -> RequestRouterConfig:
    """Serve's configuration of this router, for replicas with so many slots."""
    return RequestRouterConfig(request_router_class=PictureRouter, request_router_kwargs={"slots": slots})
