"""Load tools complete a streaming run with pictures and report their measurements."""

import json
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serve_app.settings import DEMO_MODEL
from tests.conformance.environments import client_variables, python_environment, vllm_rs
from tests.conformance.task import MODEL

pytestmark = pytest.mark.conformance

REQUESTS = 6
AT_ONCE = 2
ANSWER_TOKENS = 8
SIDE = 112  # pixels of the made-up pictures
LIMIT_S = 240


def run(command: list[str], folder: Path) -> None:
    ended = subprocess.run(command, cwd=folder, env=client_variables(), capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer for making up prompts: each character is a token.

    Some tools draw token ids, decode them and want the same ids back, which a tokenizer that joins characters
    does not give.
    """
    folder = tmp_path / "characters"
    folder.mkdir()
    vocabulary = {character: index for index, character in enumerate(string.ascii_letters + string.digits)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "decoder": {"type": "Fuse"}, "model": model})
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def one(folder: Path, pattern: str) -> Any:
    (found,) = folder.glob(pattern)
    return json.loads(found.read_text())


VLLM_RUNS = {
    "openai-chat": [
        "--endpoint", "/v1/chat/completions", "--dataset-name", "random-mm", "--random-mm-base-items-per-request", "1",
        "--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}',
        "--random-mm-bucket-config", f"{{({SIDE},{SIDE},1): 1.0}}",
    ],
    "openai-responses": ["--endpoint", "/v1/responses", "--dataset-name", "random"],  # it has no pictures there
    "openai": ["--endpoint", "/v1/completions", "--dataset-name", "random"],
}  # fmt: skip


@pytest.mark.parametrize("backend", VLLM_RUNS)
def test_vllm_bench_serve_completes(base_url: str, tmp_path: Path, tokenizer: Path, backend: str) -> None:
    run(
        [
            str(vllm_rs()), "bench", "serve", "--backend", backend, "--base-url", base_url, *VLLM_RUNS[backend],
            "--model", MODEL, "--tokenizer", str(tokenizer), "--random-input-len", "32",
            "--random-output-len", str(ANSWER_TOKENS), "--temperature", "0", "--seed", "7",
            "--num-prompts", str(REQUESTS), "--max-concurrency", str(AT_ONCE), "--disable-tqdm",
            "--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json",
        ],
        tmp_path,
    )  # fmt: skip
    result = one(tmp_path, "result.json")
    assert (result["completed"], result["failed"]) == (REQUESTS, 0)
    assert result["total_output_tokens"] == REQUESTS * ANSWER_TOKENS  # it asks to ignore the end of the answer
    assert result["mean_ttft_ms"] > 0
    assert result["mean_tpot_ms"] > 0


def test_aiperf_completes(base_url: str, tmp_path: Path, tokenizer: Path) -> None:
    run(
        [
            str(python_environment("aiperf") / "aiperf"), "profile", "-m", MODEL, "--url", base_url,
            "--endpoint-type", "chat", "--streaming", "--tokenizer", f"./{tokenizer.name}",
            "--image-width-mean", str(SIDE), "--image-height-mean", str(SIDE), "--image-format", "jpeg",
            "--synthetic-input-tokens-mean", "32", "--output-tokens-mean", str(ANSWER_TOKENS),
            "--extra-inputs", "temperature:0", "--extra-inputs", "ignore_eos:true",
            "--concurrency", str(AT_ONCE), "--request-count", str(REQUESTS), "--ui", "none", "--artifact-dir", "out",
        ],
        tmp_path,
    )  # fmt: skip
    result = one(tmp_path / "out", "profile_export_aiperf.json")
    assert result["request_count"]["avg"] == REQUESTS
    assert "error_request_count" not in result
    assert result["time_to_first_token"]["count"] == REQUESTS
    assert result["time_to_first_token"]["min"] > 0
    assert result["inter_token_latency"]["avg"] > 0


def test_evalscope_perf_completes(base_url: str, tmp_path: Path) -> None:
    run(
        [
            str(python_environment("evalscope") / "evalscope"), "perf", "--url", f"{base_url}/v1/chat/completions",
            "--api", "openai", "--model", MODEL, "--tokenizer-path", str(DEMO_MODEL), "--dataset", "random_vl",
            "--image-width", str(SIDE), "--image-height", str(SIDE), "--image-num", "1",
            "--min-prompt-length", "32", "--max-prompt-length", "32", "--max-tokens", str(ANSWER_TOKENS),
            "--temperature", "0", "--parallel", str(AT_ONCE), "--number", str(REQUESTS), "--stream",
            "--outputs-dir", str(tmp_path / "out"),
        ],
        tmp_path,
    )  # fmt: skip
    summary = one(tmp_path / "out", "*/*/*/benchmark_summary.json")
    assert (summary["Success Requests"], summary["Failed Requests"]) == (REQUESTS, 0)
    assert summary["Stream Requests"] == REQUESTS
    assert summary["Avg TTFT (ms)"] > 0
