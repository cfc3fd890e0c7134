"""What is replaced in Ray Serve's HTTP server."""

from __future__ import annotations

from ray.serve import context

from serve_app.ingress.server import calls_in_flight


class Call:
    """A call that removes itself from Serve's dictionary when it is cancelled, as a gRPC call does."""

    def __init__(self, name: str) -> None:
        self.name = name
        context._add_in_flight_request("request", name, self)

    def cancel(self) -> None:
        context._remove_in_flight_request("request", self.name)


def test_all_calls_of_a_request_can_be_cancelled_while_they_remove_themselves():
    """Serve's own loop raised RuntimeError after the first one; each disconnect was logged as an unexpected error."""
    Call("first"), Call("second")
    for call in calls_in_flight("request").values():
        call.cancel()
    assert calls_in_flight("request") == {}
