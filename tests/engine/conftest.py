"""A tiny random model in the family's layout, models that count or play a script, and a loop over them."""

import json
import random
import re
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from serve_app.caller import Lane
from serve_app.contracts import Delta, Finished, Picture, Prompt, Sampling, Started, ToolCallDelta
from serve_app.engine.loop import EngineLoop, Outbox
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.output.parser import OutputParser
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sample, Sequence
from serve_app.metrics import SilentMeter

IMAGE, IMAGE_START, IMAGE_END, EOS, USER = 260, 258, 259, 256, 257
VOCAB = 320
BYTES = Vocabulary([bytes([index]) if index < 256 else b"" for index in range(VOCAB)])

# A vocabulary with every control token, as GLM-4.5V's and GLM-4.1V's together, and a few tokens of several bytes.
_PIECES = ["th", "ink", "</", "<think", "灯", "红灯", "\n\n", "  ", ' "', '":', "er", "in", "the", " the", "null", "12"]
_NAMES = [
    "<|endoftext|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "/nothink",
    *(token.value for token in ControlToken),
]
NAMES = {name: 256 + len(_PIECES) + index for index, name in enumerate(_NAMES)}
MARKED = Vocabulary(
    [bytes([index]) for index in range(256)]
    + [piece.encode() for piece in _PIECES]
    + [b"" for _ in range(VOCAB - 256 - len(_PIECES))],
    NAMES,
)


def ids_of(text: str, rng: random.Random | None = None) -> list[int]:
    """Token ids of a text with marks; longest tokens first, or cut anywhere as `rng` has it."""
    found: list[int] = []
    for part in re.split("(" + "|".join(map(re.escape, NAMES)) + ")", text):
        if part in NAMES:
            found.append(NAMES[part])
            continue
        content = part.encode()
        while content:
            fitting = [i for i, token in enumerate(MARKED.token_bytes) if token and content.startswith(token)]
            chosen = rng.choice(fitting) if rng else max(fitting, key=lambda i: len(MARKED.token_bytes[i]))
            found.append(chosen)
            content = content[len(MARKED.token_bytes[chosen]) :]
    return found


def write_tiny_model(folder: Path, seed: int = 0, shard_size: str = "5GB", scale: float = 6.0) -> Path:
    """A random Glm4v small enough for a unit test, saved as a real checkpoint is."""
    torch.manual_seed(seed)
    config = Glm4vConfig(
        text_config=dict(
            vocab_size=VOCAB,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            eos_token_id=[EOS, USER],
            pad_token_id=EOS,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3], partial_rotary_factor=0.5
            ),
        ),
        vision_config=dict(
            depth=2, hidden_size=64, num_heads=2, out_hidden_size=128, intermediate_size=128, image_size=112
        ),
        image_token_id=IMAGE,
        video_token_id=261,
        image_start_token_id=IMAGE_START,
        image_end_token_id=IMAGE_END,
        video_start_token_id=262,
        video_end_token_id=263,
    )
    model = Glm4vForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # larger weights, so that tokens differ from prompt to prompt
                parameter.mul_(scale)
    model.generation_config.eos_token_id = [EOS, USER]
    model.save_pretrained(folder, max_shard_size=shard_size)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "patch_size": 14})
    )
    write_byte_tokenizer(folder)
    return folder


