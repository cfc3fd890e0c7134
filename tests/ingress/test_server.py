"""What is replaced in Ray Serve's HTTP server."""

from __future__ import annotations

from ray.serve import context

from serve_app.ingress.deployment import STOP_S
from serve_app.ingress.server import ERRORS_BEFORE_KILL_S, calls_in_flight
from serve_app.standalone.shutdown import DRAIN_S


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


def test_errors_of_a_stop_are_sent_before_serve_or_the_command_line_kills_the_process():
    assert 0 < ERRORS_BEFORE_KILL_S < STOP_S < DRAIN_S
