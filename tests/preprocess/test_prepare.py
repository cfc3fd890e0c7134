import asyncio
import base64
import json
import pickle
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from serve_app.caller import ANONYMOUS, Caller
from serve_app.contracts import (
    ChatRequest,
    Constraint,
    ImagePart,
    Message,
    Sampling,
    TextPart,
    Thinking,
    Tool,
    ToolUse,
)
from serve_app.errors import ContextTooLong, DeadlineExceeded, ImageRejected, InvalidRequest
from serve_app.metrics import PICTURE_TOKENS, PICTURES, STAGE_SECONDS, Metric, SilentMeter
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.prepare import Preprocessor
from serve_app.replies import Tokenized
from serve_app.settings import DEMO_MODEL, ModelSettings, PreprocessSettings
from tests.preprocess.conftest import WriteCheckpoint
from tests.preprocess.decoders import shared_decoders
from tests.preprocess.hostile import flat_webp
from tests.preprocess.pictures import bomb, encoded, hollow, photo

PNG = encoded(photo(300, 200))
STAGES = {"fetch", "decode", "resize", "tokenize"}


class Notes(SilentMeter):
    """A meter that remembers."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float, dict[str, str]]] = []

    def count(self, metric: Metric, value: float = 1.0, **tags: str) -> None:
        self.taken.append((metric.name, value, tags))

    def observe(self, metric: Metric, value: float, **tags: str) -> None:
        self.taken.append((metric.name, value, tags))


def preprocessor(folder: Path, fetcher: Fetcher | None = None, context: int = 8192, **knobs: object) -> Preprocessor:
    model = ModelSettings(path=str(folder), context_tokens=context)
    return Preprocessor(model, PreprocessSettings(**knobs), SilentMeter(), fetcher, shared_decoders())


def asking(*parts: str | bytes | ImagePart, deadline_s: float = 300.0, **sampling: int) -> ChatRequest:
    made = []
    for index, part in enumerate(parts):
        if isinstance(part, bytes):
            part = ImagePart(part, f"messages[0].content[{index}].image_url")
        made.append(TextPart(part) if isinstance(part, str) else part)
    return ChatRequest("r1", (Message("user", tuple(made)),), Sampling(**sampling), deadline_s)


async def streamed(body: bytes) -> AsyncIterator[bytes]:
    yield body


def web(answer: httpx.MockTransport) -> Fetcher:
    async def resolver(host: str, port: int) -> list[str]:
        return ["93.184.215.14"]

    return Fetcher(PreprocessSettings(), resolver, answer)


async def test_a_question_with_pictures_becomes_a_prompt(checkpoint: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(encoded(photo(100, 600))).decode()
    prompt = await preprocessor(checkpoint).prepare(asking(PNG, "What?", ImagePart(url), max_tokens=7))
    assert [picture.pixels.shape for picture in prompt.pictures] == [(196, 308, 3), (588, 112, 3)]
    assert [picture.tokens for picture in prompt.pictures] == [77, 84]
    assert [picture.original_size for picture in prompt.pictures] == [(300, 200), (100, 600)]
    image_token = json.loads((checkpoint / "config.json").read_text())["image_token_id"]
    assert int((prompt.token_ids == image_token).sum()) == prompt.image_tokens == 161
    assert prompt.token_ids.dtype == np.int32
    assert prompt.sampling.max_tokens == 7
    assert set(prompt.stages_ms) == STAGES
    assert len(pickle.loads(pickle.dumps(prompt)).pictures) == 2


async def test_a_photograph_of_a_50_megapixel_phone_is_read(checkpoint: Path) -> None:
    flat = encoded(Image.new("1", (8192, 6144), 1), "PNG")
    (picture,) = (await preprocessor(checkpoint).prepare(asking(flat, "?"))).pictures
    assert picture.original_size == (8192, 6144)


async def test_equal_pictures_have_equal_names(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    one = await stage.prepare(asking(encoded(photo(64, 64, 1), "PNG"), "?"))
    same = await stage.prepare(asking(encoded(photo(64, 64, 1), "BMP"), "?"))
    other = await stage.prepare(asking(encoded(photo(64, 64, 2), "PNG"), "?"))
    assert one.pictures[0].digest == same.pictures[0].digest != other.pictures[0].digest


async def test_a_picture_of_low_detail_costs_few_tokens(checkpoint: Path) -> None:
    data = encoded(photo(900, 900))
    low = await preprocessor(checkpoint).prepare(asking(ImagePart(data, detail="low"), "?"))
    high = await preprocessor(checkpoint).prepare(asking(ImagePart(data, detail="high"), "?"))
    capped = await preprocessor(checkpoint, max_image_tokens=64).prepare(asking(ImagePart(data), "?"))
    assert (low.image_tokens, high.image_tokens, capped.image_tokens) == (256, 1024, 64)


async def test_a_picture_of_original_detail_is_never_scaled_down(checkpoint: Path) -> None:
    data = encoded(photo(901, 915))
    original = await preprocessor(checkpoint).prepare(asking(ImagePart(data, detail="original"), "?"))
    assert original.pictures[0].pixels.shape == (924, 896, 3)  # rounded to whole tokens
    capped = preprocessor(checkpoint, max_image_tokens=1055)
    with pytest.raises(ImageRejected, match=r"takes 1056 tokens at its original size, 901 x 915; .* 1055") as refused:
        await capped.prepare(asking(ImagePart(data, "image", "original"), "?"))
    assert refused.value.param == "image"


async def test_the_checkpoints_own_limit_holds_for_original_detail_too(checkpoint: Path) -> None:
    with pytest.raises(ImageRejected, match=r"takes 15\d\d\d tokens .* the limit is 6144"):
        await preprocessor(checkpoint, max_image_tokens=50_000).prepare(
            asking(ImagePart(hollow(4000, 3000), detail="original"), "?")
        )


async def test_without_max_tokens_the_answer_gets_what_is_left(checkpoint: Path) -> None:
    roomy = await preprocessor(checkpoint).prepare(asking("Hi"))
    tight = await preprocessor(checkpoint, context=64).prepare(asking("Hi"))
    assert roomy.sampling.max_tokens == 1024
    assert tight.sampling.max_tokens == 64 - len(tight.token_ids)


async def test_the_context_is_refused_before_any_pixel_is_decoded(checkpoint: Path) -> None:
    undecodable = hollow(4000, 3000)
    stage = preprocessor(checkpoint)
    with pytest.raises(ImageRejected, match="damaged"):
        await stage.prepare(asking(undecodable, "?"))
    with pytest.raises(ContextTooLong, match=r"length is 8192 tokens.*reduce the length of the messages") as refused:
        await stage.prepare(asking(undecodable, undecodable, "?"))
    assert refused.value.param == "messages"


async def test_the_checkpoints_own_context_counts(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(text_config={"max_position_embeddings": 100})
    with pytest.raises(ContextTooLong, match="maximum context length is 100 tokens"):
        await preprocessor(folder).prepare(asking("Hi " * 100))


async def test_prompt_and_answer_may_fill_the_context_to_the_last_token(checkpoint: Path) -> None:
    length = len((await preprocessor(checkpoint).prepare(asking("Hi"))).token_ids)
    full = await preprocessor(checkpoint, context=64).prepare(asking("Hi", max_tokens=64 - length))
    assert (full.sampling.max_tokens, full.clipped_max_tokens) == (64 - length, None)
    clipped = await preprocessor(checkpoint, context=64).prepare(asking("Hi", max_tokens=163_840))
    assert (clipped.sampling.max_tokens, clipped.clipped_max_tokens) == (64 - length, 64 - length)


async def test_an_answer_that_ignores_its_end_is_as_long_as_it_may_be(checkpoint: Path) -> None:
    prompt = await preprocessor(checkpoint).prepare(asking("Hi", max_tokens=20, ignore_eos=True))
    assert (prompt.sampling.min_tokens, prompt.sampling.max_tokens) == (20, 20)
    default = await preprocessor(checkpoint).prepare(asking("Hi", ignore_eos=True))
    assert (default.sampling.min_tokens, default.sampling.max_tokens) == (1024, 1024)


async def test_a_least_length_above_the_default_is_granted(checkpoint: Path) -> None:
    prompt = await preprocessor(checkpoint).prepare(asking("Hi", min_tokens=2000))
    assert (prompt.sampling.min_tokens, prompt.sampling.max_tokens) == (2000, 2000)


async def test_what_the_engine_has_to_know_is_handed_on(of_template: Callable[[str], Path]) -> None:
    tools = ToolUse((Tool("look", {"type": "function", "function": {"name": "look"}}),), required=True)
    constraint = Constraint("regex", "[ab]+")
    request = replace(asking("Hi"), tools=tools, constraint=constraint, thinking=Thinking(None, 50), stream=False)
    prompt = await preprocessor(of_template("glm-4.6v")).prepare(request)
    assert (prompt.tools, prompt.constraint, prompt.stream, prompt.raw) == (tools, constraint, False, False)
    assert prompt.thinking == Thinking(True, 50)


@pytest.mark.parametrize(
    ("name", "text", "thinks"),
    [
        ("plain", "Q", False),
        ("glm-4.1v", "Q/nothink", True),
        ("glm-4.5v", "Q", True),
        ("glm-4.5v", "Q/nothink", False),
        ("glm-4.6v", "Q /nothink ", False),
    ],
)
async def test_whether_the_model_thinks_is_resolved(
    of_template: Callable[[str], Path], name: str, text: str, thinks: bool
) -> None:
    stage = preprocessor(of_template(name))
    prompt = await stage.prepare(asking(text))
    assert prompt.thinking == Thinking(thinks)
    if name.startswith("glm-4.5v"):
        said = await stage.prepare(replace(asking("Q"), thinking=Thinking(thinks)))
        assert prompt.token_ids.tolist() == said.token_ids.tolist()


async def test_a_text_is_continued_as_it_stands(checkpoint: Path) -> None:
    stage = preprocessor(checkpoint)
    prompt = await stage.prepare(ChatRequest("r1", (), Sampling(max_tokens=5), text="Once upon a time"))
    assert prompt.raw
    assert prompt.thinking == Thinking(False)
    assert prompt.sampling.max_tokens == 5
    longer = await stage.prepare(ChatRequest("r1", (), text="Once upon a time there was"))
    assert longer.token_ids[: len(prompt.token_ids)].tolist() == prompt.token_ids.tolist()


async def test_a_text_may_be_without_the_special_tokens_of_a_prompts_beginning(
    checkpoint: Path, checkpoint_9b: Path
) -> None:
    for folder in (checkpoint, checkpoint_9b):
        stage = preprocessor(folder)
        request = ChatRequest("r1", (), text="Once upon a time")
        begun = (await stage.tokenize(request)).token_ids
        bare = (await stage.tokenize(replace(request, special_tokens=False))).token_ids
        assert begun[2:] == bare  # without [gMASK] and <sop>


async def test_token_ids_are_continued_as_they_stand(checkpoint: Path, checkpoint_9b: Path) -> None:
    for folder in (checkpoint, checkpoint_9b):
        stage = preprocessor(folder)
        ids = (await stage.tokenize(ChatRequest("r1", (), text="Once upon a time"))).token_ids
        prompt = await stage.prepare(ChatRequest("r1", (), text=ids, param="prompt"))
        assert (tuple(prompt.token_ids.tolist()), prompt.raw) == (ids, True)
        with pytest.raises(InvalidRequest, match="the largest id is") as refused:
            await stage.prepare(ChatRequest("r1", (), text=(*ids, 2**31 - 1), param="prompt"))
        assert refused.value.param == "prompt"
        with pytest.raises(ContextTooLong):
            await stage.prepare(ChatRequest("r1", (), text=ids[:1] * 9000, param="prompt"))


async def test_a_placeholder_of_a_picture_is_no_token_of_a_raw_prompt(checkpoint: Path) -> None:
    image_token = json.loads((checkpoint / "config.json").read_text())["image_token_id"]
    with pytest.raises(InvalidRequest, match="placeholder of a picture"):
        await preprocessor(checkpoint).prepare(ChatRequest("r1", (), text=(5, image_token), param="prompt"))


LOOK = {"type": "function", "function": {"name": "look", "description": "Looks at it. " * 60}}


async def test_a_model_without_tools_answers_without_them_and_says_so(of_template: Callable[[str], Path]) -> None:
    """Open WebUI attaches 36 tools to each message, whatever the model."""
    stage = preprocessor(of_template("plain"))
    plain = await stage.prepare(asking("Hi"))
    offered = replace(asking("Hi"), tools=ToolUse((Tool("look", LOOK),)))
    prompt = await stage.prepare(offered)
    assert (prompt.tools, prompt.ignored_fields) == (None, ("tools",))
    assert prompt.token_ids.tolist() == plain.token_ids.tolist()
    assert plain.ignored_fields == ()
    assert (await stage.tokenize(offered)).token_ids == tuple(plain.token_ids.tolist())
    with pytest.raises(InvalidRequest, match="does not support tools") as refused:
        await stage.prepare(replace(asking("Hi"), tools=ToolUse((Tool("look", LOOK),), required=True)))
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("copies", [3, 600])  # too long once tokenized, and too long for certain before
async def test_tools_are_blamed_where_the_prompt_fits_without_them(
    of_template: Callable[[str], Path], copies: int
) -> None:
    stage = preprocessor(of_template("glm-4.6v"), context=600)
    tools = ToolUse(tuple(Tool(f"look{number}", LOOK) for number in range(copies)))
    messages = len((await stage.prepare(asking("Hi"))).token_ids)
    with pytest.raises(ContextTooLong) as refused:
        await stage.prepare(replace(asking("Hi"), tools=tools))
    assert refused.value.param == "tools"
    assert f"({messages} in the messages, " in refused.value.message
    assert refused.value.message.endswith("Please reduce the number or the length of the tools.")
    with pytest.raises(ContextTooLong) as refused:  # not the tools' fault
        await stage.prepare(replace(asking("Hi " * 700), tools=tools))
    assert refused.value.param == "messages"


async def test_a_text_too_long_names_its_own_field(checkpoint: Path) -> None:
    for text in ("x" * 10_000_000, "z? " * 3000):
        with pytest.raises(ContextTooLong, match="maximum context length is 8192 tokens") as refused:
            await preprocessor(checkpoint).prepare(ChatRequest("r1", (), text=text, param="prompt"))
        assert refused.value.param == "prompt"


async def test_tokenizing_gives_the_ids_of_the_prompt(checkpoint: Path, checkpoint_9b: Path) -> None:
    for folder, context in ((checkpoint, 8192), (checkpoint_9b, 8192)):
        stage = preprocessor(folder)
        request = asking(PNG, "What?")
        prompt = await stage.prepare(request)
        expected = Tokenized(tuple(prompt.token_ids.tolist()), prompt.image_tokens, context)
        assert await stage.tokenize(request) == expected


async def test_tokenizing_decodes_no_picture(checkpoint: Path) -> None:
    tokenized = await preprocessor(checkpoint).tokenize(asking(hollow(640, 480), "?"))
    assert tokenized.image_tokens == 391
    with pytest.raises(ImageRejected, match="is a text"):
        await preprocessor(checkpoint).tokenize(asking(b"hello", "?"))
    with pytest.raises(ContextTooLong, match="reduce the length of the messages"):
        await preprocessor(checkpoint).tokenize(asking(hollow(4000, 3000), hollow(4000, 3000), "?"))


async def test_glm_4v_9b_sees_one_square_picture(checkpoint_9b: Path) -> None:
    picture = photo(600, 200)
    prompt = await preprocessor(checkpoint_9b).prepare(asking("What?", encoded(picture)))
    (seen,) = prompt.pictures
    exact = np.asarray(picture.resize((1120, 1120), Image.Resampling.BICUBIC))
    assert seen.pixels.shape == (1120, 1120, 3)
    differences = np.abs(seen.pixels.astype(int) - exact)
    assert differences.max() <= 2
    assert (differences > 0).mean() < 0.01
    assert (seen.tokens, seen.original_size, prompt.image_tokens) == (1602, (600, 200), 1602)
    config = json.loads((checkpoint_9b / "config.json").read_text())
    at = prompt.token_ids.tolist().index(config["boi_token_id"])
    assert prompt.token_ids[at : at + 1602].tolist() == [
        config["boi_token_id"], *[config["pad_token_id"]] * 1600, config["eoi_token_id"],
    ]  # fmt: skip


async def test_glm_4v_9b_keeps_its_one_picture_over_turns_and_refuses_a_second(checkpoint_9b: Path) -> None:
    stage = preprocessor(checkpoint_9b)
    earlier = Message("user", (ImagePart(PNG, "messages[0].content[0].image_url"), TextPart("Q1")))
    answer = Message("assistant", (TextPart("A1"),))
    kept = await stage.prepare(ChatRequest("r1", (earlier, answer, Message("user", (TextPart("Q2"),)))))
    assert kept.image_tokens == 1602
    second = Message("user", (TextPart("Q2"), ImagePart(PNG, "messages[2].content[1].image_url")))
    with pytest.raises(InvalidRequest, match="2 pictures; the served model accepts at most 1 in a conv") as refused:
        await stage.prepare(ChatRequest("r1", (earlier, answer, second)))
    assert refused.value.param == "messages[2].content[1].image_url"


async def test_glm_4v_9b_has_more_cache_tokens_with_a_picture(write_checkpoint_9b: WriteCheckpoint) -> None:
    stage = preprocessor(write_checkpoint_9b(seq_length=100), context=100_000)
    clipped = await stage.prepare(asking("Hi", max_tokens=100))
    assert clipped.clipped_max_tokens == clipped.sampling.max_tokens == 100 - len(clipped.token_ids)
    shown = await stage.prepare(asking(PNG, "Hi"))
    assert len(shown.token_ids) + (shown.sampling.max_tokens or 0) == 1699


def test_abilities_are_told_in_order(of_template: Callable[[str], Path], checkpoint_9b: Path) -> None:
    every = ("chat", "vision", "streaming", "structured_output", "logprobs")
    several = ("chat", "vision", "streaming", "multiple_images", "structured_output", "logprobs")
    thinking = ("thinking", "thinking_switch", "thinking_budget")
    assert preprocessor(checkpoint_9b).abilities == every
    assert preprocessor(of_template("plain")).abilities == (*several, "boxes")
    assert preprocessor(of_template("glm-4.1v")).abilities == (*several, "thinking", "thinking_budget")
    assert preprocessor(of_template("glm-4.6v")).abilities == (*several, *thinking, "tools", "tool_images", "boxes")
    assert preprocessor(DEMO_MODEL).abilities == (*several, *thinking, "tools", "tool_images", "boxes")


@pytest.mark.parametrize(
    ("request_", "error", "reason", "param"),
    [
        (asking(PNG, bomb(), "?"), ImageRejected, "Picture 2 is 900 megapixels", "messages[0].content[1].image_url"),
        (
            asking(encoded(photo(2000, 4)), "?"),
            ImageRejected,
            "at most 200 times",
            "messages[0].content[0].image_url",
        ),
        (asking(b"", "?"), ImageRejected, "0 bytes", "messages[0].content[0].image_url"),
        (asking(b"hello", "?"), ImageRejected, "is a text", "messages[0].content[0].image_url"),
        (asking(ImagePart("data:;base64,###", "image"), "?"), ImageRejected, "Picture 1 is not valid base64", "image"),
        (asking(ImagePart("file:///etc/passwd", "image"), "?"), ImageRejected, "must be a data: URL", "image"),
        (asking(ImagePart("/etc/passwd", "image"), "?"), ImageRejected, "must be a data: URL", "image"),
        (asking(ImagePart("ftp://a.example/", "image"), "?"), ImageRejected, "must be a data: URL", "image"),
        (asking(ImagePart("http://127.0.0.1/", "image"), "?"), ImageRejected, "not a public address", "image"),
        (asking(*[PNG] * 17, "?"), InvalidRequest, "17 pictures; the limit is 16", "messages[0].content[16].image_url"),
        (asking(""), InvalidRequest, "question is empty", "messages"),
        (asking("?", max_tokens=-1), InvalidRequest, "max_tokens is -1", "max_tokens"),
        (asking("?", max_tokens=5, min_tokens=6), InvalidRequest, "min_tokens is 6; .* at most 5", "min_tokens"),
        (asking("?", min_tokens=9000), InvalidRequest, "min_tokens is 9000; .* at most 81", "min_tokens"),
    ],
)
async def test_a_bad_request_is_refused_and_the_next_one_served(
    checkpoint: Path, request_: ChatRequest, error: type[InvalidRequest], reason: str, param: str
) -> None:
    stage = preprocessor(checkpoint)
    with pytest.raises(error, match=reason) as refused:
        await stage.prepare(request_)
    assert refused.value.param == param
    assert (await stage.prepare(asking(PNG, "?"))).pictures


async def test_the_pixels_of_a_request_have_a_limit_together(checkpoint: Path) -> None:
    parts = [ImagePart(flat_webp(), f"messages[0].content[{n}].image_url", "low") for n in range(16)]
    with pytest.raises(ImageRejected, match=r"Picture 6 brings .* to 302 megapixels; the limit .* is 260") as refused:
        await preprocessor(checkpoint).prepare(asking(*parts, "?"))
    assert refused.value.param == "messages[0].content[5].image_url"


async def test_the_cpu_time_of_a_request_has_a_limit(checkpoint: Path) -> None:
    parts = [ImagePart(flat_webp(2000, 2000), detail="low")] * 3
    with pytest.raises(ImageRejected, match=r"CPU time"):
        await preprocessor(checkpoint, max_decode_cpu_s=0.02).prepare(asking(*parts, "?"))


async def test_pictures_are_fetched_at_the_same_time(checkpoint: Path) -> None:
    everyone = asyncio.Barrier(3)

    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.wait_for(everyone.wait(), 5)
        return httpx.Response(200, content=streamed(PNG))

    parts = [ImagePart(f"http://pics.example/{number}") for number in range(3)]
    prompt = await preprocessor(checkpoint, web(httpx.MockTransport(answer))).prepare(asking(*parts, "?"))
    assert len(prompt.pictures) == 3
    assert prompt.stages_ms["fetch"] > 0


async def test_one_refused_picture_stops_the_other_fetches(checkpoint: Path) -> None:
    stopped = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/bad":
            return httpx.Response(404)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return httpx.Response(200, content=streamed(PNG))

    parts = [ImagePart("http://pics.example/slow"), ImagePart("http://pics.example/bad")]
    with pytest.raises(ImageRejected, match=r"Picture 2 .* 404"):
        await preprocessor(checkpoint, web(httpx.MockTransport(answer))).prepare(asking(*parts, "?"))
    await asyncio.wait_for(stopped.wait(), 5)


async def test_a_request_past_its_deadline_is_given_up(checkpoint: Path) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60)
        return httpx.Response(200, content=streamed(PNG))

    stage = preprocessor(checkpoint, web(httpx.MockTransport(answer)))
    with pytest.raises(DeadlineExceeded, match=r"0.05 seconds"):
        await stage.prepare(asking(ImagePart("http://pics.example/"), "?", deadline_s=0.05))


async def test_the_prompt_carries_what_is_left_of_the_deadline(checkpoint: Path) -> None:
    prompt = await preprocessor(checkpoint).prepare(asking(PNG, "?", deadline_s=20))
    assert 10 < prompt.deadline_s < 20
    assert 290 < (await preprocessor(checkpoint).prepare(asking("?"))).deadline_s < 300


async def test_decoding_leaves_the_event_loop_free(checkpoint: Path) -> None:
    preparing = asyncio.ensure_future(preprocessor(checkpoint).prepare(asking(encoded(photo(2400, 1800)), "?")))
    turns = 0
    while not preparing.done():
        await asyncio.sleep(0.002)
        turns += 1
    assert preparing.result().pictures
    assert turns >= 5


async def test_stages_and_pictures_are_measured(checkpoint: Path) -> None:
    meter = Notes()
    stage = Preprocessor(ModelSettings(path=str(checkpoint)), PreprocessSettings(), meter, decoders=shared_decoders())
    await stage.prepare(asking(PNG, "?"))
    assert {tags["stage"] for name, _, tags in meter.taken if name == STAGE_SECONDS.name} == STAGES
    assert [tags for name, _, tags in meter.taken if name == PICTURES.name] == [{"format": "png"}]
    assert [value for name, value, _ in meter.taken if name == PICTURE_TOKENS.name] == [77.0]


def test_a_checkpoint_of_another_family_is_refused(write_checkpoint: WriteCheckpoint) -> None:
    with pytest.raises(InvalidRequest, match="'llama'"):
        preprocessor(write_checkpoint(model_type="llama"))


def test_the_stage_needs_no_torch_and_huge_claims_take_no_memory(checkpoint: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, resource, struct, sys
        from serve_app.contracts import ChatRequest, ImagePart, Message, TextPart
        from serve_app.errors import ImageRejected
        from serve_app.metrics import SilentMeter
        from serve_app.preprocess.prepare import Preprocessor
        from serve_app.settings import ModelSettings, PreprocessSettings
        from tests.preprocess.pictures import bomb, encoded, photo

        def claim(file_format, old, new):
            data = encoded(photo(64, 64), file_format)
            assert old in data, file_format
            return data.replace(old, new, 1)

        claims = [
            bomb(),
            claim("GIF", struct.pack("<HH", 64, 64), struct.pack("<HH", 65535, 65535)),
            claim("BMP", struct.pack("<ii", 64, 64), struct.pack("<ii", 10**5, 10**5)),
            claim("TIFF", struct.pack("<HHLL", 256, 4, 1, 64), struct.pack("<HHLL", 256, 4, 1, 2 * 10**6)),
            claim("JPEG", struct.pack(">HH", 64, 64), struct.pack(">HH", 65500, 65500)),
            claim("WebP", struct.pack("<HH", 64, 64), struct.pack("<HH", 16383, 16383)),
        ]
        stage = Preprocessor(ModelSettings(path={str(checkpoint)!r}), PreprocessSettings(), SilentMeter())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data in claims:
            try:
                asyncio.run(stage.prepare(ChatRequest("r", (Message("user", (ImagePart(data), TextPart("?"))),))))
            except ImageRejected as refused:
                print(refused)
            else:
                raise SystemExit("not refused")
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 64 * 1024, f"grew by {{grown}} KiB"
        assert "torch" not in sys.modules
        """
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("the limit") == 6, ran.stdout


async def test_a_prompt_has_the_tenant_of_its_caller_so_that_no_page_is_shared_across_tenants():
    """The engine's keys of pages contain the prompt's tenant."""
    preparing = preprocessor(DEMO_MODEL)
    request = asking("Hello")
    tenants = [
        (await preparing.prepare(replace(request, caller=caller))).tenant
        for caller in (ANONYMOUS, Caller("clerk", tenant="shop"))
    ]
    assert tenants == ["default", "shop"]
