"""Prepares requests in the ingress's process if no upload has to be read: texts, known pictures.

Decision and figures: docs/decisions/0027-prompts-made-in-the-ingress.md
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Final

from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, Picture, PictureSource, Prompt, UnsentPixels
from serve_app.errors import ServiceError
from serve_app.metrics import Meter
from serve_app.preprocess.picture_limits import check_request_pixels, label_of
from serve_app.preprocess.prompt_builder import PromptBuilder, count_prompt, uploads_of
from serve_app.preprocess.stage_times import timed
from serve_app.request_size import text_characters
from serve_app.settings import ModelSettings, PreprocessSettings, Settings

# The event loop of the ingress waits while a text is tokenized, so longer requests are prepared by preprocess.
MOST_CHARACTERS: Final = 8_000
MOST_PARTS: Final = 100  # of all messages; the template takes time for each
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
    ) -> None:
        """`folder` is the checkpoint's. Where uploads are `scanned`, none is remembered: each is scanned each time.

        Raises InvalidRequest if the checkpoint is not supported or a file of it is missing.
        """
        self._prompts = PromptBuilder(folder, model, settings)
        self._settings = settings
        self._meter = meter
        self._most = 0 if scanned or not settings.decoded_cache_mib else known_pictures
        self._pictures: OrderedDict[tuple[str, bytes, str], Picture] = OrderedDict()  # the latest last
        self._same_checkpoint = False  # as preprocess has, according to its last prompt

    def prepare(self, request: ChatRequest) -> Prompt | None:
        """The prompt that preprocess would make, without pixels; None if preprocess has to make it.

        Raises InvalidRequest, ContextTooLong or ImageRejected.
        """
        if not self._same_checkpoint or not _is_small(request):
            return None
        pictures = self._known_pictures(request)
        if pictures is None:
            return None
        began = time.monotonic()
        stages_ms = {"fetch": 0.0, "decode": 0.0, "resize": 0.0, "tokenize": 0.0}
        request, ignored = self._prompts.without_unsupported_tools(request)
        limit = self._prompts.check(request)
        self._check_pixels(request, pictures)
        with timed(stages_ms, "tokenize"):
            tokenized, sampling = self._prompts.tokenize(request, [picture.tokens for picture in pictures], limit)
        took_s = time.monotonic() - began
        prompt = self._prompts.build(request, tokenized, sampling, pictures, stages_ms, took_s=took_s, ignored=ignored)
        count_prompt(self._meter, prompt)
        return prompt

    def remember(self, request: ChatRequest, prompt: Prompt) -> None:
        """Preprocess has made this prompt of the request, whose uploads have digests.

        Documents, and files at an address, are not remembered.
        """
        self._same_checkpoint = prompt.checkpoint == self._prompts.checkpoint
        if not self._same_checkpoint:
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
    except (ServiceError, OSError) as error:
        log.info("Preprocess prepares all requests of this ingress, which can't read the model's files: %s", error)
        return None


def _is_small(request: ChatRequest) -> bool:
    """Whether the request takes about a millisecond; tools may have schemas of any size, so theirs are not small."""
    reasoning = sum(len(message.reasoning) for message in request.messages)
    return (
        request.tools is None
        and not any(message.tool_calls for message in request.messages)
        and len(request.messages) + sum(len(message.parts) for message in request.messages) <= MOST_PARTS
        and text_characters(request) + reasoning <= MOST_CHARACTERS
    )
