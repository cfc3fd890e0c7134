"""Prompts made in the ingress's process: the same as those of preprocess, and only where no upload has to be read"""

from __future__ import annotations

import base64
import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.caller import Caller
from serve_app.contracts import (
    ChatRequest,
    Constraint,
    Detail,
    ImagePart,
    Message,
    Pages,
    Picture,
    Prompt,
    Sampling,
    TextPart,
    Thinking,
    Tool,
    ToolCall,
    ToolUse,
    UnsentPixels,
)
from serve_app.errors import ServiceError
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS
from serve_app.preprocess.local_prepare import (
    MOST_AT_ONCE_S,
    MOST_BYTES,
    MOST_PARTS,
    SHARE_OF_TIME,
    LocalPreparer,
    load_local_preparer,
)
from serve_app.preprocess.prepare import Preprocessor
from serve_app.settings import ModelSettings, PreprocessSettings, Settings
from serve_app.upload_digests import with_digests
from tests.preprocess.decoders import shared_decoders
from tests.preprocess.pictures import encoded, photo
from tests.preprocess.test_documents import document
from tests.preprocess.test_prepare import Notes

PNG = encoded(photo(300, 200))
OTHER = "data:image/png;base64," + base64.b64encode(encoded(photo(200, 300, 5))).decode()
TOOLS = ToolUse((Tool("look", {"type": "function", "function": {"name": "look"}}),))


class Stages:
    """Preprocess, and the preparer of an ingress that sees its prompts."""

    def __init__(self, folder: Path, *, context: int = 8192, scanned: bool = False, known: int = 10, **knobs: Any):
        model, knob = ModelSettings(path=str(folder), context_tokens=context), PreprocessSettings(**knobs)
        self.meter = Notes()
        self.preprocess = Preprocessor(model, knob, Notes(), decoders=shared_decoders())
        self.now = 0.0
        self.local = LocalPreparer(
            folder, model, knob, self.meter, scanned=scanned, known_pictures=known, clock=lambda: self.now
        )

    async def prepare(self, request: ChatRequest) -> Prompt:
        """By preprocess, as the pipeline does it."""
        request = await with_digests(request)
        prompt = await self.preprocess.prepare(request, unsent=True)
        self.local.remember(request, prompt)
        return prompt

    async def locally(self, request: ChatRequest) -> Prompt | None:
        return self.local.prepare(await with_digests(request))

    async def both(self, request: ChatRequest) -> tuple[Prompt | str, Prompt | str | None]:
        """The prompts or errors of preprocess and of the ingress."""
        found = []
        for prepare in (self.prepare, self.locally):
            try:
                found.append(await prepare(request))
            except ServiceError as error:
                found.append(f"{type(error).__name__} {error.param}: {error}")
        return found[0], found[1]


def asking(
    text: str, *uploads: bytes | str, tenant: str = "one", detail: Detail = "auto", pages: Pages | None = None
) -> ChatRequest:
    parts = (*(ImagePart(upload, detail=detail, pages=pages) for upload in uploads), TextPart(text))
    return ChatRequest("r", (Message("user", parts),), Sampling(max_tokens=4), caller=Caller(tenant=tenant))


def comparable(prompt: Prompt | str | None) -> Any:
    """Everything of a prompt but its times and pixels."""
    if not isinstance(prompt, Prompt):
        return prompt
    values = {field.name: getattr(prompt, field.name) for field in dataclasses.fields(prompt)}
    values["token_ids"] = prompt.token_ids.tolist()
    values["stages_ms"] = list(prompt.stages_ms)
    values["deadline_s"] = prompt.deadline_s > 0
    values["pictures"] = [(*dataclasses.astuple(_without(each)), each.pixels.shape) for each in prompt.pictures]
    return values


def _without(picture: Picture) -> Picture:
    return dataclasses.replace(picture, pixels=UnsentPixels(()))


@pytest.fixture
def stages(checkpoint: Path) -> Stages:
    return Stages(checkpoint)


async def test_a_known_picture_needs_no_preprocess_and_the_prompt_is_the_same(stages: Stages) -> None:
    await stages.prepare(asking("What is shown?", PNG, OTHER))
    for uploads in ((PNG,), (OTHER, PNG), (PNG, PNG)):
        expected, found = await stages.both(asking("And the colour?", *uploads))
        assert isinstance(found, Prompt)
        assert comparable(found) == comparable(expected)
        assert not any(picture.is_sent for picture in found.pictures)


texts = st.text(st.characters(codec="utf-8"), max_size=40)
turns = st.lists(st.tuples(texts, st.sampled_from([(), (PNG,), (OTHER,), (PNG, OTHER)]), texts), max_size=3)


