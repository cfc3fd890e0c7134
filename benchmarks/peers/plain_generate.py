"""A server of the simplest kind: `model.generate()` behind FastAPI, one request at a time.

`python -m benchmarks.peers.plain_generate FOLDER PORT`. A lock serializes the calls: `rope_deltas` is an attribute of
the module, so two generations at once would use wrong positions.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from PIL import Image
from transformers import Glm4vForConditionalGeneration, TextIteratorStreamer

from benchmarks.peers.processor import load_processor


def create_app(folder: str) -> FastAPI:
    processor = load_processor(folder)
    model = Glm4vForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    lock = threading.Lock()
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": folder, "object": "model"}]}

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any]) -> StreamingResponse:
        pictures, messages = [], []
        for message in body["messages"]:
            parts: list[dict[str, str]] = []
            for part in message["content"]:
                if part["type"] == "image_url":
                    content = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    pictures.append(Image.open(io.BytesIO(content)).convert("RGB"))
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            messages.append({"role": message["role"], "content": parts})
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = processor(images=pictures, text=[text], return_tensors="pt")
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

        def work() -> None:
            with lock, torch.inference_mode():
                model.generate(**inputs, max_new_tokens=body["max_tokens"], do_sample=False, streamer=streamer)

        def lines() -> Iterator[str]:
            threading.Thread(target=work).start()
            for piece in streamer:
                if piece:
                    yield f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': piece}}]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    uvicorn.run(create_app(options.folder), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