def write_byte_tokenizer(folder: Path) -> None:
    vocabulary = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|user|>", "<|begin_of_image|>", "<|end_of_image|>", "<|image|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def picture(rng: np.random.Generator, height: int, width: int) -> Picture:
    pixels = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Picture(pixels, pixels.tobytes().hex()[:64], height * width // 784, (width, height))


def prompt(name: str, rng: np.random.Generator, sampling: Sampling, pictures: int, text: int) -> Prompt:
    """A prompt of random text around random pictures."""
    token_ids, shown = list(rng.integers(0, 256, 2)), []
    for _ in range(pictures):
        one = picture(rng, 28 * int(rng.integers(2, 9)), 28 * int(rng.integers(2, 9)))
        token_ids += [IMAGE_START, *[IMAGE] * one.tokens, IMAGE_END, *rng.integers(0, 256, 3)]
        shown.append(one)
    token_ids += list(rng.integers(0, 256, text))
    return Prompt(name, np.array(token_ids, dtype=np.int32), tuple(shown), sampling, deadline_s=600.0)


def new_sequence(
    name: str, rule: Sampling, ids: tuple[int, ...] = (1,), slot: int = -1, seed: int = 0, lane: Lane = "interactive"
) -> Sequence:
    """A sequence as the loop makes them, outside of any loop."""
    prompt = Prompt(name, np.array(ids, dtype=np.int32), (), rule, 60.0, lane=lane)
    return Sequence(
        prompt=prompt,
        sink=lambda event: None,
        parser=OutputParser(BYTES, prompt),
        seed=seed,
        positions=np.zeros((3, len(ids)), dtype=np.int64),
        position_delta=0,
        slot=slot,
    )


def next_samples(sequences: list[Sequence]) -> list[Sample]:
    """What a step samples for sequences without drafts."""
    return [Sample(sequence, len(sequence.generated)) for sequence in sequences]


class CountingModel:
    """A model without arithmetic: after a token comes the next number, after the last one the end token."""

    context_tokens = 512
    vocab_size = VOCAB
    stop_ids = frozenset([EOS])
    device = torch.device("cpu")

    def __init__(self, mixes_prefill_and_decode: bool = False) -> None:
        self.mixes_prefill_and_decode = mixes_prefill_and_decode
        self.newest: dict[int, int] = {}  # the token sampled last, by slot
        self.drafted: dict[int, list[int]] = {}  # the answer with the last draft, by slot
        self.batches: list[list[str]] = []  # ids decoded together, step by step
        self.chunks: list[tuple[str, int, int]] = []
        self.encoded: list[str] = []
        self.broken: set[str] = set()  # requests whose prefill raises
        self.not_numbers: set[str] = set()  # requests whose decoded logits are NaN
        self.broken_pictures: set[str] = set()  # digests whose encoding raises
        self.refuse_encoding: Exception | None = None
        self.out_of_memory_steps = 0
        self.out_of_memory: Exception = torch.OutOfMemoryError("no memory")

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        return np.zeros((3, len(prompt.token_ids)), dtype=np.int64), 0

    def page_keys(self, prompt: Prompt) -> list[bytes]:
        return []

    def device_bytes(self, sequence: Sequence, piece_tokens: int) -> int:
        return 1000 * sequence.reserved + piece_tokens

    def prepare(self, sequence: Sequence) -> None:
        sequence.need_pictures(len(sequence.prompt.pictures))

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        if self.refuse_encoding is not None:
            raise self.refuse_encoding
        for index, picture in enumerate(pictures):
            if index:  # as the tower: between slices only
                yield pictures[index - 1].tokens
            if picture.digest in self.broken_pictures:
                raise RuntimeError("broken picture")
            self.encoded.append(picture.digest)
        return [torch.zeros(picture.tokens, 4) for picture in pictures]

    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        self.chunks += [(chunk.sequence.id, chunk.start, chunk.stop) for chunk in chunks]
        if any(chunk.sequence.id in self.broken for chunk in chunks):
            raise RuntimeError("broken")
        if rows:
            self.batches.append([sequence.id for sequence in rows])
            if self.out_of_memory_steps:
                self.out_of_memory_steps -= 1
                raise self.out_of_memory
        logits = [
            torch.full((1, self.vocab_size), torch.nan)
            if sequence.id in self.not_numbers
            else self.logits(sequence, self.tokens(sequence))
            for sequence in rows
        ]
        for chunk in chunks:
            before = chunk.sequence.generated[: chunk.start - chunk.sequence.prompt_tokens] if chunk.drafted else []
            self.drafted[chunk.sequence.slot] = [*before, *chunk.drafted]
            for place in range(chunk.logits):
                logits.append(self.logits(chunk.sequence, [*before, *chunk.drafted[: place + 1]]))
        return torch.cat(logits) if logits else torch.empty(0, self.vocab_size)

    def drafts_save_time(self, rows: int, drafts: list[Chunk], with_prompts: bool) -> bool:
        return True

    def erase(self, sequence: Sequence, pages: list[int]) -> None:
        pass

    def keep(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        self.newest |= dict(zip(slots.tolist(), token_ids.tolist(), strict=True))

    def tokens(self, sequence: Sequence) -> list[int]:
        """What was generated, with what is in flight."""
        if sequence.in_flight > 1:  # a draft, as if all of it were accepted
            return self.drafted[sequence.slot] + [self.newest[sequence.slot]]
        return sequence.generated + ([self.newest[sequence.slot]] if sequence.in_flight else [])

    def logits(self, sequence: Sequence, answer: list[int]) -> torch.Tensor:
        """Logits (1, vocab) of what comes next after these tokens of the answer."""
        last = (answer or sequence.prompt.token_ids.tolist())[-1]
        return self.favour(min(last + 1, EOS))

    def favour(self, token_id: int) -> torch.Tensor:
        logits = torch.zeros(1, self.vocab_size)
        logits[0, token_id] = 10.0
        return logits


class ScriptedModel(CountingModel):
    """Says what it is told to say, token by token, then ends its turn."""

    stop_ids = frozenset([NAMES["<|endoftext|>"], NAMES["<|user|>"], NAMES["<|observation|>"]])

    def __init__(self, mixes_prefill_and_decode: bool = False) -> None:
        super().__init__(mixes_prefill_and_decode)
        self.scripts: dict[str, list[int]] = {}

    def logits(self, sequence: Sequence, answer: list[int]) -> torch.Tensor:
        script, place = self.scripts[sequence.id], len(answer)
        return self.favour(script[place] if place < len(script) else NAMES["<|user|>"])


class RandomModel(CountingModel):
    """Likes other tokens at every step of every request, whoever shares the batch."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop_ids: frozenset[int] = ScriptedModel.stop_ids,
        mixes_prefill_and_decode: bool = False,
    ) -> None:
        super().__init__(mixes_prefill_and_decode)
        self.vocab_size = len(vocabulary.token_bytes)
        self.stop_ids = stop_ids
        # Control tokens, and what closes strings, arrays and objects, are likelier, or few answers would end.
        closing = [i for i, token in enumerate(vocabulary.token_bytes) if token[:1] in (b'"', b"]", b"}")]
        self._liked = torch.zeros(self.vocab_size)
        self._liked[[*closing, *self.stop_ids, *vocabulary.names.values()]] = 3.0

    def logits(self, sequence: Sequence, answer: list[int]) -> torch.Tensor:
        seed = zlib.crc32(f"{sequence.id}/{answer}".encode())
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, self.vocab_size, generator=generator) + self._liked


class Bench:
    """A loop over a model, with every event of every request written down."""

    def __init__(
        self,
        model: CountingModel,
        slots: int = 4,
        prefill_tokens: int = 64,
        max_waiting: int = 16,
        cache: int = 0,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.model = model
        self.now = 0.0
        self.events: dict[str, list[object]] = {}
        self.scheduler = Scheduler(slots, prefill_tokens, max_waiting)
        self.loop = EngineLoop(
            model,
            vocabulary or BYTES,
            self.scheduler,
            FeatureCache(cache),
            SilentMeter(),
            self._deliver,
            0.05,
            lambda: self.now,
        )

    def _deliver(self, outbox: Outbox) -> None:
        for sink, event in outbox:
            sink(event)

    def ask(
        self,
        name: str,
        text: bytes = b"A",
        pictures: tuple[Picture, ...] = (),
        *,
        prompt: dict[str, Any] | None = None,
        **sampling: object,
    ) -> None:
        """Submit a prompt that ends in `text`; greedy, 8 tokens unless told otherwise. `prompt`: its other fields."""
        rules = Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
        token_ids = np.frombuffer(text, dtype=np.uint8).astype(np.int32)
        self.events[name] = []
        fields = {"token_ids": token_ids, "pictures": pictures, "sampling": rules, "deadline_s": 60.0, **(prompt or {})}
        self.loop.submit(self.loop.admission.admit(Prompt(id=name, **fields), self.events[name].append))

    def run(self, seconds_a_step: float = 0.0) -> None:
        for _ in range(10_000):
            if not self.loop.step():
                return
            self.now += seconds_a_step
        raise AssertionError("the loop does not end")

    def text(self, name: str) -> str:
        return self._channel(name, "text")

    def reasoning(self, name: str) -> str:
        return self._channel(name, "reasoning")

    def _channel(self, name: str, channel: str) -> str:
        return "".join(e.text for e in self.events[name] if isinstance(e, Delta) and e.channel == channel)

    def calls(self, name: str) -> list[tuple[str, str]]:
        """Name and arguments of each tool call, put together from its pieces."""
        calls: list[list[str]] = []
        for event in self.events[name]:
            if isinstance(event, ToolCallDelta):
                if event.name is not None:
                    assert event.index == len(calls)
                    calls.append([event.name, ""])
                calls[event.index][1] += event.arguments
        return [(called, arguments) for called, arguments in calls]

    def finished(self, name: str) -> Finished:
        (event,) = self.terminals(name)
        assert isinstance(event, Finished), event
        return event

    def terminals(self, name: str) -> list[object]:
        return [event for event in self.events[name] if not isinstance(event, (Started, Delta, ToolCallDelta))]


@pytest.fixture(params=[False, True], ids=["in parts", "ahead"])
def bench(request: pytest.FixtureRequest) -> Callable[..., Bench]:
    """Makes loops, over a model that computes a step in parts, and over one that begins before the last is read."""

    def create(slots: int = 4, prefill_tokens: int = 64, max_waiting: int = 16, cache: int = 0) -> Bench:
        return Bench(CountingModel(request.param), slots, prefill_tokens, max_waiting, cache)

    return create


@pytest.fixture
def bench_in_parts() -> Callable[..., Bench]:
    """As `bench`, for tests of what happens in which step."""
    return lambda slots=4, prefill_tokens=64: Bench(CountingModel(), slots, prefill_tokens)
