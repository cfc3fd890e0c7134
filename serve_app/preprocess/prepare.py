"""Turns a request into a prompt: checks it, fetches pictures, reads headers, tokenizes, decodes last.

What is known from headers (sizes, token counts, whether the context suffices) is checked before a pixel is
decoded. Pictures are read in the processes of decoder_pool.py, text is tokenized in one thread, so the event loop is
never blocked. What depends on the model is in its family's processor.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from serve_app.checkpoint import checkpoint_digest, checkpoint_folder
from serve_app.contracts import ChatRequest, ImagePart, Picture, PictureSource, Prompt, Sampling, Tokenized
from serve_app.errors import ContextTooLong, DeadlineExceeded, ImageRejected
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Meter
from serve_app.preprocess.decode import Header
from serve_app.preprocess.decoded_cache import DecodedCache, picture_key
from serve_app.preprocess.decoder_pool import DecodedPicture, DecoderPool, ReadPicture
from serve_app.preprocess.documents import PDF, POINTS_PER_INCH, is_pdf, repeat_pictures
from serve_app.preprocess.family_processor import ContextLimit, TokenizedPrompt, load_processor
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.max_tokens import context_too_long, resolve_max_tokens
from serve_app.preprocess.memory_budget import MemoryBudget, Reservation
from serve_app.preprocess.message_checks import check_request
from serve_app.preprocess.picture_limits import (
    ImageLabel,
    PictureLimits,
    check_bytes,
    check_number,
    check_pixels,
    check_request_pixels,
    label_of,
)
from serve_app.preprocess.picture_source import PictureSources
from serve_app.preprocess.scan import Scanner
from serve_app.settings import ModelSettings, PreprocessSettings

STUCK_S = 300.0  # no request's text takes this long to tokenize


@dataclass(frozen=True, slots=True)
class _MeasuredPicture:
    """A picture's file and the sizes that follow from its header."""

    file: bytes
    label: ImageLabel
    header: Header
    size: tuple[int, int]  # (width, height) to which it is resized
    tokens: int
    source: PictureSource
    decoded: DecodedPicture | ImageRejected | None = None  # of a small picture


