"""vLLM's `LLM` class and transformers' `generate()` on the requests of benchmarks/engine.py, without HTTP.

`python -m benchmarks.peers.offline vllm --batches 1 8 --new-tokens 128 --side 1120`. Random weights in the 9B shape; a
batch is generated twice, with one new token and with all, and the second time counts. The last line on stdout is one
JSON object with seconds by batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TEXT_TOKENS = 208
PATCH, MERGE = 14, 2


def vllm_generate(options: argparse.Namespace) -> Callable[[int, int], int]:
    """Generates (batch, new tokens) by vLLM; returns the number of generated tokens."""
    import torch
    from PIL import Image
    from vllm import LLM, SamplingParams

    from benchmarks.random_model import write_folder

    folder = Path(tempfile.mkdtemp())
    write_folder(folder, options.tiny, torch.device("cpu"), weights=False)
    llm = LLM(
        model=str(folder),
        load_format="dummy",
        dtype="bfloat16",
        max_model_len=8192,
        gpu_memory_utilization=0.85,
        limit_mm_per_prompt={"image": 1, "video": 0},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        max_num_seqs=128,
    )
    rng = np.random.default_rng(0)
    text = (
        "[gMASK]<sop><|user|>\n<|begin_of_image|><|image|><|end_of_image|>"
        + "a" * (TEXT_TOKENS - 10)
        + "<|assistant|>\n"
    )

    def generate(batch: int, new_tokens: int) -> int:
        pictures = [rng.integers(0, 255, (options.side, options.side, 3), dtype=np.uint8) for _ in range(batch)]
        requests = [{"prompt": text, "multi_modal_data": {"image": Image.fromarray(each)}} for each in pictures]
        rules = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
        return sum(len(each.outputs[0].token_ids) for each in llm.generate(requests, rules, use_tqdm=False))

    return generate


def transformers_generate(options: argparse.Namespace) -> Callable[[int, int], int]:
    """Generates (batch, new tokens) by transformers, on the GPU if there is one; pictures are patches already."""
    import torch

    from benchmarks.random_model import IMAGE_TOKEN, random_module

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    module = random_module(options.tiny, device, dtype).eval()
    grid = options.side // PATCH
    generator = torch.Generator().manual_seed(0)

    def generate(batch: int, new_tokens: int) -> int:
        text = torch.randint(0, 151329, (batch, TEXT_TOKENS), generator=generator)
        images = torch.full((batch, (grid // MERGE) ** 2), IMAGE_TOKEN)
        ids = torch.cat([text[:, :5], images, text[:, 5:]], dim=1).to(device)
        patches = torch.randn(batch * grid**2, 3 * 2 * PATCH**2, generator=generator).to(device, dtype)
        with torch.inference_mode():
            output = module.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == IMAGE_TOKEN).int(),
                pixel_values=patches,
                image_grid_thw=torch.tensor([[1, grid, grid]] * batch, device=device),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
            )
        return int(output.shape[0] * (output.shape[1] - ids.shape[1]))

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["vllm", "transformers"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--side", type=int, default=1120)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    generate = {"vllm": vllm_generate, "transformers": transformers_generate}[options.peer](options)
    results: dict[str, Any] = {}
    for batch in options.batches:
        seconds = {}
        for _ in range(2):
            for new_tokens in (1, options.new_tokens):
                started = time.perf_counter()
                assert generate(batch, new_tokens) == batch * new_tokens
                seconds[new_tokens] = time.perf_counter() - started
        first_s, total_s = seconds[1], seconds[options.new_tokens]
        results[str(batch)] = {
            "first_token_s": round(first_s, 4),  # of the whole batch
            "latency_s": round(total_s, 3),
            "ms_per_step": round((total_s - first_s) / max(1, options.new_tokens - 1) * 1e3, 2),
            "tokens_per_s": round(batch * options.new_tokens / total_s, 1),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
