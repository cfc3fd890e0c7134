"""`transformers serve` with the processor of processor.py, in bfloat16 on a GPU, in float32 on a CPU.

`python -m benchmarks.peers.transformers_serve FOLDER PORT`
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers.cli.serve import Serve
from transformers.cli.serving.model_manager import ModelManager

from benchmarks.peers.processor import load_processor


def _load_processor(self: ModelManager, model_id_and_revision: str, gguf_file: str | None = None) -> Any:
    return load_processor(model_id_and_revision.split("@", 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    ModelManager._load_processor = _load_processor
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    Serve(force_model=options.folder, host="127.0.0.1", port=options.port, device=device, dtype=dtype)


if __name__ == "__main__":
    main()
