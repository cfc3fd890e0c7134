"""Which engine replica a prompt goes to: the one that holds its picture's pages, or a less busy one.

Every ingress has its own routers. For a new picture all of them make the same choice: the replica with the highest
hash (rendezvous hashing). docs/decisions/0026-request-routing.md has the bounds and how they were found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final, TypeVar

REMEMBERED: Final = 16_384  # pictures of which a router knows the replica
BUSIER_BY: Final = 1 / 4  # of its slots: requests that the preferred replica may have more than the least busy one

Replica = TypeVar("Replica", bound=str)


def home(picture: str, replicas: Iterable[Replica]) -> Replica:
    """The replica of a picture by rendezvous hashing: when one ends, only its own pictures move."""
    return max(replicas, key=lambda replica: blake2b(f"{replica}\0{picture}".encode(), digest_size=8).digest())


class Affinity:
    """Chooses replicas for pictures and remembers the choices; `slots` are those of one replica."""

    def __init__(self, slots: int, remembered: int = REMEMBERED) -> None:
        self._most = max(1, int(slots * BUSIER_BY))
        self._remembered = remembered
        self._replicas: OrderedDict[str, str] = OrderedDict()  # picture -> replica, the latest last

    def choose(self, picture: str, loads: Mapping[str, int]) -> str:
        """The replica for a prompt with this picture; `loads` are requests in progress by running replica."""
        least = min(loads, key=loads.__getitem__)
        preferred = self._replicas.get(picture)
        if preferred is None or preferred not in loads:
            preferred = home(picture, loads)
        return preferred if loads[preferred] - loads[least] <= self._most else least

    def remember(self, picture: str, replica: str) -> None:
        """A prompt with this picture was accepted by the replica, which now holds its pages."""
        self._replicas[picture] = replica
        self._replicas.move_to_end(picture)
        if len(self._replicas) > self._remembered:
            self._replicas.popitem(last=False)
