"""Launches Triton kernels, or compiles them ahead of time in several threads without launching them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_compile_only = False


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> Any:
    """Launch a Triton kernel and return its compiled form; in `compile_ahead`, compile it only."""
    if _compile_only:
        return kernel.warmup(*args, grid=grid, **options)
    return kernel[grid](*args, **options)


def is_compile_only() -> bool:
    """Whether `launch` only compiles, because `compile_ahead` runs."""
    return _compile_only


def compile_ahead(compute: Callable[[], None], threads: int) -> None:
    """Run `compute`, whose kernels are compiled in `threads` threads and not launched: their outputs are undefined.

    Most of a compilation runs without Python's GIL. Raises Triton's error if a kernel can't be compiled; kernels that
    were not compiled here are compiled at their first launch.
    """
    # Private; tests/engine/model/test_kernels_compile.py fails if an upgrade of Triton changes it.
    from triton.runtime._async_compile import AsyncCompileMode

    def compile_all() -> None:
        global _compile_only
        with ThreadPoolExecutor(threads, "compile") as executor, AsyncCompileMode(executor):
            _compile_only = True
            try:
                compute()
            finally:
                _compile_only = False

    # Triton keeps the mode in a context variable, and leaves it there if a kernel can't be compiled.
    contextvars.copy_context().run(compile_all)
