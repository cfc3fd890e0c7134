"""Makes a prompt from a request's text and the sizes of its pictures: checks, template, tokens.

What depends on the model is in its family's processor.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serve_app.checkpoint import checkpoint_digest
from serve_app.contracts import ChatRequest, ImagePart, Picture, Prompt, Sampling
from serve_app.errors import ContextTooLong
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Meter
from serve_app.preprocess.family_processor import ContextLimit, TokenizedPrompt, load_processor
from serve_app.preprocess.max_tokens import context_too_long, resolve_max_tokens
from serve_app.preprocess.message_checks import check_request
from serve_app.preprocess.picture_limits import check_number
from serve_app.settings import ModelSettings, PreprocessSettings


class PromptBuilder:
    """Builds prompts for one checkpoint. Loads its tokenizer, template and sizes; no weights, no torch."""

    def __init__(self, folder: Path, model: ModelSettings, settings: PreprocessSettings) -> None:
        """`folder` is the checkpoint's; raises InvalidRequest if it is not supported or a file of it is missing."""
        self.processor = load_processor(folder, model, settings)
        self.checkpoint = checkpoint_digest(folder)
        self._settings = settings

    def without_unsupported_tools(self, request: ChatRequest) -> tuple[ChatRequest, tuple[str, ...]]:
        """The request without tools that the model can't call and need not, and the names of fields left out."""
        if request.tools is None or request.tools.required or "tools" in self.processor.abilities:
            return request, ()
        return replace(request, tools=None), ("tools",)

    def check(self, request: ChatRequest) -> ContextLimit:
        """The request's context limit.

        Raises InvalidRequest for too many uploads and for what the model can't do, ContextTooLong for too many
        messages.
        """
        parts = uploads_of(request)
        check_number(parts, self.processor.max_pictures, self._settings.max_images)
        limit = self.processor.context_limit(len(parts))
        check_request(request, self.processor.abilities, limit.tokens)
        return limit

    def tokenize(
        self, request: ChatRequest, counts: Sequence[int], limit: ContextLimit
    ) -> tuple[TokenizedPrompt, Sampling]:
        """The prompt's tokens, with `counts[n]` for the n-th picture, and the sampling with its token limit.

        Raises InvalidRequest, and ContextTooLong, which names tools at fault.
        """
        tokens: int | None = None
        try:
            tokenized = self.processor.tokenize(request, counts, limit.tokens)
            tokens = len(tokenized.token_ids)
            default, clip = self._settings.default_max_tokens, self._settings.clip_max_tokens
            return tokenized, resolve_max_tokens(request.sampling, tokens, limit, default, request.param, clip=clip)
        except ContextTooLong:
            if request.tools is None or (tokens is not None and tokens < limit.tokens):
                raise
            # Raises the same error where the prompt is too long without the tools too.
            without, _ = self.tokenize(replace(request, tools=None), counts, limit)
            known = tokens or limit.tokens + 1
            tool_tokens = known - len(without.token_ids)
            raise context_too_long(
                limit, known, request.param, at_least=tokens is None, tool_tokens=tool_tokens
            ) from None

    def build(
        self,
        request: ChatRequest,
        tokenized: TokenizedPrompt,
        sampling: Sampling,
        pictures: tuple[Picture, ...],
        stages_ms: dict[str, float],
        *,
        took_s: float,
        ignored: tuple[str, ...] = (),
    ) -> Prompt:
        """The prompt of a request that was `tokenized`; its deadline is what `took_s` has left of the request's."""
        return Prompt(
            request.id,
            tokenized.token_ids,
            pictures,
            sampling,
            deadline_s=max(0.0, request.deadline_s - took_s),
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
            checkpoint=self.checkpoint,
        )


def uploads_of(request: ChatRequest) -> list[ImagePart]:
    """The request's pictures and documents, in their order."""
    return [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]


def count_prompt(meter: Meter, prompt: Prompt) -> None:
    """Counts a prompt that was prepared: its pictures, their tokens, the time of each stage."""
    for stage, spent_ms in prompt.stages_ms.items():
        if prompt.pictures or stage == "tokenize":
            meter.observe(STAGE_SECONDS, spent_ms / 1000, stage=stage)
    for picture in prompt.pictures:
        meter.count(PICTURES, format=picture.file_format)
        meter.observe(PICTURE_TOKENS, picture.tokens)


def _clipped(requested: Sampling, resolved: Sampling) -> int | None:
    """The token limit in force, where it is not the request's."""
    return resolved.max_tokens if requested.max_tokens not in (None, resolved.max_tokens) else None
