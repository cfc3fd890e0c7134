"""A tiny random model in the family's layout, and a model that only counts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from serve_app.contracts import Picture, Prompt, Sampling
from serve_app.engine.features import FeatureCache
from serve_app.engine.loop import EngineLoop, Outbox
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.engine.text import Vocabulary
from serve_app.metrics import SilentMeter

IMAGE, IMAGE_START, IMAGE_END, EOS, USER = 260, 258, 259, 256, 257
VOCAB = 320


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


class CountingModel:
    """A model without arithmetic: after a token comes the next number, after the last one the end token."""

    context_tokens = 512
    vocab_size = VOCAB
    stop_ids = frozenset([EOS])
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[list[str]] = []  # ids decoded together, step by step
        self.chunks: list[tuple[str, int, int]] = []
        self.encoded: list[str] = []
        self.broken: set[str] = set()  # requests whose prefill raises
        self.not_numbers: set[str] = set()  # requests whose decoded logits are NaN
        self.refuse_encoding: Exception | None = None
        self.out_of_memory_steps = 0

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        return np.zeros((3, len(prompt.token_ids)), dtype=np.int64), 0

    def encode(self, picture: Picture) -> torch.Tensor:
        if self.refuse_encoding is not None:
            raise self.refuse_encoding
        self.encoded.append(picture.digest)
        return torch.zeros(picture.tokens, 4)

    def prefill(self, chunk: Chunk) -> torch.Tensor | None:
        self.chunks.append((chunk.sequence.id, chunk.start, chunk.stop))
        if chunk.sequence.id in self.broken:
            raise RuntimeError("broken")
        return self._after(int(chunk.sequence.prompt.token_ids[-1])) if chunk.completes else None

    def decode(self, sequences: list[Sequence]) -> torch.Tensor:
        self.batches.append([sequence.id for sequence in sequences])
        if self.out_of_memory_steps:
            self.out_of_memory_steps -= 1
            raise torch.OutOfMemoryError("no memory")
        rows = [
            torch.full((1, VOCAB), torch.nan)
            if sequence.id in self.not_numbers
            else self._after(sequence.generated[-1])
            for sequence in sequences
        ]
        return torch.cat(rows)

    def _after(self, token_id: int) -> torch.Tensor:
        logits = torch.zeros(1, VOCAB)
        logits[0, min(token_id + 1, EOS)] = 10.0
        return logits


class Bench:
    """A loop over a model, with every event of every request written down."""

    def __init__(self, model: CountingModel, slots: int, prefill_tokens: int, max_waiting: int, cache: int) -> None:
        self.model = model
        self.now = 0.0
        self.events: dict[str, list[object]] = {}
        self.scheduler = Scheduler(slots, prefill_tokens, max_waiting)
        letters = [bytes([index]) if index < 256 else b"" for index in range(VOCAB)]
        self.loop = EngineLoop(
            model,
            Vocabulary(letters),
            self.scheduler,
            FeatureCache(cache),
            SilentMeter(),
            self._take,
            0.05,
            lambda: self.now,
        )

    def _take(self, outbox: Outbox) -> None:
        for sink, event in outbox:
            sink(event)

    def ask(self, name: str, text: bytes = b"A", pictures: tuple[Picture, ...] = (), **sampling: object) -> None:
        """Submit a prompt that ends in `text`; greedy, 8 tokens unless told otherwise."""
        stream = bool(sampling.pop("stream", True))
        rules = Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling})  # type: ignore[arg-type]
        token_ids = np.frombuffer(text, dtype=np.uint8).astype(np.int32)
        self.events[name] = []
        prompt = Prompt(name, token_ids, pictures, rules, deadline_s=60.0, stream=stream)
        self.loop.submit(prompt, self.events[name].append)

    def run(self, seconds_a_step: float = 0.0) -> None:
        for _ in range(10_000):
            if not self.loop.step():
                return
            self.now += seconds_a_step
        raise AssertionError("the loop does not end")

    def text(self, name: str) -> str:
        return "".join(getattr(event, "text", "") for event in self.events[name])

    def terminals(self, name: str) -> list[object]:
        return [event for event in self.events[name] if type(event).__name__ not in ("Started", "Delta")]


@pytest.fixture
def bench() -> Callable[..., Bench]:
    def create(slots: int = 4, prefill_tokens: int = 64, max_waiting: int = 16, cache: int = 0) -> Bench:
        return Bench(CountingModel(), slots, prefill_tokens, max_waiting, cache)

    return create
