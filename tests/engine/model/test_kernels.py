"""The Triton kernels give what their plain twins give; on a CPU they run in Triton's interpreter."""

from types import ModuleType
from typing import Any

import pytest
import torch

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


@pytest.mark.parametrize("lengths", [[1], [64, 65, 700], [3, 1, 129, 4500, 17], [200] * 33])
def test_attend_rows(fused: ModuleType, dtype: torch.dtype, lengths: list[int]) -> None:
    heads, kv_heads, dim = 8, 2, 32
    most = -(-max(lengths) // PAGE_TOKENS)
    pages = 1 + sum(-(-length // PAGE_TOKENS) for length in lengths)
    order = torch.randperm(pages - 1) + 1
    table, first = torch.zeros(len(lengths) + 2, most, dtype=torch.int32), 0
    slots = torch.randperm(len(lengths) + 2)[: len(lengths)]
    for slot, length in zip(slots.tolist(), lengths, strict=True):
        count = -(-length // PAGE_TOKENS)
        table[slot, :count] = order[first : first + count].int()
        first += count
    keys, values = (randn(pages * PAGE_TOKENS, kv_heads, dim, dtype=dtype) for _ in range(2))
    q = randn(len(lengths), heads, dim, dtype=dtype)
    where = [x.to(DEVICE) for x in (table, slots, torch.tensor(lengths))]
    got = fused.attend_rows(q, keys, values, *where, fused.split_rows(where[2]))
    assert close(got, plain.attend_rows(q, keys, values, *where))
