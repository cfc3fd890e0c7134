"""Prepares requests in the ingress's process if no upload has to be read: texts, known pictures.

Decision and figures: docs/decisions/0027-prompts-made-in-the-ingress.md
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, Picture, PictureSource, Prompt, TextPart, UnsentPixels
from serve_app.metrics import Meter
from serve_app.preprocess.picture_limits import check_request_pixels, label_of
from serve_app.preprocess.prompt_builder import PromptBuilder, count_prompt, uploads_of
from serve_app.preprocess.stage_times import timed
from serve_app.settings import ModelSettings, PreprocessSettings, Settings

# The event loop of the ingress waits while a text is tokenized, so preprocess prepares what takes longer, and requests
# beyond a share of the loop's time. 8,000 bytes take at most 7 ms, 100 parts of messages less.
MOST_BYTES: Final = 8_000  # of UTF-8
MOST_PARTS: Final = 100
MOST_AT_ONCE_S: Final = 0.01
SHARE_OF_TIME: Final = 0.2
KNOWN_PICTURES: Final = 10_000  # about 5 MB

log = logging.getLogger("glm.ingress")


class LocalPreparer:
    """Makes prompts of small requests, and remembers the pictures of those that preprocess has prepared.

    It knows a picture by its tenant, the digest of its upload and its detail. The ingress computes that digest from
    the bytes of the same request, so no caller gets a picture that it has not sent. Pixels are not kept: the engine
    asks for those that it needs, and preprocess then reads the upload.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelSettings,
        settings: PreprocessSettings,
        meter: Meter,
        *,
        scanned: bool = False,
        known_pictures: int = KNOWN_PICTURES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is the checkpoint's. Where uploads are `scanned`, none is remembered: each is scanned each time.

        Raises InvalidRequest if the checkpoint is not supported or a file of it is missing.
        """
        self._prompts = PromptBuilder(folder, model, settings)
        self._settings = settings
        self._meter = meter
        self._most = 0 if scanned or not settings.decoded_cache_mib else known_pictures
        self._pictures: OrderedDict[tuple[str, bytes, str], Picture] = OrderedDict()  # the latest last
        self._same_checkpoint: bool | None = None  # as preprocess has, according to its last prompt
        self._clock = clock
        self._used_s = 0.0  # of the event loop's time; reduced by SHARE_OF_TIME of each second that passes
        self._used_at = clock()

    def prepare(self, request: ChatRequest) -> Prompt | None:
        """The prompt that preprocess would make, without pixels; None if preprocess has to make it.

        Raises InvalidRequest, ContextTooLong or ImageRejected.
        """
        if not self._same_checkpoint or not _is_small(request):
            return None
        pictures = self._known_pictures(request)
        began = self._clock()
        if pictures is None or not self._has_time(began):
            return None
        try:
            return self._prepare(request, pictures, began)
        finally:
            self._used_s += self._clock() - began

    def remember(self, request: ChatRequest, prompt: Prompt) -> None:
        """Preprocess has made this prompt of the request, whose uploads have digests.

        Documents, and files at an address, are not remembered.
        """
        same = prompt.checkpoint == self._prompts.checkpoint
        if not same and self._same_checkpoint is not False:
            log.info("Preprocess prepares all requests of this ingress: it has other files of the model.")
        self._same_checkpoint = same
        if not same:
            return
        parts = uploads_of(request)
        for picture in prompt.pictures:
            if picture.source is None or picture.source.page is not None:
                continue
            part = parts[picture.source.upload]
            if part.digest and part.pages is None:
                key = (request.caller.tenant, part.digest, part.detail)
                self._pictures[key] = replace(picture, pixels=UnsentPixels(picture.pixels.shape), source=None)
                self._pictures.move_to_end(key)
        while len(self._pictures) > self._most:
            self._pictures.popitem(last=False)

    def _has_time(self, now: float) -> bool:
        self._used_s = max(0.0, self._used_s - (now - self._used_at) * SHARE_OF_TIME)
        self._used_at = now
        return self._used_s < MOST_AT_ONCE_S

    def _prepare(self, request: ChatRequest, pictures: tuple[Picture, ...], began: float) -> Prompt:
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        limit = self._prompts.check(request)
        self._check_pixels(request, pictures)
        with timed(stages_ms, "tokenize"):
            tokenized, sampling = self._prompts.tokenize(request, [picture.tokens for picture in pictures], limit)
        took_s = self._clock() - began
        prompt = self._prompts.build(request, tokenized, sampling, pictures, stages_ms, took_s=took_s)
        count_prompt(self._meter, prompt)
        return prompt

    def _known_pictures(self, request: ChatRequest) -> tuple[Picture, ...] | None:
        """The request's pictures without pixels; None if one is not known."""
        pictures = []
        for index, part in enumerate(uploads_of(request)):
            key = (request.caller.tenant, part.digest, part.detail)
            known = self._pictures.get(key)
            if known is None or part.pages is not None:
                return None
            self._pictures.move_to_end(key)
            pictures.append(replace(known, source=PictureSource(index)))
        return tuple(pictures)

    def _check_pixels(self, request: ChatRequest, pictures: tuple[Picture, ...]) -> None:
        """Raises ImageRejected for more pixels than a request may have."""
        pixels = 0
        for index, (part, picture) in enumerate(zip(uploads_of(request), pictures, strict=True)):
            width, height = picture.original_size
            pixels += width * height
            check_request_pixels(pixels, self._settings.max_request_pixels, label_of(part, index))


def load_local_preparer(settings: Settings, meter: Meter) -> LocalPreparer | None:
    """The preparer for the served model; None, with the reason in the log, if its files are not on this node."""
    try:
        folder = checkpoint_folder(settings.model, download=False)
        return LocalPreparer(folder, settings.model, settings.preprocess, meter, scanned=bool(settings.scan.address))
    except Exception as error:  # of any kind in a damaged file: preprocess, which needs it, says so
        log.info("Preprocess prepares all requests of this ingress, which can't read the model's files: %s", error)
        return None


def _is_small(request: ChatRequest) -> bool:
    """Whether the request takes milliseconds. One with tools is not small: schemas and results may have any size."""
    messages = request.messages
    if request.tools is not None or any(message.tool_calls or message.role == "tool" for message in messages):
        return False
    if len(messages) + sum(len(message.parts) for message in messages) > MOST_PARTS:
        return False
    if request.text is not None and not isinstance(request.text, str):
        return len(request.text) <= MOST_BYTES
    texts = [part.text for message in messages for part in message.parts if isinstance(part, TextPart)]
    texts += [request.text or "", *(message.reasoning for message in messages)]
    # No text has fewer bytes than characters: one of megabytes is not encoded to be counted.
    return sum(map(len, texts)) <= MOST_BYTES >= sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
