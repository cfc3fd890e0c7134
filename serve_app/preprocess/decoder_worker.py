"""The processes that decode pictures: a server that forks workers, and the loop of a worker.

The server is a small process without threads that has imported all that a worker needs, so that a new worker starts in
milliseconds. A worker gets jobs as JSON over a socket; file bytes come in and pixels go out through a memory file that
both sides hold. Its input is not trusted: the kernel ends it when its CPU budget is spent, also inside C
code, and limits its memory.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from serve_app.contracts import Pages
from serve_app.errors import ImageRejected
from serve_app.preprocess.decode import Header, decode_picture, read_header
from serve_app.preprocess.decode_cost import AT_ONCE_S, decode_cost_s
from serve_app.preprocess.glm4v_grid import AspectRatioTooLarge
from serve_app.preprocess.pdf import page_sizes, render_page
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.preprocess.resize import picture_digest, resize_picture
from serve_app.preprocess.size_rule import SizeRule
from serve_app.preprocess.sniff import known_format
from serve_app.process_memory import collect, private_bytes

MESSAGE_BYTES: Final = 65536  # of a job or a reply
_RLIMIT_BASE_BYTES: Final = 1 << 30  # address space of a worker without a picture: libraries and the memory file
_UNSAFE_FORMATS: Final = {"HEIC"}  # fuzzing found that a damaged file corrupts the memory of the process
RETIRED_BYTES: Final = 192 * 2**20  # still in use after a job: leaked
_BYTES_PER_PIXEL: Final = 24  # of the largest picture while it is decoded, converted and resized
_KEPT_BYTES: Final = 128 * 2**20  # after a picture; a worker would keep a gigabyte of the largest ones
_PR_SET_PDEATHSIG: Final = 1
# New pages are half of a worker's time: 12 megapixels took 165 ms of CPU time with pages of 4 KiB, 86 ms with these.
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",  # a process that forks has one thread
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # pages of 2 MiB for large blocks
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # blocks up to this are reused by the next picture
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),  # kept by an idle worker
}


def start_command() -> list[str]:
    """The command line of the server; its control socket is its standard input."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    return ["env", *(f"{name}={value}" for name, value in _ENVIRONMENT.items()), sys.executable, "-c", program]


def serve() -> None:
    """Forks and ends workers until the control socket is closed.

    A message with a socket and a memory file starts a worker and is answered with its process id. A message with a
    process id kills that worker, if it is still alive, and is answered with the signal that ended it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all processes; the parent ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    control = socket.socket(fileno=0)
    gc.freeze()  # a worker's garbage collection does not touch, and so copy, the pages of the server
    while True:
        message, files, *_ = socket.recv_fds(control, MESSAGE_BYTES, 2)
        if not message:
            return
        if files:
            worker = os.fork()
            if worker == 0:
                control.close()
                _work(socket.socket(fileno=files[0]), files[1], *json.loads(message))
                os._exit(0)
            for file in files:
                os.close(file)
            control.send(str(worker).encode())
        else:
            worker = int(message)
            os.kill(worker, signal.SIGKILL)  # not yet waited for, so the id is still its own
            _, status = os.waitpid(worker, 0)
            control.send(str(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0).encode())


def _work(jobs: socket.socket, memory: int, max_pixels: int, retired_bytes: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # libraries write what a caller sent to the standard error
        os.dup2(null, stream)
    warnings.simplefilter("ignore")
    limit = _RLIMIT_BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while message := jobs.recv(MESSAGE_BYTES):
        job = json.loads(message)
        data = os.pread(memory, job["bytes"], 0)
        signal.setitimer(signal.ITIMER_PROF, job["budget_s"])  # SIGPROF ends the process
        began = time.process_time()
        try:
            reply = _do(job, data, memory)
        except ImageRejected as rejected:
            reply = {"rejected": rejected.message, "param": rejected.param}
        except MemoryError:
            label = ImageLabel(*job["label"])
            too_large = label.rejected("needs more memory than a decoder has. Send a smaller file")
            reply = {"rejected": too_large.message, "param": ""}
        signal.setitimer(signal.ITIMER_PROF, 0)
        spent_s = time.process_time() - began
        if private_bytes() > _KEPT_BYTES:  # small pictures use the same blocks again
            collect()
        retire = known_format(data) in _UNSAFE_FORMATS or private_bytes() > retired_bytes
        jobs.send(json.dumps({**reply, "cpu_s": spent_s, "retire": retire}).encode())


def _do(job: dict[str, Any], data: bytes, memory: int) -> dict[str, Any]:
    label, limits = ImageLabel(*job["label"]), PictureLimits(*job["limits"])
    match job["kind"]:
        case "pages":
            pages = job["pages"] and Pages(**job["pages"])
            return {"pages": page_sizes(data, pages, job["max_pages"], label)}
        case "measure":
            header = read_header(data, label, limits)
            rule = job["rule"] and SizeRule.of_json(job["rule"])
            return {"header": asdict(header), **_decode_small(data, header, rule, label, limits, memory)}
        case _:
            return _decode(data, Header(**job["header"]), job["size"], label, limits, memory)


def _decode_small(
    data: bytes, header: Header, rule: SizeRule | None, label: ImageLabel, limits: PictureLimits, memory: int
) -> dict[str, Any]:
    """Nothing for a picture that is not small; its damage is a fact, not the reason to refuse to measure it."""
    with suppress(AspectRatioTooLarge):
        size = rule.size(header.width, header.height) if rule else None
        if size and decode_cost_s(header, size[0] * size[1]) <= AT_ONCE_S:
            try:
                return _decode(data, header, size, label, limits, memory)
            except ImageRejected as rejected:
                return {"damage": rejected.message}
    return {}


def _decode(
    data: bytes, header: Header, size: tuple[int, int], label: ImageLabel, limits: PictureLimits, memory: int
) -> dict[str, Any]:
    began = time.perf_counter()
    if header.page is not None:
        image = render_page(data, header.page, *size, label)
    else:
        image = decode_picture(data, header, label, limits.max_pixels)
    decoded = time.perf_counter()
    pixels = resize_picture(image, *size)
    digest = picture_digest(pixels)
    resized = time.perf_counter()
    _write(memory, pixels.data.cast("B"))
    return {"digest": digest, "decode_ms": (decoded - began) * 1000, "resize_ms": (resized - decoded) * 1000}


def _write(memory: int, pixels: memoryview) -> None:
    written = 0
    while written < len(pixels):
        written += os.pwrite(memory, pixels[written:], written)
