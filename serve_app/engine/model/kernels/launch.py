"""Launches Triton kernels, or has them compiled ahead, several at once, without launching them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_only_compiles = False


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> Any:
    """Launch a kernel of Triton's and return its compiled form; in `compile_ahead` have it compiled only."""
    if _only_compiles:
        return kernel.warmup(*args, grid=grid, **options)
    return kernel[grid](*args, **options)


def only_compiles() -> bool:
    """Whether `launch` launches nothing now."""
    return _only_compiles


def compile_ahead(compute: Callable[[], None], threads: int) -> None:
    """Run `compute`, whose kernels are compiled in so many threads and not launched; their results are any numbers.

    A kernel alone takes 0.1 to 0.7 s, most of it outside Python's lock. Raises what Triton raises if one can't be
    compiled; all of them can be launched afterwards, and are compiled then if they were not here.
    """
    from triton.runtime._async_compile import AsyncCompileMode  # imported late: a CPU installation has no Triton

    def compile_all() -> None:
        global _only_compiles
        with ThreadPoolExecutor(threads, "compile") as executor, AsyncCompileMode(executor):
            _only_compiles = True
            try:
                compute()
            finally:
                _only_compiles = False

    # Triton keeps the mode in a context variable, and leaves it there if a kernel can't be compiled.
    contextvars.copy_context().run(compile_all)
