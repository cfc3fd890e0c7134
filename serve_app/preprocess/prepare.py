"""A request -> a prompt: refuse early, fetch together, decode last.

What can be known from headers (sizes, token counts, whether the context suffices) is decided before a
pixel is decoded. CPU work runs in one thread of its own, so the event loop is never held up and one
process decodes one request's pictures at a time.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, ImagePart, Picture, Prompt, Sampling
from serve_app.errors import ContextTooLong, DeadlineExceeded, InvalidRequest
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Meter
from serve_app.preprocess import glm4v, images
from serve_app.preprocess.images import Header, Name
from serve_app.preprocess.prompt import ChatTokenizer
from serve_app.preprocess.sources import Fetcher, decode_data_url
from serve_app.settings import ModelSettings, PreprocessSettings

DEADLINE_S = 300.0  # for a request whose door set none
STUCK_S = 300.0  # no request's pictures take this long to decode


class Preprocessor:
    """Prepares requests for one checkpoint. Loads its tokenizer, template and sizes; no weights, no torch."""

    def __init__(
        self, model: ModelSettings, settings: PreprocessSettings, meter: Meter, fetcher: Fetcher | None = None
    ) -> None:
        folder = checkpoint_folder(model)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") not in glm4v.MODEL_TYPES:
            raise InvalidRequest(
                f"the model in {folder} is of type {config.get('model_type')!r};"
                f" supported are {', '.join(glm4v.MODEL_TYPES)}",
                param="model.path",
            )
        allowed = config.get("text_config", config).get("max_position_embeddings", model.context_tokens)
        self.context_tokens = min(model.context_tokens, allowed)
        self._settings = settings
        self._meter = meter
        self._fetcher = fetcher or Fetcher(settings)
        self._grid = glm4v.Glm4vGrid.of_checkpoint(folder)
        self._image_token = int(config["image_token_id"])
        self._chat = ChatTokenizer(folder, self._image_token)
        self._busy_since: float | None = None  # monotonic seconds
        self._cpu = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preprocess")

    async def prepare(self, request: ChatRequest) -> Prompt:
        """Fetch, measure, tokenize, check, decode, resize.

        Raises InvalidRequest, ContextTooLong, ImageRejected or DeadlineExceeded. The prompt's deadline
        is what is left of the request's.
        """
        began = time.monotonic()
        deadline_s = DEADLINE_S if request.deadline_s is None else request.deadline_s
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        gone = threading.Event()  # nobody waits for the result any more
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        if len(parts) > self._settings.max_images:
            raise InvalidRequest(
                f"the request has {len(parts)} pictures; the limit is {self._settings.max_images}", param="messages"
            )
        try:
            async with asyncio.timeout(deadline_s):
                with _timed(stages_ms, "fetch"):
                    files = await self._fetch(parts)
                prompt, formats = await asyncio.get_running_loop().run_in_executor(
                    self._cpu, self._compute, request, parts, files, stages_ms, gone
                )
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the pictures were not ready within the request's {deadline_s:g} seconds"
            ) from error
        finally:
            gone.set()
        self._measure(prompt, formats)
        return replace(prompt, deadline_s=max(0.0, deadline_s - (time.monotonic() - began)))

    def check_health(self) -> None:
        """Raises RuntimeError if a decoder does not come back from a picture."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"preprocess has worked on one request for more than {STUCK_S:g} seconds")

    async def close(self) -> None:
        await self._fetcher.close()
        self._cpu.shutdown(wait=False, cancel_futures=True)

    async def _fetch(self, parts: list[ImagePart]) -> list[bytes]:
        tasks = [asyncio.ensure_future(self._read(part, _name(n, part))) for n, part in enumerate(parts)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # one refused picture refuses the request: the others need not arrive
                task.cancel()

    async def _read(self, part: ImagePart, name: Name) -> bytes:
        if isinstance(part.source, bytes):
            return part.source
        scheme = part.source[:8].lower()
        if scheme.startswith("data:"):
            return await asyncio.to_thread(decode_data_url, part.source, name, self._settings.max_image_bytes)
        if scheme.startswith(("http:", "https:")):
            return await self._fetcher.fetch(part.source, name)
        raise name.rejected("must be a data: URL or an http(s) address")

    def _compute(
        self,
        request: ChatRequest,
        parts: list[ImagePart],
        files: list[bytes],
        stages_ms: dict[str, float],
        gone: threading.Event,
    ) -> tuple[Prompt, list[str]]:
        self._busy_since = time.monotonic()
        try:
            return self._prompt(request, parts, files, stages_ms, gone)
        finally:
            self._busy_since = None

    def _prompt(
        self,
        request: ChatRequest,
        parts: list[ImagePart],
        files: list[bytes],
        stages_ms: dict[str, float],
        gone: threading.Event,
    ) -> tuple[Prompt, list[str]]:
        limits = self._settings.max_image_bytes, self._settings.max_image_pixels
        names = [_name(number, part) for number, part in enumerate(parts)]
        with _timed(stages_ms, "decode"):
            headers = [images.read_header(file, name, *limits) for file, name in zip(files, names, strict=True)]
        sizes = [self._seen(header, part, name) for header, part, name in zip(headers, parts, names, strict=True)]
        counts = [self._grid.tokens(*size) for size in sizes]
        with _timed(stages_ms, "tokenize"):
            token_ids = self._chat.encode(request.messages, self.context_tokens)
            token_ids = glm4v.expand(token_ids, self._image_token, counts)
        sampling = self._resolve(request.sampling, len(token_ids))
        pictures = []
        for file, header, name, size, count in zip(files, headers, names, sizes, counts, strict=True):
            if gone.is_set():
                break
            with _timed(stages_ms, "decode"):
                image = images.decode(file, header, name, self._settings.max_image_pixels)
            with _timed(stages_ms, "resize"):
                pixels = images.resize(image, *size)
                digest = images.content_digest(pixels)
            pictures.append(Picture(pixels, digest, count, (header.width, header.height)))
        prompt = Prompt(request.id, token_ids, tuple(pictures), sampling, 0.0, stages_ms, request.stream)
        return prompt, [header.format.lower() for header in headers]

    def _seen(self, header: Header, part: ImagePart, name: Name) -> tuple[int, int]:
        most = self._settings.max_image_tokens
        if part.detail == "low":
            most = min(most, self._settings.low_detail_tokens)
        try:
            return self._grid.size(header.width, header.height, most)
        except glm4v.AspectTooLong as error:
            raise name.rejected(
                f"is {header.width} x {header.height}: one side is more than {glm4v.MAX_ASPECT} times the other,"
                " which is the limit"
            ) from error

    def _resolve(self, sampling: Sampling, prompt_tokens: int) -> Sampling:
        left = self.context_tokens - prompt_tokens
        if left < 1:
            raise ContextTooLong(
                f"the prompt is {prompt_tokens} tokens; the context is {self.context_tokens} tokens"
                " and an answer needs at least one",
                param="messages",
            )
        if sampling.max_tokens is None:
            return replace(sampling, max_tokens=min(self._settings.max_answer_tokens, left))
        if sampling.max_tokens < 1:
            raise InvalidRequest(f"max_tokens is {sampling.max_tokens}; the least is 1", param="max_tokens")
        if sampling.max_tokens > left:
            raise ContextTooLong(
                f"the prompt is {prompt_tokens} tokens and max_tokens is {sampling.max_tokens}:"
                f" together {prompt_tokens + sampling.max_tokens}; the context is {self.context_tokens} tokens",
                param="messages",
            )
        return sampling

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
