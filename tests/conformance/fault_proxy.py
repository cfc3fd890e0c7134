"""An HTTP proxy in front of the service that injects one fault for each client, to see how the client handles it.

`http://proxy/FAULT/CLIENT/v1/...` goes to the service as `/v1/...`. The first request of each client gets:

* `rate_limited`: 429 with `Retry-After: 1`, as a gateway with quotas answers
* `unavailable`: 503 with the same
* `overloaded`: the service's own 503: its only slot is taken while the request is forwarded
* `slow`: no response for a while
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import httpx

SLOW_S = 3.0
RETRY_AFTER_S = 1
REFUSALS = {"rate_limited": (429, "rate_limit_exceeded"), "unavailable": (503, "overloaded")}


@dataclass(frozen=True)
class Exchange:
    """A request that the proxy got, when it ended, and its status."""

    at_s: float
    status: int


@dataclass
class FaultProxy:
    """The proxy's address, the service behind it, and all requests by fault and client."""

    service_url: str
    url: str = ""
    exchanges: dict[tuple[str, str], list[Exchange]] = field(default_factory=lambda: defaultdict(list))
    _arrived: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    _lock: Lock = field(default_factory=Lock)

    def is_first(self, fault: str, client: str) -> bool:
        with self._lock:
            self._arrived[fault, client] += 1
            return self._arrived[fault, client] == 1


@contextmanager
def occupied(service_url: str) -> Iterator[None]:
    """A slot of the service is taken by a long answer meanwhile."""
    long = {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx.stream("POST", f"{service_url}/v1/chat/completions", json=long, timeout=60) as response:
        response.raise_for_status()
        lines = response.iter_lines()
        next(lines)  # kept: the connection closes with the iterator
        yield


class Handler(BaseHTTPRequestHandler):
    """One request to the proxy."""

    proxy: FaultProxy

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: requests are in `FaultProxy.exchanges`."""

    def _handle(self) -> None:
        _, fault, client, path = self.path.split("/", 3)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        first = self.proxy.is_first(fault, client)
        if first and fault == "slow":
            time.sleep(SLOW_S)
        status = self._refuse(fault) if first and fault in REFUSALS else self._forward(path, body, fault, first)
        self.proxy.exchanges[fault, client].append(Exchange(time.monotonic(), status))

    def _refuse(self, fault: str) -> int:
        status, code = REFUSALS[fault]
        error = {"message": "Not now.", "type": code, "param": None, "code": code}
        headers = {"Content-Type": "application/json", "Retry-After": str(RETRY_AFTER_S)}
        self._begin(status, headers)
        self.wfile.write(json.dumps({"error": error}).encode())
        return status

    def _forward(self, path: str, body: bytes, fault: str, first: bool) -> int:
        service = self.proxy.service_url
        headers = {name: self.headers[name] for name in ("Content-Type", "Authorization") if name in self.headers}
        with (
            occupied(service) if first and fault == "overloaded" else nullcontext(),
            httpx.stream(self.command, f"{service}/{path}", content=body, headers=headers, timeout=120) as response,
        ):
            kept = {
                name: response.headers[name] for name in ("Content-Type", "Retry-After") if name in response.headers
            }
            try:
                self._begin(response.status_code, kept)
                for piece in response.iter_raw():
                    self.wfile.write(piece)
            except ConnectionError:
                pass  # the client has hung up, as it should at `slow`
            return response.status_code

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        """The body ends with the connection: HTTP/1.0, which every client takes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def running(service_url: str) -> Iterator[FaultProxy]:
    """A proxy in front of this service, on a free port."""
    proxy = FaultProxy(service_url)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("FaultHandler", (Handler,), {"proxy": proxy}))
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
