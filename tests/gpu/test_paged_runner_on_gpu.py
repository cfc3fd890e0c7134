"""The kernels' path on a GPU: the library's numbers, captured as launched, nothing extra for new lengths."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, Glm4vTextConfig, Glm4vTextModel

from serve_app.contracts import Prompt, Sampling
from serve_app.engine.model.batch import Batch, HostBatch, Pieces, Rows, unpack
from serve_app.engine.model.families.adapter import ModelAdapter
from serve_app.engine.model.paged_runner import PagedRunner, supports
from serve_app.engine.model.pages import PAGE_TOKENS
from serve_app.engine.model.slots import CacheShape
from serve_app.engine.model.trunk import PagedCache, Trunk
from serve_app.engine.model.weights import load_model
from serve_app.engine.scheduler import Chunk
from serve_app.engine.sequence import Sequence
from serve_app.settings import ModelSettings
from tests.engine.conftest import write_tiny_model
from tests.engine.model.test_paged_runner import Paged, follow_up
from tests.engine.model.test_slot_runner import answers, mixed_prompts

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(folder: Path, dtype: str) -> ModelAdapter:
    return load_model(folder, ModelSettings(path=str(folder), device="cuda", dtype=dtype))  # type: ignore[arg-type]


class Recording(PagedRunner):
    """Keeps the logits of every step."""

    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        logits = super().forward(rows, chunks)
        self.seen = [*getattr(self, "seen", []), logits.clone()]
        return logits


def recorded(model: ModelAdapter, prompts: list[Prompt], captured: bool) -> tuple[list[list[int]], list[torch.Tensor]]:
    paged = Paged(model)
    runner = Recording(model, Trunk(model.text_layers, CUDA), 8, paged.pool.pages + 1, 1024)
    if captured:
        runner.capture_graphs()
        runner._chunk_graphs = None  # padded: cuBLAS chooses other kernels for other numbers of tokens
    paged.loop._model = paged.loop._executor._model = runner
    return paged.answers(prompts), runner.seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_captured_steps_give_the_logits_of_launched_ones_bit_for_bit(folder: Path, dtype: str) -> None:
    model = load(folder, dtype)
    assert supports(model)
    # One row in a bucket of one: padding to a bucket would let cuBLAS choose another kernel.
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0), count=1)
    captured, launched = (recorded(model, prompts, captured) for captured in (True, False))
    assert captured[0] == launched[0]
    assert all(torch.equal(a, b) for a, b in zip(captured[1], launched[1], strict=True))


@torch.inference_mode()
def test_captured_steps_with_chunks_give_what_launched_ones_of_the_same_padding_give_bit_for_bit(folder: Path) -> None:
    model = load(folder, "bfloat16")
    runner = PagedRunner(model, Trunk(model.text_layers, CUDA), 4, 60, 1024)
    runner.capture_graphs()
    graphs = runner._chunk_graphs
    if graphs is None:
        assert torch.cuda.get_device_capability()[0] != 9
        return
    runner._cache.table[:3, :4] = torch.arange(1, 13, device=CUDA).view(3, 4)
    for rows in (0, 2):
        new, lengths = np.array([70, 3]), np.array([70, 140])
        tokens = rows + int(new.sum())
        one, two, three = (np.arange(first, first + 256) for first in (64, 320, 576))
        batch = HostBatch(
            positions=np.random.default_rng(0).integers(0, 200, (3, tokens)),
            places=np.concatenate([one[[9, 5]][:rows], two[:70], three[137:140]]),
            row_slots=np.array([0, 0])[:rows],
            row_lengths=np.array([10, 6])[:rows],
            piece_slots=np.array([1, 2]),
            piece_tokens=new,
            piece_lengths=lengths,
        )
        size = graphs.fitting(batch.size)
        assert size is not None
        assert size.tokens == 128
        array = torch.from_numpy(batch.pack(size, 4)).to(CUDA)
        embeddings = torch.randn(size.tokens, model.model.config.text_config.hidden_size, device=CUDA).bfloat16()
        embeddings[tokens:] = 0
        caches = []
        for run in ("captured", "launched"):
            for kept in (*runner._cache.keys, *runner._cache.values):
                torch.manual_seed(1)
                kept.copy_(torch.randn(kept.shape, device=CUDA))
            graphs._embeddings.zero_()
            hidden = (
                graphs.replay(size, array, embeddings[:tokens])
                if run == "captured"
                else runner._layers(embeddings.clone(), unpack(array, size))
            )
            caches.append((hidden[:tokens].clone(), runner._cache.keys[-1][64:].clone()))
        assert all(torch.equal(a, b) for a, b in zip(*caches, strict=True))
        assert bool(caches[0][0].isfinite().all())


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp8"])
def test_after_kernels_are_compiled_ahead_no_step_and_no_picture_compiles_one(folder: Path, quantization: str) -> None:
    import triton

    settings = ModelSettings(path=str(folder), device="cuda", dtype="bfloat16", quantization=quantization)  # type: ignore[arg-type]
    model = load_model(folder, settings)
    paged = Paged(model)
    compiled: list[str] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **event: compiled.append(event["repr"])
    try:
        paged.loop._model.compile_kernels()  # type: ignore[attr-defined]
        compiled.clear()  # it compiles only what no test before has compiled
        paged.loop._model.check_numbers()  # type: ignore[attr-defined]
        paged.loop._model.capture_graphs()  # type: ignore[attr-defined]
        paged.loop._model.warm_up(2048)  # type: ignore[attr-defined]
        paged.answers(mixed_prompts(Sampling(max_tokens=8, temperature=0.0), count=20))
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
    assert compiled == []


def test_answers_in_bfloat16_are_nearly_those_of_steps_that_are_launched(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    model = load(folder, "bfloat16")
    prompts = mixed_prompts(Sampling(max_tokens=8, temperature=0.0), count=100)
    launched = recorded(model, prompts, captured=True)[0]
    paged = Paged(model)
    paged.loop._model.capture_graphs()  # type: ignore[attr-defined]
    captured = paged.answers(prompts)
    agreeing = sum(a == b for a, b in zip(captured, launched, strict=True))
    record_property("agreeing of 100", agreeing)
    assert agreeing >= 45


def test_float32_answers_are_those_of_the_librarys_module_over_slots(folder: Path) -> None:
    model = load(folder, "float32")
    prompts = mixed_prompts(Sampling(max_tokens=20, temperature=0.0))
    assert recorded(model, prompts, captured=True)[0] == answers(model, prompts)


def test_sampled_answers_with_penalties_and_logprobs_are_those_over_slots(folder: Path) -> None:
    model = load(folder, "float32")
    rule = dict(max_tokens=20, temperature=0.9, top_p=0.95, top_k=50, min_p=0.01, seed=11, logprobs=2)
    penalties = dict(repetition_penalty=1.2, frequency_penalty=0.3, logit_bias=((7, 2.0),), min_tokens=3)
    prompts = mixed_prompts(Sampling(**rule, **penalties))  # type: ignore[arg-type]
    assert recorded(model, prompts, captured=True)[0] == answers(model, prompts)


def test_prompts_get_nearly_the_same_logits_alone_and_together_in_bfloat16(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    """Products of other numbers of rows sum in another order, so near ties may fall the other way."""
    model = load(folder, "bfloat16")
    prompts = mixed_prompts(Sampling(max_tokens=8, temperature=0.0), count=200)
    together = recorded(model, prompts, captured=True)[0]
    alone = [Paged(model).answers([one])[0] for one in prompts]
    agreeing = sum(a == b for a, b in zip(together, alone, strict=True))
    record_property("agreeing of 200", agreeing)
    assert agreeing >= 100


def test_float32_answers_after_a_shared_beginning_are_those_without(folder: Path) -> None:
    model = load(folder, "float32")
    prompts = [one for one in mixed_prompts(Sampling(max_tokens=12, temperature=0.0)) if len(one.token_ids) > 70]
    questions = [follow_up(one, f"{one.id}/{n}", [60 + n] * (n + 1)) for n in range(3) for one in prompts]
    paged = Paged(model)
    got = [paged.answers([question])[0] for question in questions]
    assert sum(paged.reused) > 0
    assert got == [Paged(model).answers([question])[0] for question in questions]


def wide_trunk(dtype: torch.dtype, layers: int) -> Any:
    """Layers in the shape of GLM-4.1V-9B with random weights."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5}
    config = Glm4vTextConfig(num_hidden_layers=layers, rope_parameters=rope)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with CUDA:
        module = Glm4vTextModel._from_config(config).eval()
    torch.set_default_dtype(torch.float32)
    return module


