"""Free ports for servers that tests start: the kernel gives none of them to other sockets in the meantime."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from typing import Final

_FIRST: Final = 20_000  # Linux takes the ports of outgoing connections, and of port 0, from 32768 to 60999
_OF_ONE_PROCESS: Final = 2000
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 6
_BEGIN: Final = _FIRST + _WORKER * _OF_ONE_PROCESS
_ports: Final = random.SystemRandom().sample(range(_BEGIN, _BEGIN + _OF_ONE_PROCESS), _OF_ONE_PROCESS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now; this process gives it once only."""
    while True:
        port = _ports.pop()
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