class Preprocessor:
    """Prepares requests for one checkpoint. Loads its tokenizer, template and sizes; no weights, no torch."""

    def __init__(
        self,
        model: ModelSettings,
        settings: PreprocessSettings,
        meter: Meter,
        fetcher: Fetcher | None = None,
        decoders: DecoderPool | None = None,
        scanner: Scanner | None = None,
    ) -> None:
        self._scanner = scanner
        self._decoders = decoders or DecoderPool(settings)
        self._limits = PictureLimits.of_settings(settings)
        folder = checkpoint_folder(model)
        self._processor = load_processor(folder, model, settings)
        self._checkpoint = checkpoint_digest(folder)
        self._settings = settings
        self._meter = meter
        self._sources = PictureSources(fetcher or Fetcher(settings), settings.max_image_bytes)
        self._memory = MemoryBudget(settings.max_bytes_in_flight)
        self._decoded = DecodedCache(settings.decoded_cache_mib * 2**20)
        self._busy_since: float | None = None  # monotonic seconds
        self._cpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess")

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the served model's template and tokenizer can express."""
        return self._processor.abilities

    async def prepare(self, request: ChatRequest) -> Prompt:
        """Check, fetch, measure, tokenize, decode, resize.

        Raises InvalidRequest, ContextTooLong, ImageRejected, Overloaded or DeadlineExceeded. The prompt's deadline
        is the rest of the request's.
        """
        began = time.monotonic()
        request, ignored = self._without_unsupported_tools(request)
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        async with self._limits_of(request) as held:
            measured, tokenized, sampling = await self._measure_and_tokenize(request, stages_ms, held, decode=True)
            sizes = [picture.size for picture in measured if picture.decoded is None]
            held.add(sum(3 * width * height for width, height in sizes))
            pictures = await self._decode(measured, stages_ms)
        prompt = Prompt(
            request.id,
            tokenized.token_ids,
            pictures,
            sampling,
            deadline_s=max(0.0, request.deadline_s - (time.monotonic() - began)),
            stages_ms=stages_ms,
            stream=request.stream,
            tools=request.tools,
            constraint=request.constraint,
            thinking=tokenized.thinking,
            raw=request.text is not None,
            lane="batch" if "batch" in (request.lane, request.caller.lane) else "interactive",
            tenant=request.caller.tenant,
            continues=request.continue_last,
            ignored_fields=ignored,
            clipped_max_tokens=_clipped(request.sampling, sampling),
            checkpoint=self._checkpoint,
        )
        self._count(prompt, [picture.header.format.lower() for picture in measured])
        return prompt

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The ids that `prepare` would make, with the same checks; pictures are measured, not decoded."""
        request, _ = self._without_unsupported_tools(request)
        stages_ms = {"fetch": 0.0, "decode": 0.0, "tokenize": 0.0}
        async with self._limits_of(request) as held:
            measured, tokenized, _ = await self._measure_and_tokenize(request, stages_ms, held, decode=False)
        image_tokens = sum(picture.tokens for picture in measured)
        limit = self._processor.context_limit(len(measured))
        return Tokenized(tuple(tokenized.token_ids.tolist()), image_tokens, limit.tokens)

    def check_health(self) -> None:
        """Raises RuntimeError if the CPU thread hangs or no picture can be decoded."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"Preprocess has worked on one request for more than {STUCK_S:g} seconds.")
        self._decoders.check_health()

    async def close(self) -> None:
        """Ends fetches, the CPU thread and the decoder processes."""
        await self._sources.close()
        self._cpu.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()

    @asynccontextmanager
    async def _limits_of(self, request: ChatRequest) -> AsyncIterator[Reservation]:
        """The time and the memory of a request."""
        try:
            with self._memory.reservation() as held:
                async with asyncio.timeout(request.deadline_s):
                    yield held
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The request was not prepared within its {request.deadline_s:g} seconds (http.request_timeout_s)."
            ) from error

    async def _measure_and_tokenize(
        self, request: ChatRequest, stages_ms: dict[str, float], held: Reservation, *, decode: bool
    ) -> tuple[list[_MeasuredPicture], TokenizedPrompt, Sampling]:
        """Finds every reason to refuse a request except damaged pixels; with `decode`, small pictures are decoded."""
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        check_number(parts, self._processor.max_pictures, self._settings.max_images)
        limit = self._processor.context_limit(len(parts))
        check_request(request, self._processor.abilities, limit.tokens)
        with _timed(stages_ms, "fetch"):
            files = await self._sources.read_all(parts, held)
        if self._scanner is not None and files:
            stages_ms["scan"] = 0.0
            with _timed(stages_ms, "scan"):
                await self._scanner.scan_all(files, [label_of(part, index) for index, part in enumerate(parts)])
        with _timed(stages_ms, "decode"):
            measured = await self._measure(files, parts, held if decode else None, request.caller.tenant)
        pictures = Counter(picture.source.upload for picture in measured)
        shown = replace(request, messages=repeat_pictures(request.messages, [pictures[n] for n in range(len(parts))]))

        def work() -> tuple[TokenizedPrompt, Sampling]:
            self._busy_since = time.monotonic()
            try:
                return self._tokenize(shown, [picture.tokens for picture in measured], limit)
            finally:
                self._busy_since = None

        with _timed(stages_ms, "tokenize"):
            tokenized, sampling = await asyncio.get_running_loop().run_in_executor(self._cpu, work)
        return measured, tokenized, sampling

    def _tokenize(
        self, request: ChatRequest, counts: Sequence[int], limit: ContextLimit
    ) -> tuple[TokenizedPrompt, Sampling]:
        """The prompt, and the sampling with its token limit; raises ContextTooLong, which names tools at fault."""
        tokens: int | None = None
        try:
            tokenized = self._processor.tokenize(request, counts, limit.tokens)
            tokens = len(tokenized.token_ids)
            default, clip = self._settings.default_max_tokens, self._settings.clip_max_tokens
            return tokenized, resolve_max_tokens(request.sampling, tokens, limit, default, request.param, clip=clip)
        except ContextTooLong:
            if request.tools is None or (tokens is not None and tokens < limit.tokens):
                raise
            # Raises the same error where the prompt is too long without the tools too.
            without, _ = self._tokenize(replace(request, tools=None), counts, limit)
            known = tokens or limit.tokens + 1
            tool_tokens = known - len(without.token_ids)
            raise context_too_long(
                limit, known, request.param, at_least=tokens is None, tool_tokens=tool_tokens
            ) from None

    def _without_unsupported_tools(self, request: ChatRequest) -> tuple[ChatRequest, tuple[str, ...]]:
        """The request without tools that the model can't call and need not, and the names of fields left out."""
        if request.tools is None or request.tools.required or "tools" in self._processor.abilities:
            return request, ()
        return replace(request, tools=None), ("tools",)

    async def _measure(
        self, files: Sequence[bytes], parts: Sequence[ImagePart], held: Reservation | None, tenant: str
    ) -> list[_MeasuredPicture]:
        """The pictures in their order; with `held`, small ones are decoded and their pixels added to it."""
        measured: list[_MeasuredPicture] = []
        pixels = 0
        for index, (file, part) in enumerate(zip(files, parts, strict=True)):
            label = label_of(part, index)
            cpu_left_s = self._cpu_left_s(measured)
            for read in await self._read(file, part, label, held if cpu_left_s > 0 else None, cpu_left_s, tenant):
                header = read.header
                label = replace(label, page=header.page)
                pixels += header.width * header.height
                check_request_pixels(pixels, self._settings.max_request_pixels, label)
                size = self._processor.target_size(header.width, header.height, part.detail, label)
                tokens = self._processor.picture_tokens(*size)
                source = PictureSource(index, header.page)
                measured.append(_MeasuredPicture(file, label, header, size, tokens, source, read.decoded))
            shown = [parts[picture.source.upload] for picture in measured]
            check_number(shown, self._processor.max_pictures, self._settings.max_images)
        return measured

    async def _read(
        self,
        file: bytes,
        part: ImagePart,
        label: ImageLabel,
        held: Reservation | None,
        max_cpu_s: float,
        tenant: str,
    ) -> list[ReadPicture]:
        """A picture, decoded if `held` is given and it is small; or the header of each page of a document."""
        if not is_pdf(file):
            if part.pages is not None:
                reason = "is no PDF, and only a PDF has pages. Leave them out"
                raise replace(label, param=part.pages.param).rejected(reason)
            if held is None:
                return [ReadPicture(await self._decoders.measure(file, label, self._limits))]
            rule = self._processor.size_rule(part.detail)
            key = picture_key(tenant, file, rule)
            if (known := self._decoded.get(key)) is not None:
                assert isinstance(known.decoded, DecodedPicture)
                held.add(known.decoded.pixels.nbytes)
                return [known]
            read = await self._decoders.read(file, rule, label, self._limits, held, max_cpu_s)
            self._decoded.put(key, read)
            return [read]
        check_bytes(len(file), self._limits.max_bytes, label)
        most = self._settings.max_pdf_pages
        pages = await self._decoders.measure_pages(file, part.pages, most, label, self._limits)
        scale = self._settings.pdf_dpi / POINTS_PER_INCH
        headers = [
            Header(PDF, max(1, round(width * scale)), max(1, round(height * scale)), orientation=1, page=page)
            for page, width, height in pages
        ]
        for header in headers:
            check_pixels(header.width, header.height, self._limits.max_pixels, replace(label, page=header.page))
        return [ReadPicture(header) for header in headers]

    def _cpu_left_s(self, pictures: Sequence[_MeasuredPicture]) -> float:
        decoded = (picture.decoded for picture in pictures)
        return self._settings.max_decode_cpu_s - sum(
            picture.cpu_s for picture in decoded if isinstance(picture, DecodedPicture)
        )

    async def _decode(self, measured: Sequence[_MeasuredPicture], stages_ms: dict[str, float]) -> tuple[Picture, ...]:
        """Decodes those that are not small, one after the other, so that each request has one job in the queue."""
        pictures: list[Picture] = []
        cpu_left_s = self._cpu_left_s(measured)
        for picture in measured:
            header, label, decoded = picture.header, picture.label, picture.decoded
            if isinstance(decoded, ImageRejected):
                raise decoded
            if decoded is None:
                if cpu_left_s <= 0:
                    raise label.rejected(
                        f"is not decoded: the pictures before it took the {self._settings.max_decode_cpu_s:g} seconds"
                        " of CPU time of a request. Send fewer or smaller pictures"
                    )
                with _timed(stages_ms, "decode"):  # with the time in the queue
                    decoded = await self._decoders.decode(
                        picture.file, header, picture.size, label, self._limits, max_cpu_s=cpu_left_s
                    )
                cpu_left_s -= decoded.cpu_s
            stages_ms["resize"] += decoded.resize_ms
            stages_ms["decode"] -= decoded.resize_ms
            original_size = (header.width, header.height)
            pictures.append(Picture(decoded.pixels, decoded.digest, picture.tokens, original_size, picture.source))
        return tuple(pictures)

    def _count(self, prompt: Prompt, formats: list[str]) -> None:
        for file_format in formats:
            self._meter.count(PICTURES, format=file_format)
        for stage, spent_ms in prompt.stages_ms.items():
            if prompt.pictures or stage == "tokenize":
                self._meter.observe(STAGE_SECONDS, spent_ms / 1000, stage=stage)
        for picture in prompt.pictures:
            self._meter.observe(PICTURE_TOKENS, picture.tokens)


def _clipped(requested: Sampling, resolved: Sampling) -> int | None:
    """The token limit in force, where it is not the request's."""
    return resolved.max_tokens if requested.max_tokens not in (None, resolved.max_tokens) else None


@contextmanager
def _timed(stages_ms: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        stages_ms[stage] += (time.perf_counter() - began) * 1000
