"""Where Triton cannot build kernels, the library's modules run."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from serve_app.engine.model import kernels


def test_a_gpu_without_a_compiler_runs_no_kernels_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(kernels, "kernels_for", refuse)
    with caplog.at_level(logging.WARNING):
        assert not kernels.available.__wrapped__(torch.device("cuda"))
    assert "Failed to find C compiler" in caplog.text


def test_a_cpu_runs_no_kernels() -> None:
    assert not kernels.available(torch.device("cpu"))


def test_a_cache_folder_that_can_be_written_is_created_and_kept(tmp_path: Path) -> None:
    cache = SimpleNamespace(dir=str(tmp_path / "models" / "triton"))
    kernels.choose_cache(cache)
    assert cache.dir == str(tmp_path / "models" / "triton")
    assert (tmp_path / "models" / "triton").is_dir()


def test_a_cache_folder_that_can_not_be_written_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a read-only volume of models no kernel would be built, and the engine would run at half the speed."""
    (tmp_path / "models").write_text("not a folder")
    cache = SimpleNamespace(dir=str(tmp_path / "models" / "triton"))
    with caplog.at_level(logging.WARNING):
        kernels.choose_cache(cache)
    assert Path(cache.dir).is_dir()
    assert not Path(cache.dir).is_relative_to(tmp_path)
    assert "Kernels are compiled again at each start." in caplog.text
    Path(cache.dir).rmdir()


def test_triton_takes_the_folder_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`knobs.cache.dir` is where Triton keeps what it compiles; it reads TRITON_CACHE_DIR until it is set."""
    from triton import knobs
    from triton.runtime.cache import FileCacheManager

    monkeypatch.setenv("TRITON_CACHE_DIR", "/nowhere")
    assert knobs.cache.dir == "/nowhere"
    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path)
        assert FileCacheManager("key").cache_dir == str(tmp_path / "key")
