"""A limit on the bytes of files and pixels that all requests of one replica hold together."""

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import Overloaded


class MemoryBudget:
    """Bytes in use by all requests; a request that would exceed the limit is refused with 503."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    @contextmanager
    def reservation(self) -> Iterator["Reservation"]:
        """A context with the bytes of one request, which are released at its end."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.used -= reservation.bytes

    def take(self, size: int) -> None:
        """Raises Overloaded if the limit would be exceeded."""
        if self.used + size > self._limit:
            raise Overloaded(
                f"With this request, the pictures of all requests in progress would take more than"
                f" {self._limit / 2**20:.0f} MiB, the limit (preprocess.max_bytes_in_flight). Try again shortly."
            )
        self.used += size


class Reservation:
    """The bytes that one request holds."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.bytes = 0

    def add(self, size: int) -> None:
        """Raises Overloaded if fewer bytes are left in the budget."""
        self._budget.take(size)
        self.bytes += size
