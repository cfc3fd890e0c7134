"""Private mount, network and process namespaces that end when the process that made them ends.

Their first process reads a pipe that this process alone holds open: when the pipe closes, the kernel ends every process
in them. Nothing outside is changed. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

CLONE_NEWNET = 0x40000000

Result = TypeVar("Result")


class Namespaces:
    """Runs threads, functions and shell scripts inside namespaces whose first process is `init`."""

    def __init__(self, init: psutil.Process) -> None:
        self.init = init
        self.threads = ThreadPoolExecutor(4, "inside", initializer=self.enter)

    def enter(self) -> None:
        """Moves the calling thread into the private network; it cannot leave it again."""
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/proc/{self.init.pid}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(namespace, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(namespace)

    def call(self, work: Callable[[], Result], timeout_s: float = 60.0) -> Result:
        """What `work` returns, run in a thread that is in the private network."""
        return self.threads.submit(work).result(timeout_s)

    def sh(self, script: str) -> None:
        command = [*entered(self.init.pid), "bash", "-ec", script]
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if run.returncode:
            raise RuntimeError(f"{script}: {run.stderr}")


def entered(pid: int) -> list[str]:
    """The command prefix that runs a command in the namespaces of a process."""
    return ["nsenter", "-t", str(pid), "-m", "-n", "-p"]


def unshared(script: str, *, network: bool = False) -> list[str]:
    """The command that runs a shell script as process 1 of new mount and process namespaces."""
    kinds = ["-m", "-p", *(["-n"] if network else [])]
    return ["unshare", *kinds, "-f", "--mount-proc", "--kill-child", "bash", "-ec", script]


@contextmanager
def private_namespaces(setup: str) -> Iterator[psutil.Process]:
    """The first process of new namespaces in which this shell script has run."""
    process = subprocess.Popen(
        unshared(f"{setup}\necho ready\nread -r _ || true", network=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n", "Namespaces could not be made: this needs root."
        yield init_of(process, depth=1)
    finally:
        process.stdin.close()
        process.wait(20)


def init_of(process: subprocess.Popen[Any], depth: int) -> psutil.Process:
    """The descendant of `process` that is process 1 of a process namespace, `depth` namespaces below ours."""
    ours = len(_pids("self"))
    limit = time.monotonic() + 10
    while time.monotonic() < limit and process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                pids = _pids(child.pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if len(pids) == ours + depth and pids[-1] == "1":
                return child
        time.sleep(0.02)
    raise RuntimeError(f"No process 1 appeared below {process.args}.")


def _pids(process: int | str) -> list[str]:
    """The process ids of a process, one in each process namespace that it is in."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("NSpid:")).split()[1:]
