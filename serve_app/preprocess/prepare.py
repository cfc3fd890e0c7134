"""A request -> a prompt: refuse early, fetch together, decode last.

What can be known from headers (sizes, token counts, whether the context suffices) is decided before a
pixel is decoded. CPU work runs in one thread of its own, so the event loop is never held up and one
process decodes one request's pictures at a time. What depends on the model is asked of its family.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, ImagePart, Picture, Prompt, Sampling, Thinking, Tokenized
from serve_app.errors import ContextTooLong, DeadlineExceeded, InvalidRequest
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Meter
from serve_app.preprocess import images
from serve_app.preprocess.families import family_of
from serve_app.preprocess.family import Context, Reading
from serve_app.preprocess.images import Header, Name
from serve_app.preprocess.sources import Fetcher, decode_data_url
from serve_app.settings import ModelSettings, PreprocessSettings

T = TypeVar("T")

DEADLINE_S = 300.0  # for a request whose door set none
STUCK_S = 300.0  # no request's pictures take this long to decode


@dataclass(frozen=True, slots=True)
class _Measured:
    """A picture's file and what its header says."""

    file: bytes
    name: Name
    header: Header
    size: tuple[int, int]  # (width, height) at which the model sees it
    tokens: int


class Preprocessor:
    """Prepares requests for one checkpoint. Loads its tokenizer, template and sizes; no weights, no torch."""

    def __init__(
        self, model: ModelSettings, settings: PreprocessSettings, meter: Meter, fetcher: Fetcher | None = None
    ) -> None:
        self._family = family_of(checkpoint_folder(model), model, settings)
        self._settings = settings
        self._meter = meter
        self._fetcher = fetcher or Fetcher(settings)
        self._busy_since: float | None = None  # monotonic seconds
        self._cpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess")

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the served model's template and tokenizer can express."""
        return self._family.abilities

    async def prepare(self, request: ChatRequest) -> Prompt:
        """Fetch, measure, tokenize, check, decode, resize.

        Raises InvalidRequest, ContextTooLong, ImageRejected or DeadlineExceeded. The prompt's deadline
        is what is left of the request's.
        """
        began = time.monotonic()
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        gone = threading.Event()  # nobody waits for the result any more

        def work(files: Sequence[bytes], parts: Sequence[ImagePart]) -> tuple[Prompt, list[str]]:
            measured, reading, sampling = self._read(request, files, parts, stages_ms)
            pictures = tuple(self._pictures(measured, stages_ms, gone))
            prompt = Prompt(
                request.id,
                reading.token_ids,
                pictures,
                sampling,
                deadline_s=0.0,
                stages_ms=stages_ms,
                stream=request.stream,
                tools=request.tools,
                constraint=request.constraint,
                thinking=reading.thinking,
                raw=request.text is not None,
            )
            return prompt, [picture.header.format.lower() for picture in measured]

        try:
            prompt, formats = await self._on_time(request, stages_ms, work)
        finally:
            gone.set()
        self._measure(prompt, formats)
        deadline_s = DEADLINE_S if request.deadline_s is None else request.deadline_s
        return replace(prompt, deadline_s=max(0.0, deadline_s - (time.monotonic() - began)))

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The ids that `prepare` would make, with the same checks; pictures are measured, not decoded."""
        stages_ms = {"fetch": 0.0, "decode": 0.0, "tokenize": 0.0}

        def work(files: Sequence[bytes], parts: Sequence[ImagePart]) -> Tokenized:
            measured, reading, _ = self._read(request, files, parts, stages_ms)
            image_tokens = sum(picture.tokens for picture in measured)
            context = self._family.context(len(measured))
            return Tokenized(tuple(reading.token_ids.tolist()), image_tokens, context.tokens)

        return await self._on_time(request, stages_ms, work)

    def check_health(self) -> None:
        """Raises RuntimeError if a decoder does not come back from a picture."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"preprocess has worked on one request for more than {STUCK_S:g} seconds")

    async def close(self) -> None:
        await self._fetcher.close()
        self._cpu.shutdown(wait=False, cancel_futures=True)

    async def _on_time(
        self,
        request: ChatRequest,
        stages_ms: dict[str, float],
        work: Callable[[Sequence[bytes], Sequence[ImagePart]], T],
    ) -> T:
        """Fetch the request's pictures and work on them in the CPU thread, within the request's time."""
        deadline_s = DEADLINE_S if request.deadline_s is None else request.deadline_s
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        self._check_number(parts)
        if request.text is not None and (request.messages or request.tools or request.thinking != Thinking()):
            raise InvalidRequest(
                "a text is continued as it stands: it goes without messages, tools and thinking", param="prompt"
            )
        try:
            async with asyncio.timeout(deadline_s):
                with _timed(stages_ms, "fetch"):
                    files = await self._fetch(parts)
                return await asyncio.get_running_loop().run_in_executor(self._cpu, self._busy, work, files, parts)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the pictures were not ready within the request's {deadline_s:g} seconds"
            ) from error

    def _check_number(self, parts: Sequence[ImagePart]) -> None:
        most = self._family.max_pictures
        if most is not None and len(parts) > most:
            raise InvalidRequest(
                f"the conversation has {len(parts)} pictures; the served model takes {most} in a whole conversation",
                param=parts[most].param,
            )
        if len(parts) > self._settings.max_images:
            raise InvalidRequest(
                f"the request has {len(parts)} pictures; the limit is {self._settings.max_images}", param="messages"
            )

    async def _fetch(self, parts: Sequence[ImagePart]) -> list[bytes]:
        tasks = [asyncio.ensure_future(self._file(part, _name(n, part))) for n, part in enumerate(parts)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # one refused picture refuses the request: the others need not arrive
                task.cancel()

    async def _file(self, part: ImagePart, name: Name) -> bytes:
        if isinstance(part.source, bytes):
            return part.source
        scheme = part.source[:8].lower()
        if scheme.startswith("data:"):
            return await asyncio.to_thread(decode_data_url, part.source, name, self._settings.max_image_bytes)
        if scheme.startswith(("http:", "https:")):
            return await self._fetcher.fetch(part.source, name)
        raise name.rejected("must be a data: URL or an http(s) address")

    def _busy(
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

    def _read(
        self,
        request: ChatRequest,
        files: Sequence[bytes],
        parts: Sequence[ImagePart],
        stages_ms: dict[str, float],
    ) -> tuple[list[_Measured], Reading, Sampling]:
        """All that is known of a prompt before a pixel is decoded; whatever can be refused is refused here."""
        with _timed(stages_ms, "decode"):
            measured = [self._header(file, part, n) for n, (file, part) in enumerate(zip(files, parts, strict=True))]
        context = self._family.context(len(measured))
        with _timed(stages_ms, "tokenize"):
            reading = self._family.read(request, [picture.tokens for picture in measured], context.tokens)
        param = "messages" if request.text is None else "prompt"
        sampling = self._resolve(request.sampling, len(reading.token_ids), context, param)
        return measured, reading, sampling

    def _header(self, file: bytes, part: ImagePart, index: int) -> _Measured:
        name = _name(index, part)
        header = images.read_header(file, name, self._settings.max_image_bytes, self._settings.max_image_pixels)
        size = self._family.seen_size(header.width, header.height, part.detail, name)
        return _Measured(file, name, header, size, self._family.tokens(*size))

    def _pictures(
        self, measured: Sequence[_Measured], stages_ms: dict[str, float], gone: threading.Event
    ) -> Iterator[Picture]:
        for picture in measured:
            if gone.is_set():
                return
            header = picture.header
            with _timed(stages_ms, "decode"):
                image = images.decode(picture.file, header, picture.name, self._settings.max_image_pixels)
            with _timed(stages_ms, "resize"):
                pixels = images.resize(image, *picture.size)
                digest = images.content_digest(pixels)
            yield Picture(pixels, digest, picture.tokens, (header.width, header.height))

    def _resolve(self, sampling: Sampling, prompt_tokens: int, context: Context, param: str) -> Sampling:
        """The sampling with `max_tokens` said, and `min_tokens` with it where the answer may not end early."""
        left = context.tokens - prompt_tokens
        if left < 1:
            raise ContextTooLong(
                f"the prompt is {prompt_tokens} tokens; {context} and an answer needs at least one", param=param
            )
        most = sampling.max_tokens
        if most is None:
            most = min(max(self._settings.default_max_tokens, sampling.min_tokens), left)
        if most < 1:
            raise InvalidRequest(f"max_tokens is {most}; the least is 1", param="max_tokens")
        if most > left:
            raise ContextTooLong(
                f"the prompt is {prompt_tokens} tokens and max_tokens is {most}:"
                f" together {prompt_tokens + most}; {context}",
                param=param,
            )
        if sampling.min_tokens > most:
            raise InvalidRequest(
                f"min_tokens is {sampling.min_tokens}; this answer may have at most {most} tokens", param="min_tokens"
            )
        return replace(sampling, max_tokens=most, min_tokens=most if sampling.ignore_eos else sampling.min_tokens)

    def _measure(self, prompt: Prompt, formats: list[str]) -> None:
        for file_format in formats:
            self._meter.count(PICTURES, format=file_format)
        for stage, spent_ms in prompt.stages_ms.items():
            if prompt.pictures or stage == "tokenize":
                self._meter.observe(STAGE_SECONDS, spent_ms / 1000, stage=stage)
        for picture in prompt.pictures:
            self._meter.observe(PICTURE_TOKENS, picture.tokens)


def _name(index: int, part: ImagePart) -> Name:
    return Name(index + 1, part.param)


@contextmanager
def _timed(stages_ms: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        stages_ms[stage] += (time.perf_counter() - began) * 1000