def places(table: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    at = torch.arange(start, stop, device=CUDA)
    return table[0, at // PAGE_TOKENS].long() * PAGE_TOKENS + at % PAGE_TOKENS


def piece(table: torch.Tensor, positions: torch.Tensor, start: int, stop: int) -> Batch:
    zero, starts, lengths = (torch.tensor(x, device=CUDA) for x in ([0], [0, stop - start], [stop]))
    pieces = Pieces(zero, starts, lengths, [(stop - start, stop)])
    return Batch(positions[:, start:stop], places(table, start, stop), None, pieces)


@pytest.mark.parametrize(("dtype", "layers"), [(torch.float32, 4), (torch.bfloat16, 4)])
@torch.inference_mode()
def test_hidden_states_are_those_of_the_librarys_module(dtype: torch.dtype, layers: int) -> None:
    module = wide_trunk(dtype, layers)
    tokens = 700
    embeddings = (torch.randn(tokens, 4096, device=CUDA) * 0.02).to(dtype)
    positions = torch.randint(0, 2000, (3, tokens), device=CUDA)

    def library() -> torch.Tensor:
        at = dict(position_ids=positions[:, None], past_key_values=DynamicCache())
        hidden = module(inputs_embeds=embeddings[None].to(module.dtype), **at).last_hidden_state[0]
        return hidden.float()  # type: ignore[no-any-return]

    theirs = library()
    table = (torch.randperm(20, device=CUDA) + 1).int()[None]
    cache = PagedCache(CacheShape(layers, 2, 128, dtype), 21, table)
    trunk = Trunk(module, CUDA)
    row = Rows(torch.tensor([0], device=CUDA), torch.tensor([tokens], device=CUDA))
    last = Batch(positions[:, -1:], places(table, tokens - 1, tokens), row, None)
    steps = [(0, 400, piece(table, positions, 0, 400)), (400, 699, piece(table, positions, 400, 699)), (699, 700, last)]
    ours = torch.cat([trunk.forward(embeddings[a:b].clone(), batch, cache) for a, b, batch in steps]).float()
    if dtype == torch.float32:
        assert (ours - theirs).abs().max() < 2e-4
        return
    module.float()
    exact = library()
    assert (ours - exact).norm() < 1.1 * (theirs - exact).norm()


@torch.inference_mode()
def test_lengths_never_seen_before_cost_nothing_extra(folder: Path) -> None:
    model = load(folder, "bfloat16")
    paged = Paged(model, context_tokens=1024, prefill_tokens=1024)
    rng = np.random.default_rng(0)
    lengths = [300, 300, 300, 417, 418, 533, 701, 300]
    seconds = []
    for index, length in enumerate(lengths):
        ids = rng.integers(0, 250, length).astype(np.int32)
        torch.cuda.synchronize()
        started = time.perf_counter()
        paged.answers([Prompt(f"{index}", ids, (), Sampling(max_tokens=1, temperature=0.0), 600.0)])
        seconds.append(time.perf_counter() - started)
    assert max(seconds[2:]) < min(seconds[2:]) + 0.030  # a first use of one of cuBLAS's kernels may be among them
