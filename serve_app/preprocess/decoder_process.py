"""The parent's side of decoder processes: start and end them, send a job, read pixels back."""

import asyncio
import json
import os
import signal
import socket
import subprocess
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.preprocess.decoder_worker import MESSAGE_BYTES, start_command

_SERVER_TIMEOUT_S: Final = 60.0  # its imports, on a busy machine


class DecoderServer:
    """Starts and ends workers through the forking server; each call blocks for milliseconds."""

    def __init__(self, max_pixels: int, retired_bytes: int) -> None:
        self._order = json.dumps([max_pixels, retired_bytes]).encode()
        self._launch()

    def start_worker(self) -> tuple[int, socket.socket, int]:
        """(process id, socket for jobs, memory file) of a new worker; raises OSError if none can be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = os.memfd_create("picture")
        try:
            try:
                pid = self._ask(self._order, theirs.fileno(), memory)
            except OSError:  # the server was killed; its workers ended with it
                self.close()
                self._launch()
                pid = self._ask(self._order, theirs.fileno(), memory)
        except OSError:
            ours.close()
            os.close(memory)
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return pid, ours, memory

    def end_worker(self, pid: int) -> int:
        """Kills a worker if it is alive; returns the signal that ended it, or 0."""
        try:
            return self._ask(str(pid).encode())
        except OSError:
            return int(signal.SIGKILL)  # ended with the server

    def close(self) -> None:
        """Ends the server and with it all workers."""
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _launch(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_SERVER_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen(
                start_command(),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _ask(self, message: bytes, *files: int) -> int:
        socket.send_fds(self._control, [message], files)
        reply = self._control.recv(MESSAGE_BYTES)
        if not reply:
            raise ConnectionError("The server of the decoder processes has ended.")
        return int(reply)


class Decoder:
    """One worker process; it is replaced in place when it has ended."""

    def __init__(self, small_only: bool) -> None:
        self.small_only = small_only  # takes only pictures of small predicted cost
        self.busy = False
        self.running = False
        self.pid = 0
        self._jobs: socket.socket | None = None
        self._memory = -1

    def start(self, server: DecoderServer) -> None:
        """Blocks until the process runs; raises OSError."""
        self.pid, self._jobs, self._memory = server.start_worker()
        self.running = True

    def end(self, server: DecoderServer) -> int:
        """Kills the process; returns the signal that ended it. Blocks."""
        self.running = False
        ended_by = server.end_worker(self.pid) if self.pid else 0
        if self._jobs is not None:
            self._jobs.close()
            os.close(self._memory)
        self.pid, self._jobs = 0, None
        return ended_by

    async def work(self, job: dict[str, Any], file: bytes) -> dict[str, Any] | None:
        """The reply to a job; None if the process has ended."""
        assert self._jobs is not None
        written = 0
        while written < len(file):
            written += os.pwrite(self._memory, memoryview(file)[written:], written)
        try:
            self._jobs.send(json.dumps({**job, "bytes": len(file)}).encode())
            reply = await asyncio.get_running_loop().sock_recv(self._jobs, MESSAGE_BYTES)
        except ConnectionError:
            return None
        parsed: dict[str, Any] | None = json.loads(reply) if reply else None
        return parsed

    def read_pixels(self, width: int, height: int) -> NDArray[np.uint8]:
        """The pixels (height, width, 3) that the last job left in the memory file."""
        pixels = np.empty((height, width, 3), np.uint8)
        view = pixels.data.cast("B")
        read = 0
        while read < len(view):
            got = os.preadv(self._memory, [view[read:]], read)
            if got == 0:
                raise OSError("The decoder has written fewer pixels than the picture has.")
            read += got
        pixels.flags.writeable = False
        return pixels
