"""A request -> a prompt: check, fetch the pictures, read their headers, tokenize, and decode last.

What is known from headers (sizes, token counts, whether the context suffices) is checked before a pixel is
decoded. CPU work runs in one thread, so the event loop is never blocked and one process decodes one
request's pictures at a time. What depends on the model is in its family's processor.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, ImagePart, Picture, Prompt, Sampling, Tokenized
from serve_app.errors import DeadlineExceeded
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Meter
from serve_app.preprocess.decode import Header, decode_picture, read_header
from serve_app.preprocess.family_processor import TokenizedPrompt, load_processor
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.max_tokens import resolve_max_tokens
from serve_app.preprocess.message_checks import check_request
from serve_app.preprocess.picture_limits import ImageLabel, check_number, label_of
from serve_app.preprocess.resize import resize_picture
from serve_app.settings import ModelSettings, PreprocessSettings

T = TypeVar("T")

STUCK_S = 300.0  # no request's pictures take this long to decode


@dataclass(frozen=True, slots=True)
class _MeasuredPicture:
    """A picture's file and the sizes that follow from its header."""

    file: bytes
    label: ImageLabel
    header: Header
    size: tuple[int, int]  # (width, height) to which it is resized
    tokens: int


class Preprocessor:
    """Prepares requests for one checkpoint. Loads its tokenizer, template and sizes; no weights, no torch."""

    def __init__(
        self, model: ModelSettings, settings: PreprocessSettings, meter: Meter, fetcher: Fetcher | None = None
    ) -> None:
        self._processor = load_processor(checkpoint_folder(model), model, settings)
        self._settings = settings
        self._meter = meter
        self._fetcher = fetcher or Fetcher(settings)
        self._busy_since: float | None = None  # monotonic seconds
        self._cpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess")

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the served model's template and tokenizer can express."""
        return self._processor.abilities

    async def prepare(self, request: ChatRequest) -> Prompt:
        """Check, fetch, measure, tokenize, decode, resize.

        Raises InvalidRequest, ContextTooLong, ImageRejected or DeadlineExceeded. The prompt's deadline
        is the rest of the request's.
        """
        began = time.monotonic()
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        abandoned = threading.Event()  # the caller no longer waits for the result

        def work(files: Sequence[bytes], parts: Sequence[ImagePart]) -> tuple[Prompt, list[str]]:
            measured, tokenized, sampling = self._measure_and_tokenize(request, files, parts, stages_ms)
            pictures = tuple(self._decode(measured, stages_ms, abandoned))
            prompt = Prompt(
                request.id,
                tokenized.token_ids,
                pictures,
                sampling,
                deadline_s=0.0,
                stages_ms=stages_ms,
                stream=request.stream,
                tools=request.tools,
                constraint=request.constraint,
                thinking=tokenized.thinking,
                raw=request.text is not None,
            )
            return prompt, [picture.header.format.lower() for picture in measured]

        try:
            prompt, formats = await self._run(request, stages_ms, work)
        finally:
            abandoned.set()
        self._count(prompt, formats)
        return replace(prompt, deadline_s=max(0.0, request.deadline_s - (time.monotonic() - began)))

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The ids that `prepare` would make, with the same checks; pictures are measured, not decoded."""
        stages_ms = {"fetch": 0.0, "decode": 0.0, "tokenize": 0.0}

        def work(files: Sequence[bytes], parts: Sequence[ImagePart]) -> Tokenized:
            measured, tokenized, _ = self._measure_and_tokenize(request, files, parts, stages_ms)
            image_tokens = sum(picture.tokens for picture in measured)
            limit = self._processor.context_limit(len(measured))
            return Tokenized(tuple(tokenized.token_ids.tolist()), image_tokens, limit.tokens)

        return await self._run(request, stages_ms, work)

    def check_health(self) -> None:
        """Raises RuntimeError if the CPU thread hangs in a picture."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"Preprocess has worked on one request for more than {STUCK_S:g} seconds.")

    async def close(self) -> None:
        await self._fetcher.close()
        self._cpu.shutdown(wait=False, cancel_futures=True)

    async def _run(
        self,
        request: ChatRequest,
        stages_ms: dict[str, float],
        work: Callable[[Sequence[bytes], Sequence[ImagePart]], T],
    ) -> T:
        """Check the request, fetch its pictures and call `work` in the CPU thread, within the deadline."""
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        check_number(parts, self._processor.max_pictures, self._settings.max_images)
        check_request(request, self._processor.abilities, self._processor.context_limit(len(parts)).tokens)
        try:
            async with asyncio.timeout(request.deadline_s):
                with _timed(stages_ms, "fetch"):
                    files = await self._fetcher.fetch_all(parts)
                return await asyncio.get_running_loop().run_in_executor(self._cpu, self._mark_busy, work, files, parts)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The pictures were not ready within the request's {request.deadline_s:g} seconds."
            ) from error

    def _mark_busy(
        self,
        work: Callable[[Sequence[bytes], Sequence[ImagePart]], T],
        files: Sequence[bytes],
        parts: Sequence[ImagePart],
    ) -> T:
        self._busy_since = time.monotonic()
        try:
            return work(files, parts)
        finally:
            self._busy_since = None

    def _measure_and_tokenize(
        self,
        request: ChatRequest,
        files: Sequence[bytes],
        parts: Sequence[ImagePart],
        stages_ms: dict[str, float],
    ) -> tuple[list[_MeasuredPicture], TokenizedPrompt, Sampling]:
        """All steps before a pixel is decoded; every reason to refuse a request but damaged pixels is found here."""
        with _timed(stages_ms, "decode"):
            measured = [self._measure(file, part, n) for n, (file, part) in enumerate(zip(files, parts, strict=True))]
        limit = self._processor.context_limit(len(measured))
        with _timed(stages_ms, "tokenize"):
            counts = [picture.tokens for picture in measured]
            tokenized = self._processor.tokenize(request, counts, limit.tokens)
        default = self._settings.default_max_tokens
        sampling = resolve_max_tokens(request.sampling, len(tokenized.token_ids), limit, default, request.param)
        return measured, tokenized, sampling

    def _measure(self, file: bytes, part: ImagePart, index: int) -> _MeasuredPicture:
        label = label_of(part, index)
        header = read_header(file, label, self._settings.max_image_bytes, self._settings.max_image_pixels)
        size = self._processor.target_size(header.width, header.height, part.detail, label)
        return _MeasuredPicture(file, label, header, size, self._processor.picture_tokens(*size))

    def _decode(
        self, measured: Sequence[_MeasuredPicture], stages_ms: dict[str, float], abandoned: threading.Event
    ) -> Iterator[Picture]:
        for picture in measured:
            if abandoned.is_set():
                return
            header = picture.header
            with _timed(stages_ms, "decode"):
                image = decode_picture(picture.file, header, picture.label, self._settings.max_image_pixels)
            with _timed(stages_ms, "resize"):
                pixels = resize_picture(image, *picture.size)
                digest = picture_digest(pixels)
            yield Picture(pixels, digest, picture.tokens, (header.width, header.height))

    def _count(self, prompt: Prompt, formats: list[str]) -> None:
        for file_format in formats:
            self._meter.count(PICTURES, format=file_format)
        for stage, spent_ms in prompt.stages_ms.items():
            if prompt.pictures or stage == "tokenize":
                self._meter.observe(STAGE_SECONDS, spent_ms / 1000, stage=stage)
        for picture in prompt.pictures:
            self._meter.observe(PICTURE_TOKENS, picture.tokens)


def picture_digest(pixels: NDArray[np.uint8]) -> str:
    """SHA-256 over size and pixels (height, width, 3), in hexadecimal; equal pictures have equal digests."""
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


@contextmanager
def _timed(stages_ms: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        stages_ms[stage] += (time.perf_counter() - began) * 1000