@given(
    turns=turns,
    question=texts,
    tokens=st.integers(0, 900) | st.none(),
    think=st.sampled_from([None, True, False]),
    constraint=st.sampled_from([None, Constraint("regex", "a+")]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_small_request_has_the_prompt_or_the_error_of_preprocess(
    checkpoint: Path, turns: Any, question: str, tokens: int | None, think: bool | None, constraint: Constraint | None
) -> None:
    stages = _shared(checkpoint)
    await stages.prepare(asking("Hello", PNG, OTHER))
    messages = []
    for asked, uploads, answered in turns:
        messages.append(Message("user", (*(ImagePart(upload) for upload in uploads), TextPart(asked))))
        messages.append(Message("assistant", (TextPart(answered),), reasoning="So"))
    messages.append(Message("user", (TextPart(question),), param=f"messages[{len(messages)}]"))
    sampling = Sampling(max_tokens=tokens, temperature=0)
    request = ChatRequest(
        "r", tuple(messages), sampling, thinking=Thinking(think), constraint=constraint, caller=Caller(tenant="one")
    )
    expected, found = await stages.both(request)
    assert found is not None
    assert comparable(found) == comparable(expected)


_SHARED: dict[Path, Stages] = {}


def _shared(folder: Path) -> Stages:
    """One for all examples; a context in which some of them do not fit."""
    if folder not in _SHARED:
        _SHARED[folder] = Stages(folder, context=900, max_images=5)
    return _SHARED[folder]


async def test_a_text_to_continue_has_the_prompt_of_preprocess(stages: Stages) -> None:
    await stages.prepare(asking("Hello"))
    for text in ("Once upon a time", (1, 2, 3)):
        expected, found = await stages.both(ChatRequest("r", (), text=text, param="prompt"))
        assert isinstance(found, Prompt)
        assert comparable(found) == comparable(expected)
        assert found.raw


async def test_limits_of_pictures_are_those_of_preprocess(checkpoint: Path) -> None:
    stages = Stages(checkpoint, max_request_pixels=130_000, max_images=3)
    await stages.prepare(asking("What?", PNG, OTHER))
    for uploads in ((PNG, OTHER, PNG), (PNG, OTHER, PNG, OTHER)):
        expected, found = await stages.both(asking("And?", *uploads))
        assert isinstance(found, str)
        assert found == expected


async def test_before_preprocess_has_answered_no_prompt_is_made(stages: Stages) -> None:
    assert await stages.locally(asking("Hello")) is None
    await stages.prepare(asking("Hello"))
    assert await stages.locally(asking("Hello")) is not None


async def test_no_prompt_is_made_with_other_files_of_the_model_than_preprocess_has(
    stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    request = await with_digests(asking("What?", PNG))
    prompt = await stages.prepare(request)
    assert await stages.locally(request) is not None
    with caplog.at_level(logging.INFO, "glm.ingress"):
        for _ in range(3):
            stages.local.remember(request, dataclasses.replace(prompt, checkpoint="another"))
    assert [record.message for record in caplog.records] == [
        "Preprocess prepares all requests of this ingress: it has other files of the model."
    ]
    assert await stages.locally(request) is None
    stages.local.remember(request, prompt)
    assert await stages.locally(request) is not None


@pytest.mark.parametrize(
    "other",
    [
        asking("What?", PNG, tenant="two"),
        asking("What?", PNG, detail="low"),
        asking("What?", PNG + b"\0"),
        asking("What?", PNG, OTHER),
        asking("What?", PNG, pages=Pages(((1, None),))),
        asking("What?", PNG, "https://shop.example/a.png"),
    ],
    ids=["tenant", "detail", "content", "one more", "pages", "address"],
)
async def test_preprocess_makes_the_prompt_of_a_picture_that_is_not_known(stages: Stages, other: ChatRequest) -> None:
    await stages.prepare(asking("What?", PNG))
    assert await stages.locally(asking("What?", PNG)) is not None
    assert await stages.locally(other) is None


async def test_a_digest_without_an_upload_can_not_be_sent_by_a_caller(stages: Stages) -> None:
    known = await with_digests(asking("What?", PNG))
    await stages.prepare(known)
    (part, _) = known.messages[0].parts
    assert isinstance(part, ImagePart)
    assert await stages.locally(asking("What?", part.digest)) is None


async def test_documents_are_read_each_time(stages: Stages) -> None:
    request = asking("What?", document(2))
    await stages.prepare(request)
    assert await stages.locally(request) is None


@pytest.mark.parametrize("options", [{"scanned": True}, {"decoded_cache_mib": 0}], ids=["scanned", "without cache"])
async def test_where_pictures_are_scanned_or_not_kept_only_texts_are_prepared(checkpoint: Path, options: Any) -> None:
    stages = Stages(checkpoint, **options)
    await stages.prepare(asking("What?", PNG))
    assert await stages.locally(asking("What?", PNG)) is None
    assert await stages.locally(asking("What?")) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda r: dataclasses.replace(r, tools=TOOLS),
        lambda r: dataclasses.replace(
            r, messages=(*r.messages, Message("assistant", (), tool_calls=(ToolCall("1", "look", {}),)), *r.messages)
        ),
        lambda r: dataclasses.replace(r, messages=(*r.messages, Message("tool", (TextPart("x"),), tool_call_id="1"))),
        lambda r: dataclasses.replace(r, messages=(Message("user", (TextPart("a" * (MOST_BYTES + 1)),)),)),
        lambda r: dataclasses.replace(r, messages=(Message("user", (TextPart("单" * (MOST_BYTES // 3 + 1)),)),)),
        lambda r: dataclasses.replace(r, messages=(Message("assistant", (), reasoning="a" * 9000), *r.messages)),
        lambda r: dataclasses.replace(r, messages=(Message("user", (TextPart("a"),) * MOST_PARTS),)),
        lambda r: dataclasses.replace(r, messages=(), text="a" * (MOST_BYTES + 1)),
        lambda r: dataclasses.replace(r, messages=(), text=(1,) * (MOST_BYTES + 1)),
    ],
    ids=["tools", "call", "result", "text", "Chinese", "reasoning", "parts", "text to continue", "token ids"],
)
async def test_preprocess_makes_the_prompt_of_a_request_that_takes_long(
    stages: Stages, change: Callable[[ChatRequest], ChatRequest]
) -> None:
    await stages.prepare(asking("Hello"))
    assert await stages.locally(asking("Hello")) is not None
    assert await stages.locally(change(asking("Hello"))) is None


async def test_the_event_loop_is_used_for_10_ms_at_once_and_a_fifth_of_the_time_after_that(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stages.prepare(asking("Hello"))
    tokenize, took_s = stages.local._prompts.tokenize, MOST_AT_ONCE_S / 2

    def slow(*arguments: Any) -> Any:
        stages.now += took_s
        return tokenize(*arguments)

    monkeypatch.setattr(stages.local._prompts, "tokenize", slow)
    made = [await stages.locally(asking("Hello")) is not None for _ in range(64)]
    assert made == [True, True, True] + [False] * 61  # before the third, a little less than 10 ms were used
    began, worked = stages.now, 0
    for _ in range(200):
        stages.now += took_s  # without a request
        worked += await stages.locally(asking("Hello")) is not None
    assert worked * took_s / (stages.now - began) == pytest.approx(SHARE_OF_TIME, rel=0.1)


async def test_known_pictures_have_a_bound_and_the_least_recently_used_is_forgotten(checkpoint: Path) -> None:
    stages = Stages(checkpoint, known=2)
    files = [encoded(photo(60, 60, seed)) for seed in range(3)]
    for file in files[:2]:
        await stages.prepare(asking("What?", file))
    assert await stages.locally(asking("And?", files[0])) is not None
    await stages.prepare(asking("What?", files[2]))
    known = [await stages.locally(asking("And?", file)) is not None for file in files]
    assert known == [True, False, True]


async def test_a_prompt_is_counted_where_it_is_made(stages: Stages) -> None:
    await stages.prepare(asking("What?", PNG))
    assert stages.meter.taken == []
    prompt = await stages.locally(asking("And?", PNG))
    assert prompt is not None
    names = [name for name, *_ in stages.meter.taken]
    assert names.count(PICTURE_TOKENS.name) == 1
    assert (PICTURES.name, 1.0, {"format": "png"}) in stages.meter.taken
    assert {tags["stage"] for name, _, tags in stages.meter.taken if name == STAGE_SECONDS.name} == set(
        prompt.stages_ms
    )


def test_without_the_files_of_the_model_preprocess_prepares_all_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with caplog.at_level(logging.INFO, "glm.ingress"):
        for path in (str(tmp_path / "nothing"), "zai-org/GLM-4.1V-9B-Thinking"):
            model = ModelSettings(path=path)
            assert load_local_preparer(Settings(model=model), Notes()) is None
    assert [record.message.partition(", which")[0] for record in caplog.records] == [
        "Preprocess prepares all requests of this ingress"
    ] * 2
    assert "has not been downloaded to this machine" in caplog.records[1].message
    assert load_local_preparer(Settings(), Notes()) is not None


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_damaged_files_of_the_model_do_not_stop_the_ingress(checkpoint: Path, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    (folder / file).write_text((folder / file).read_text()[:-20])
    assert load_local_preparer(Settings(model=ModelSettings(path=str(folder))), Notes()) is None


async def test_token_ids_are_of_the_type_that_the_engine_reads(stages: Stages) -> None:
    await stages.prepare(asking("Hello"))
    prompt = await stages.locally(asking("Hello"))
    assert prompt is not None
    assert prompt.token_ids.dtype == np.int32
