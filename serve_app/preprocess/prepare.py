"""Turns a request into a prompt: checks it, fetches pictures, reads headers, tokenizes, decodes last.

What is known from headers (sizes, token counts, whether the context suffices) is checked before a pixel is
decoded. Pictures are read in the processes of decoder_pool.py, text is tokenized in one thread, so the event loop is
never blocked. What depends on the model is in its family's processor.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType

from serve_app.checkpoint import checkpoint_digest, checkpoint_folder
from serve_app.contracts import ChatRequest, ImagePart, Prompt, Sampling
from serve_app.errors import ContextTooLong, DeadlineExceeded
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Meter
from serve_app.preprocess.decoder_pool import DecoderPool, ReadPicture
from serve_app.preprocess.documents import repeat_pictures
from serve_app.preprocess.family_processor import ContextLimit, TokenizedPrompt, load_processor
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.max_tokens import context_too_long, resolve_max_tokens
from serve_app.preprocess.memory_budget import MemoryBudget, Reservation
from serve_app.preprocess.message_checks import check_request
from serve_app.preprocess.picture_limits import check_number, label_of
from serve_app.preprocess.picture_source import PictureSources
from serve_app.preprocess.read_pictures import Decoding, MeasuredPicture, PictureReader
from serve_app.preprocess.scan import Scanner
from serve_app.preprocess.stage_times import timed
from serve_app.replies import Tokenized
from serve_app.settings import ModelSettings, PreprocessSettings
from serve_app.upload_digests import is_left_out

NOTHING_KNOWN: Mapping[int, ReadPicture] = MappingProxyType({})
STUCK_S = 300.0  # no request's text takes this long to tokenize


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
        folder = checkpoint_folder(model)
        self._processor = load_processor(folder, model, settings)
        self._checkpoint = checkpoint_digest(folder)
        self._settings = settings
        self._meter = meter
        self._sources = PictureSources(fetcher or Fetcher(settings), settings.max_image_bytes)
        self._memory = MemoryBudget(settings.max_bytes_in_flight)
        self._pictures = PictureReader(self._processor, settings, self._decoders)
        self._busy_since: float | None = None  # monotonic seconds
        self._cpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess")

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the served model's template and tokenizer can express."""
        return self._processor.abilities

    def known_uploads(self, request: ChatRequest) -> dict[int, ReadPicture] | None:
        """The pictures of the uploads that were left out, by index; None if one is not known."""
        parts = _uploads(request)
        left_out = [index for index, part in enumerate(parts) if is_left_out(part)]
        if self._scanner is not None and left_out:
            return None  # the scanner sees each upload each time
        pictures = self._pictures.known_uploads([parts[index] for index in left_out], request.caller.tenant)
        known = {index: picture for index, picture in zip(left_out, pictures, strict=True) if picture is not None}
        return known if len(known) == len(left_out) else None

    async def prepare(
        self,
        request: ChatRequest,
        *,
        unsent: bool = False,
        again: bool = False,
        known: Mapping[int, ReadPicture] = NOTHING_KNOWN,
    ) -> Prompt:
        """Check, fetch, measure, tokenize, decode, resize.

        With `unsent`, pictures that were prepared before have `UnsentPixels`. `again`: this request was prepared before
        with `unsent`, so it is not counted. `known` has the pictures of uploads that are not here (`known_uploads`).

        Raises InvalidRequest, ContextTooLong, ImageRejected, Overloaded or DeadlineExceeded. The prompt's deadline
        is the rest of the request's.
        """
        began = time.monotonic()
        request, ignored = self._without_unsupported_tools(request)
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        async with self._limits_of(request) as held:
            decoding = Decoding(held, request.caller.tenant, unsent, known)
            measured, tokenized, sampling = await self._measure_and_tokenize(request, stages_ms, held, decoding)
            sizes = [picture.size for picture in measured if picture.decoded is None]
            held.add(sum(3 * width * height for width, height in sizes))
            pictures = await self._pictures.decode(measured, stages_ms)
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
            knows_uploads=self._knows_uploads(request),
        )
        if not again:
            self._count(prompt, [picture.header.format.lower() for picture in measured])
        return prompt

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The ids that `prepare` would make, with the same checks; pictures are measured, not decoded."""
        request, _ = self._without_unsupported_tools(request)
        stages_ms = {"fetch": 0.0, "decode": 0.0, "tokenize": 0.0}
        async with self._limits_of(request) as held:
            measured, tokenized, _ = await self._measure_and_tokenize(request, stages_ms, held, None)
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
        self, request: ChatRequest, stages_ms: dict[str, float], held: Reservation, decoding: Decoding | None
    ) -> tuple[list[MeasuredPicture], TokenizedPrompt, Sampling]:
        """Finds every reason to refuse a request except damaged pixels; with `decoding`, small pictures are decoded."""
        parts = _uploads(request)
        check_number(parts, self._processor.max_pictures, self._settings.max_images)
        limit = self._processor.context_limit(len(parts))
        check_request(request, self._processor.abilities, limit.tokens)
        with timed(stages_ms, "fetch"):
            files = await self._sources.read_all(parts, held)
        if self._scanner is not None and files:
            stages_ms["scan"] = 0.0
            with timed(stages_ms, "scan"):
                await self._scanner.scan_all(files, [label_of(part, index) for index, part in enumerate(parts)])
        with timed(stages_ms, "decode"):
            measured = await self._pictures.measure(files, parts, decoding)
        pictures = Counter(picture.source.upload for picture in measured)
        shown = replace(request, messages=repeat_pictures(request.messages, [pictures[n] for n in range(len(parts))]))

        def work() -> tuple[TokenizedPrompt, Sampling]:
            self._busy_since = time.monotonic()
            try:
                return self._tokenize(shown, [picture.tokens for picture in measured], limit)
            finally:
                self._busy_since = None

        with timed(stages_ms, "tokenize"):
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

    def _knows_uploads(self, request: ChatRequest) -> bool:
        """Whether the same uploads may be left out of another request."""
        parts = _uploads(request)
        if self._scanner is not None or not parts:
            return False
        return all(self._pictures.known_uploads(parts, request.caller.tenant))

    def _count(self, prompt: Prompt, formats: list[str]) -> None:
        for file_format in formats:
            self._meter.count(PICTURES, format=file_format)
        for stage, spent_ms in prompt.stages_ms.items():
            if prompt.pictures or stage == "tokenize":
                self._meter.observe(STAGE_SECONDS, spent_ms / 1000, stage=stage)
        for picture in prompt.pictures:
            self._meter.observe(PICTURE_TOKENS, picture.tokens)


def _uploads(request: ChatRequest) -> list[ImagePart]:
    return [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]


def _clipped(requested: Sampling, resolved: Sampling) -> int | None:
    """The token limit in force, where it is not the request's."""
    return resolved.max_tokens if requested.max_tokens not in (None, resolved.max_tokens) else None
