"""The Hugging Face processor of GLM-4.xV without its video processor, which needs torchvision.

`AutoProcessor` of a GLM-4.xV folder imports the video processor and torchvision with it. The image processor is the
library's own, unchanged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm4v.processing_glm4v import Glm4vProcessor
from transformers.processing_utils import ProcessorMixin


class PictureProcessor(Glm4vProcessor):  # type: ignore[misc]  # mypy skips transformers
    """`Glm4vProcessor` for text and pictures."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image|>", "<|video|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.video_start_id = tokenizer.convert_tokens_to_ids("<|begin_of_video|>")
        self.video_end_id = tokenizer.convert_tokens_to_ids("<|end_of_video|>")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def load_processor(folder: str | Path) -> PictureProcessor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    values = json.loads((Path(folder) / "preprocessor_config.json").read_text(encoding="utf-8"))
    for key in ("image_processor_type", "processor_class"):
        values.pop(key, None)
    return PictureProcessor(Glm4vImageProcessorPil(**values), tokenizer, chat_template=tokenizer.chat_template)
