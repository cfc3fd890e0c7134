"""The Triton kernels give what their plain twins give; on a CPU they run in Triton's interpreter."""

from itertools import accumulate
from types import ModuleType
from typing import Any

import pytest
import torch

from serve_app.engine.model.batch import Pieces
from serve_app.engine.model.kernels import plain
from serve_app.engine.model.pages import PAGE_TOKENS

triton = pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16 if DEVICE.type == "cuda" else torch.float16]


@pytest.fixture(scope="module")
def fused() -> ModuleType:
    from serve_app.engine.model.kernels import fused  # the tests' conftest.py has chosen the interpreter

    return fused


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(3)
    return request.param  # type: ignore[no-any-return]


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    bound = 2e-6 if expected.dtype == torch.float32 else 4e-3 if expected.dtype == torch.bfloat16 else 1e-3
    return bool((got.float() - expected.float()).norm() <= bound * expected.float().norm())


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


@pytest.mark.parametrize(("add", "post"), [(False, False), (True, False), (True, True)])
def test_add_norm(fused: ModuleType, dtype: torch.dtype, add: bool, post: bool) -> None:
    x, residual = (randn(5, 96, dtype=dtype) for _ in range(2))
    weights = [randn(96, dtype=dtype) for _ in range(2)]
    results: list[Any] = []
    for kernels in (fused, plain):
        left = residual.clone()
        y = kernels.add_norm(x if add else None, left, weights[0] if post else None, weights[1], 1e-5)
        results.append((y, left))
    assert all(close(got, expected) for got, expected in zip(*results, strict=True))


def test_silu_mul(fused: ModuleType, dtype: torch.dtype) -> None:
    gate_up = randn(3, 2 * 1500, dtype=dtype)
    assert close(fused.silu_mul(gate_up), plain.silu_mul(gate_up))


@pytest.mark.parametrize(("tokens", "heads", "kv_heads", "pairs"), [(3, 4, 2, 8), (130, 16, 1, 16)])
def test_rope_store(fused: ModuleType, dtype: torch.dtype, tokens: int, heads: int, kv_heads: int, pairs: int) -> None:
    dim = 64
    qkv = randn(tokens, (heads + 2 * kv_heads) * dim, dtype=dtype)
    angles = torch.rand(tokens, pairs, device=DEVICE) * 7
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    places = torch.randperm(200, device=DEVICE)[:tokens]
    results: list[Any] = []
    for kernels in (fused, plain):
        keys, values = (torch.zeros(200, kv_heads, dim, dtype=dtype, device=DEVICE) for _ in range(2))
        results.append((kernels.rope_store(qkv, cos, sin, places, keys, values), keys, values))
    assert all(close(got, expected) for got, expected in zip(*results, strict=True))


class Cache:
    """Random keys and values of sequences of some lengths, in pages in any order."""

    kv_heads, dim = 2, 32

    def __init__(self, lengths: list[int], dtype: torch.dtype, spare: int = 0, group: int = 4) -> None:
        """`group`: query heads that share keys and values."""
        self.heads = self.kv_heads * group
        counts = [-(-length // PAGE_TOKENS) for length in lengths]
        order = torch.randperm(sum(counts)).int() + 1
        table, first = torch.zeros(len(lengths) + 2, max(counts) + spare, dtype=torch.int32), 0
        slots = torch.randperm(len(lengths) + 2)[: len(lengths)]
        for slot, count in zip(slots.tolist(), counts, strict=True):
            table[slot, :count] = order[first : first + count]
            first += count
        shape = ((first + 1) * PAGE_TOKENS, self.kv_heads, self.dim)
        self.keys, self.values = (randn(*shape, dtype=dtype) for _ in range(2))
        self.table, self.slots, self.lengths = (x.to(DEVICE) for x in (table, slots, torch.tensor(lengths)))


@pytest.mark.parametrize(
    ("lengths", "group"),
    [
        ([1], 4),
        ([64, 65, 700], 1),
        ([3, 1, 129, 4500, 17], 4),
        ([9000], 16),  # more than 64 parts of two pages
        ([700, 30, 1000, *[64] * 7], 3),  # up to 32 rows have parts of six pages
        ([200] * 33, 4),
    ],
)
def test_attend_rows(fused: ModuleType, dtype: torch.dtype, lengths: list[int], group: int) -> None:
    cache = Cache(lengths, dtype, group=group)
    q = randn(len(lengths) + 2, cache.heads, cache.dim, dtype=dtype)  # the tokens of a piece follow the rows
    outputs = [torch.zeros_like(q).flatten(1) for _ in range(2)]
    given = q, cache.keys, cache.values, cache.table, cache.slots, cache.lengths
    fused.attend_rows(*given, fused.split_rows(cache.lengths), outputs[0])
    plain.attend_rows(*given, None, outputs[1])
    assert close(*outputs)


@pytest.mark.parametrize(
    ("rows", "sizes", "group"),
    [
        (0, [(1, 1)], 4),
        (3, [(300, 300)], 16),
        (1, [(5, 70), (129, 700), (64, 192)], 4),  # with earlier tokens, tiles that end within a piece
        (1, [(5, 70), (129, 200)], 1),
        (1, [(17, 80), (33, 33)], 3),
        (1, [(17, 80), (65, 130)], 6),
        (2, [(130, 130), (0, 0), (37, 37)], 4),  # one without tokens, as padding has
    ],
)
def test_attention_of_pieces_over_pages(rows: int, sizes: list[tuple[int, int]], group: int) -> None:
    from serve_app.engine.model.kernels import pieces as kernel

    torch.manual_seed(3)
    dtype = DTYPES[1]
    cache = Cache([max(1, length) for _, length in sizes], dtype, spare=3, group=group)
    cache.values[:PAGE_TOKENS] = float("nan")  # page 0, which no sequence has
    starts = torch.tensor([0, *accumulate(new for new, _ in sizes)], device=DEVICE) + rows
    lengths = torch.tensor([length for _, length in sizes], device=DEVICE)
    q = randn(int(starts[-1]) + 9, cache.heads, cache.dim, dtype=dtype)
    outputs = [torch.zeros_like(q).flatten(1) for _ in range(2)]
    pieces = Pieces(cache.slots, starts, lengths, None)
    kernel.attend(q, cache.keys, cache.values, cache.table, pieces, outputs[0])
    plain.attend_pieces(q, cache.keys, cache.values, cache.table, pieces, None, outputs[1])
    assert close(*outputs)
    assert outputs[0][:rows].abs().sum() == outputs[0][int(starts[-1]) :].abs().sum() == 0
