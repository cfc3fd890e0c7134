"""Stops the service: handles the signals, and ends Ray's processes."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from types import FrameType
from typing import Any

import psutil

DRAIN_S = 8.0  # running answers may finish in this time after the first Ctrl-C
ONE_PRESS_S = 0.3  # a wrapper (timeout, a shell) may pass the same Ctrl-C on a second time
EXIT_S = 4.0  # Ray's processes get this long to exit before they are killed


class StopSignal:
    """Ctrl-C, SIGTERM or a closed terminal: the first one stops the service, the second one kills it.

    There is no lock: a second signal may interrupt the handler of the first, and `threading.Event` would then wait for
    itself forever.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._first_at: float | None = None  # monotonic seconds
        self._read_end, self._write_end = os.pipe()
        self.install()

    def is_set(self) -> bool:
        return self._first_at is not None

    def install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._on_signal)

    def wait(self, timeout_s: float | None = None) -> None:
        select.select([self._read_end], [], [], timeout_s)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            os.write(self._write_end, b".")
        elif now - self._first_at > ONE_PRESS_S:
            _kill(psutil.Process().children(recursive=True))
            os._exit(128 + number)


def shut_down() -> None:
    """Let running answers finish for `DRAIN_S`, then end Serve, Ray and every process of theirs."""
    import ray

    # Listed first: a process whose parent has exited is no longer found as a child.
    processes = psutil.Process().children(recursive=True)
    if ray.is_initialized():
        draining = threading.Thread(target=_shut_down_serve, daemon=True)
        draining.start()
        draining.join()  # signals are handled meanwhile, unlike in a call of Ray
        ray.shutdown()
    _, left = psutil.wait_procs(processes, timeout=EXIT_S)
    _kill(left)


def _shut_down_serve() -> None:
    """As `serve.shutdown`, but for `DRAIN_S` at most.

    A call that is still waiting when `ray.shutdown` has returned makes Ray end this process at once.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        client.shutdown(timeout_s=DRAIN_S)


def _kill(processes: list[Any]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
