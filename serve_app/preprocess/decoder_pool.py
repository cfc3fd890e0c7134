"""Decodes pictures in a few processes that can be killed: queue by predicted cost, CPU budgets.

Pictures are decoded in the order of their arrival plus five times their predicted cost: cheap ones pass expensive
ones, and no picture waits without end. Of several processes, one is reserved for small pictures. The kernel ends a
process that has used its CPU budget, the pool one whose request was cancelled. A process that has ended is replaced
within milliseconds, and only its own picture is refused.
Design and figures: docs/decisions/0013-decoding-processes.md
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Pages, UnsentPixels
from serve_app.errors import ImageRejected, Overloaded, ServiceError
from serve_app.preprocess.decode import Header
from serve_app.preprocess.decode_cost import AT_ONCE_S, SMALL_S, cpu_budget_s, decode_cost_s, header_cost_s
from serve_app.preprocess.decoder_process import Decoder, DecoderServer
from serve_app.preprocess.decoder_worker import RETIRED_BYTES
from serve_app.preprocess.memory_budget import Reservation
from serve_app.preprocess.picture_limits import ImageLabel, PictureLimits
from serve_app.preprocess.size_rule import SizeRule
from serve_app.settings import PreprocessSettings

_COST_WEIGHT: Final = 5.0  # pictures that arrive within this many times a picture's predicted cost go first
_ATTEMPTS: Final = 2  # a process may be killed from outside, or crash by what an earlier picture did to its memory

_log: Final = logging.getLogger("glm.preprocess")


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPicture:
    """The pixels at the size that the model sees, and what they cost."""

    pixels: NDArray[np.uint8] | UnsentPixels  # (height, width, 3), RGB
    digest: str
    decode_ms: float
    resize_ms: float
    cpu_s: float


@dataclass(frozen=True, slots=True, eq=False)
class ReadPicture:
    """The header of a picture, and its pixels or its damage if it was decoded at once."""

    header: Header
    decoded: DecodedPicture | ImageRejected | None = None
    key: bytes = b""  # of the cache of decoded pictures


@dataclass(slots=True, eq=False)
class _Waiting:
    cost_s: float
    since: float  # monotonic seconds
    decoder: asyncio.Future[Decoder]


class DecoderPool:
    """The decoder processes of one replica; used from one event loop at a time."""

    def __init__(self, settings: PreprocessSettings, retired_bytes: int = RETIRED_BYTES) -> None:
        """A process that holds more than `retired_bytes` after a job is replaced."""
        self._max_waiting = settings.max_decode_queue
        self._decoders = [Decoder(small_only=n == 0 and settings.decoders > 1) for n in range(settings.decoders)]
        self._waiting: list[_Waiting] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed = False
        self._server = DecoderServer(settings.max_image_pixels, retired_bytes)
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoder-start")
        for decoder in self._decoders:
            self._starter.submit(self._restart, decoder)

    @property
    def process_ids(self) -> list[int]:
        return [decoder.pid for decoder in self._decoders if decoder.running]

    async def measure(self, file: bytes, label: ImageLabel, limits: PictureLimits) -> Header:
        """The properties of a picture that its header has.

        Raises ImageRejected for a file that is not a picture or exceeds the limits, Overloaded if too many requests
        wait.
        """
        cost_s = header_cost_s(len(file))
        job = {**_job("measure", label, limits), "rule": None}
        reply, _ = await self._run(job, file, cost_s, cpu_budget_s(cost_s), label)
        return Header(**reply["header"])

    async def read(
        self,
        file: bytes,
        rule: SizeRule,
        label: ImageLabel,
        limits: PictureLimits,
        held: Reservation,
        max_cpu_s: float,
    ) -> ReadPicture:
        """Measure a picture; if it is small, also decode it in the same job, to the size that `rule` gives.

        Its pixels are added to `held`. Raises as `measure`.
        """

        def size_of(reply: dict[str, Any]) -> tuple[int, int] | None:
            if "digest" not in reply:
                return None
            width, height = rule.size(reply["header"]["width"], reply["header"]["height"])
            held.add(3 * width * height)
            return width, height

        cost_s = header_cost_s(len(file)) + AT_ONCE_S
        job = {**_job("measure", label, limits), "rule": rule.as_json()}
        reply, pixels = await self._run(job, file, cost_s, min(max_cpu_s, cpu_budget_s(cost_s)), label, size_of)
        header = Header(**reply["header"])
        if pixels is not None:
            return ReadPicture(header, _decoded(reply, pixels))
        return ReadPicture(header, ImageRejected(reply["damage"], label.param) if "damage" in reply else None)

    async def measure_pages(
        self, file: bytes, pages: Pages | None, max_pages: int, label: ImageLabel, limits: PictureLimits
    ) -> list[tuple[int, float, float]]:
        """(page from 1, width, height in points) of pages of a PDF; raises as `measure`."""
        cost_s = header_cost_s(len(file))
        job = {**_job("pages", label, limits), "pages": pages and asdict(pages), "max_pages": max_pages}
        reply, _ = await self._run(job, file, cost_s, cpu_budget_s(cost_s), label)
        return [(page, width, height) for page, width, height in reply["pages"]]

    async def decode(
        self,
        file: bytes,
        header: Header,
        size: tuple[int, int],
        label: ImageLabel,
        limits: PictureLimits,
        max_cpu_s: float,
    ) -> DecodedPicture:
        """Decode a measured picture and resize it to `size` (width, height), in at most `max_cpu_s` seconds of CPU.

        Raises ImageRejected if it is damaged or takes too much time, Overloaded if too many requests wait.
        """
        cost_s = decode_cost_s(header, size[0] * size[1])
        job = {**_job("decode", label, limits), "header": asdict(header), "size": size}
        budget_s = min(max_cpu_s, cpu_budget_s(cost_s))
        reply, pixels = await self._run(job, file, cost_s, budget_s, label, lambda _: size)
        assert pixels is not None
        return _decoded(reply, pixels)

    def check_health(self) -> None:
        """Raises RuntimeError if decoder processes cannot be started."""
        if self._failed:
            raise RuntimeError("The decoder processes of preprocess cannot be started.")

    def close(self) -> None:
        """Ends all processes; jobs that are running are lost."""
        self._starter.submit(self._server.close)
        self._starter.shutdown(wait=True)

    async def _run(
        self,
        job: dict[str, Any],
        file: bytes,
        cost_s: float,
        budget_s: float,
        label: ImageLabel,
        size_of: Callable[[dict[str, Any]], tuple[int, int] | None] = lambda reply: None,
    ) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        """The reply to a job, and the pixels of the size that `size_of` finds in it."""
        for attempt in range(_ATTEMPTS):
            decoder, reply = await self._acquire(cost_s), None
            try:
                reply = await decoder.work({**job, "budget_s": budget_s}, file)
                if reply is not None:
                    if "rejected" in reply:
                        raise ImageRejected(reply["rejected"], reply["param"] or label.param)
                    size = size_of(reply)
                    pixels = decoder.read_pixels(*size) if size else None
            except ServiceError:
                self._finish(decoder, reply)
                raise
            except BaseException:  # the request was cancelled, or the reply is invalid
                self._replace(decoder)
                raise
            if reply is None:
                ended_by = await asyncio.wrap_future(self._replace(decoder))
                _log.warning("A decoder was ended by signal %d while it read a picture, and is replaced.", ended_by)
                _check_end(ended_by, budget_s, label, again=attempt + 1 < _ATTEMPTS)
                continue
            self._finish(decoder, reply)
            return reply, pixels
        raise Overloaded("The process that decoded a picture was killed twice. Try again shortly.")

    async def _acquire(self, cost_s: float) -> Decoder:
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(
                f"{self._max_waiting} pictures are waiting to be decoded, which is the limit. Try again shortly."
            )
        if self._failed:
            raise ServiceError("Pictures cannot be decoded: no decoder process can be started.")
        self._loop = asyncio.get_running_loop()
        waiting = _Waiting(cost_s, time.monotonic(), self._loop.create_future())
        self._waiting.append(waiting)
        self._dispatch()
        try:
            return await waiting.decoder
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.decoder.cancelled():
                self._release(waiting.decoder.result())
            raise

    def _finish(self, decoder: Decoder, reply: dict[str, Any] | None) -> None:
        if reply is not None and reply["retire"]:
            self._replace(decoder)
        else:
            self._release(decoder)

    def _release(self, decoder: Decoder) -> None:
        decoder.busy = False
        self._dispatch()

    def _dispatch(self) -> None:
        for decoder in self._decoders:  # the one for small pictures first
            if decoder.busy or not decoder.running:
                continue
            most = SMALL_S if decoder.small_only else float("inf")
            fitting = [job for job in self._waiting if job.cost_s <= most and not job.decoder.done()]
            if fitting:
                chosen = min(fitting, key=lambda job: job.since + _COST_WEIGHT * job.cost_s)
                self._waiting.remove(chosen)
                decoder.busy = True
                chosen.decoder.set_result(decoder)

    def _replace(self, decoder: Decoder) -> Future[int]:
        """Ends a process and starts another in its place; the result is the signal that ended it."""
        decoder.running = False
        return self._starter.submit(self._restart, decoder)

    def _restart(self, decoder: Decoder) -> int:
        ended_by = decoder.end(self._server)
        decoder.busy = False
        try:
            decoder.start(self._server)
        except Exception:
            self._failed = True
            _log.exception("No decoder process can be started; the replica is replaced.")
        if self._loop is not None:
            with suppress(RuntimeError):  # that loop is closed; the next job dispatches
                self._loop.call_soon_threadsafe(self._settle)
        return ended_by

    def _settle(self) -> None:
        if self._failed:
            for job in self._waiting:
                if not job.decoder.done():
                    job.decoder.set_exception(ServiceError("No decoder process can be started."))
            self._waiting.clear()
        self._dispatch()


def _job(kind: str, label: ImageLabel, limits: PictureLimits) -> dict[str, Any]:
    return {"kind": kind, "label": (label.number, "", label.page, label.noun), "limits": astuple(limits)}


def _decoded(reply: dict[str, Any], pixels: NDArray[np.uint8]) -> DecodedPicture:
    return DecodedPicture(pixels, reply["digest"], reply["decode_ms"], reply["resize_ms"], reply["cpu_s"])


def _check_end(ended_by: int, budget_s: float, label: ImageLabel, *, again: bool) -> None:
    """Raises ImageRejected if the picture ended the process; not if it was killed from outside.

    With `again`, a crash may be the fault of an earlier picture.
    """
    if ended_by == signal.SIGPROF:
        raise label.rejected(
            f"takes more than {budget_s:.2g} seconds of CPU time to decode, the limit. Save it as PNG or baseline JPEG"
        )
    if ended_by != signal.SIGKILL and not again:
        raise label.rejected("cannot be decoded: it crashes the decoder. Save it again as PNG or JPEG")
