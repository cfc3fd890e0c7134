"""Where Triton cannot build kernels, the library's modules run."""

import logging

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
