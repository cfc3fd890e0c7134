"""Turns a request into a prompt: checks it, fetches pictures, reads headers, tokenizes, decodes last.

What is known from headers (sizes, token counts, whether the context suffices) is checked before a pixel is
decoded. Pictures are read in the processes of decoder_pool.py, text is tokenized in one thread, so the event loop is
never blocked. Prompts are built by prompt_builder.py.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, Prompt, Sampling
from serve_app.errors import DeadlineExceeded
from serve_app.metrics import Meter
from serve_app.preprocess.decoder_pool import DecoderPool
from serve_app.preprocess.documents import repeat_pictures
from serve_app.preprocess.family_processor import TokenizedPrompt
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.memory_budget import MemoryBudget, Reservation
from serve_app.preprocess.picture_limits import label_of
from serve_app.preprocess.picture_source import PictureSources
from serve_app.preprocess.prompt_builder import PromptBuilder, count_prompt, uploads_of
from serve_app.preprocess.read_pictures import Decoding, MeasuredPicture, PictureReader
from serve_app.preprocess.scan import Scanner
from serve_app.preprocess.stage_times import timed
from serve_app.replies import Tokenized
from serve_app.settings import ModelSettings, PreprocessSettings

STUCK_S = 300.0  # no request's text takes this long to tokenize


class Preprocessor:
    """Prepares requests for one checkpoint."""

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
        self._prompts = PromptBuilder(checkpoint_folder(model), model, settings)
        self._meter = meter
        self._sources = PictureSources(fetcher or Fetcher(settings), settings.max_image_bytes)
        self._memory = MemoryBudget(settings.max_bytes_in_flight)
        self._pictures = PictureReader(self._prompts.processor, settings, self._decoders)
        self._busy_since: float | None = None  # monotonic seconds
        self._cpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess")

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the served model's template and tokenizer can express."""
        return self._prompts.processor.abilities

    async def prepare(self, request: ChatRequest, *, unsent: bool = False, again: bool = False) -> Prompt:
        """Check, fetch, measure, tokenize, decode, resize.

        With `unsent`, pictures that were prepared before have `UnsentPixels`. `again`: this request was prepared before
        with `unsent`, so it is not counted.

        Raises InvalidRequest, ContextTooLong, ImageRejected, Overloaded or DeadlineExceeded. The prompt's deadline
        is the rest of the request's.
        """
        began = time.monotonic()
        request, ignored = self._prompts.without_unsupported_tools(request)
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        async with self._limits_of(request) as held:
            decoding = Decoding(held, request.caller.tenant, unsent)
            measured, tokenized, sampling = await self._measure_and_tokenize(request, stages_ms, held, decoding)
            sizes = [picture.size for picture in measured if picture.decoded is None]
            held.add(sum(3 * width * height for width, height in sizes))
            pictures = await self._pictures.decode(measured, stages_ms)
        took_s = time.monotonic() - began
        prompt = self._prompts.build(request, tokenized, sampling, pictures, stages_ms, took_s=took_s, ignored=ignored)
        if not again:
            count_prompt(self._meter, prompt)
        return prompt

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        """The ids that `prepare` would make, with the same checks; pictures are measured, not decoded."""
        request, _ = self._prompts.without_unsupported_tools(request)
        stages_ms = {"fetch": 0.0, "decode": 0.0, "tokenize": 0.0}
        async with self._limits_of(request) as held:
            measured, tokenized, _ = await self._measure_and_tokenize(request, stages_ms, held, None)
        image_tokens = sum(picture.tokens for picture in measured)
        limit = self._prompts.processor.context_limit(len(measured))
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
        limit = self._prompts.check(request)
        parts = uploads_of(request)
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
                return self._prompts.tokenize(shown, [picture.tokens for picture in measured], limit)
            finally:
                self._busy_since = None

        with timed(stages_ms, "tokenize"):
            tokenized, sampling = await asyncio.get_running_loop().run_in_executor(self._cpu, work)
        return measured, tokenized, sampling
