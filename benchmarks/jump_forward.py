"""How many model steps, and how much time, do drafted tokens save in answers with a JSON schema?

The demo model answers questions of the evaluation set, held to the schemas of the page's three templates (in
the form for the demo model and in the complete one) and to one schema for each job. Each round answers them without
drafts and with drafts, in turns. On a CPU the answers have to be equal. On a GPU other kernels compute drafts, in
bfloat16, so a few answers differ: those that are equal in both turns are compared. Steps are forward passes in which an
answer took part, times are from its first to its last token, medians over rounds of the mean over answers.

    python -m benchmarks.jump_forward
    python -m benchmarks.jump_forward --at-once 4 --rounds 5
    python -m benchmarks.jump_forward --device cuda
    python -m benchmarks.jump_forward --vocabulary cl100k_base.tiktoken

The demo model has 1,821 tokens, GLM's have 151,552. With `--vocabulary`, the steps of one answer to each schema are
counted in the tokens of a tiktoken file: written token by token, with drafts, and with drafts one step ahead, as the
engine runs on a GPU. No model is computed.

The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.evaluation_set import EVALUATION, one_question_per_picture
from benchmarks.report import header
from serve_app.checkpoint import checkpoint_folder
from serve_app.contracts import ChatRequest, Constraint, ImagePart, Message, Picture, Prompt, Sampling, TextPart
from serve_app.engine.loop import EngineLoop
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.model.runner import Runner
from serve_app.engine.model.weights import load
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.replica import build_runner
from serve_app.engine.scheduler import Chunk, Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.metrics import SilentMeter
from serve_app.preprocess.bpe import TiktokenBpe
from serve_app.preprocess.prepare import Preprocessor
from serve_app.settings import ModelSettings, PreprocessSettings

_CONTEXT_TOKENS = 2048
_MAX_TOKENS = 200
_FEATURE_BYTES = 2**28
_AS_JSON = "请用JSON格式输出。"
_TEXT: dict[str, Any] = {"type": "string"}


def schema(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object of these properties, all required but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def template(required: str, optional: str = "") -> dict[str, Any]:
    """The schema of a template of the page (templates.js)."""
    return schema(dict.fromkeys([*required.split(), *optional.split()], _TEXT), tuple(optional.split()))


_BOX = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 4, "maxItems": 4}
SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {  # name: (job, schema)
    "waybill, required fields": ("labels", template("tracking recipient phone address")),
    "waybill": ("labels", template("tracking recipient phone address", "carrier sender")),
    "report, required fields": ("documents", template("title number date party")),
    "report": ("documents", template("title number date party", "stamp result")),
    "invoice, required fields": ("documents", template("title number date party total")),
    "invoice": (
        "documents",
        template("title number date party total", "seller_code buyer buyer_code net tax total_in_words"),
    ),
    "label": (
        "labels",
        schema(
            {
                "waybill": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{12}$"},
                "recipient": {"type": "string", "maxLength": 12},
                "weight_kg": {"type": "number", "minimum": 0, "maximum": 100},
                "fragile": {"type": "boolean"},
            }
        ),
    ),
    "board": (
        "boards",
        schema({"verdict": {"enum": ["合格", "不合格", "复检"]}, "defect": schema({"kind": _TEXT, "box": _BOX})}),
    ),
    "document": (
        "documents",
        schema(
            {
                "title": _TEXT,
                "total": {"type": "integer", "minimum": 0, "maximum": 99999},
                "stamped": {"type": "boolean"},
            }
        ),
    ),
}


ANSWERS: dict[str, dict[str, Any]] = {
    "waybill": {
        "tracking": "SF1350505050",
        "recipient": "周兰琪",
        "phone": "13812345678",
        "address": "上海市浦东新区张江路88号",
        "carrier": "顺丰速运",
        "sender": "王伟",
    },
    "report": {
        "title": "检测报告",
        "number": "WM343215",
        "date": "2022-04-05",
        "party": "华东电器厂",
        "result": "合格",
    },
    "invoice": {
        "title": "增值税专用发票",
        "number": "24312000000012345678",
        "date": "2026-02-28",
        "party": "上海恒达电子有限公司",
        "total": "1130.00",
        "seller_code": "91310000MA1FL0XX0X",
        "buyer": "北京中科仪器有限公司",
        "buyer_code": "91110108MA01XXXX0Y",
        "net": "1000.00",
        "tax": "130.00",
        "total_in_words": "壹仟壹佰叁拾元整",
    },
    "label": {"waybill": "TJ031350505050", "recipient": "周兰琪", "weight_kg": 5.05, "fragile": False},
    "board": {"verdict": "不合格", "defect": {"kind": "虚焊", "box": [500, 800, 585, 890]}},
    "document": {"title": "送货单", "total": 300, "stamped": True},
}


class StepCounter:
    """Counts the forward passes of decoding of each request."""

    def __init__(self, runner: Runner) -> None:
        self.steps: Counter[str] = Counter()
        self._forward = runner.forward
        runner.forward = self._counted  # type: ignore[method-assign]

    def _counted(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        self.steps.update(row.id for row in rows)
        self.steps.update(chunk.sequence.id for chunk in chunks if chunk.drafted)
        return self._forward(rows, chunks)


@dataclass(frozen=True, slots=True)
class Answer:
    """The tokens of an answer, its forward passes besides the prompt's, and seconds from its first token to its last.

    Where steps are launched ahead, one more has been launched before the last token is read.
    """

    token_ids: list[int]
    steps: int
    seconds: float


def answer(loop: EngineLoop, counter: StepCounter, prompts: list[Prompt], at_once: int, drafts: bool) -> list[Answer]:
    """Answer prompts, so many at once."""
    answers = []
    for first in range(0, len(prompts), at_once):
        sequences: list[Sequence] = []
        for prompt in prompts[first : first + at_once]:
            ended: list[Any] = []
            sequence = loop.admission.admit(prompt, ended.append)
            if not drafts:
                sequence.drafter = None
            loop.submit(sequence)
            sequences.append(sequence)
        counter.steps.clear()
        while loop.step():
            pass
        for sequence in sequences:
            seconds = sequence.stages_ms["decode_steps"] / 1e3
            answers.append(Answer(sequence.generated, counter.steps[sequence.id], seconds))
    return answers


class Script:
    """A model that writes given tokens; counts the steps of decoding."""

    context_tokens, device = _CONTEXT_TOKENS, torch.device("cpu")

    def __init__(self, token_ids: list[int], vocab_size: int, ahead: bool) -> None:
        self.mixes_prefill_and_decode = ahead
        self.vocab_size, self.stop_ids = vocab_size, frozenset([vocab_size - 1])
        self.steps = 0
        self._token_ids = token_ids

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        return np.zeros((1, len(prompt.token_ids)), dtype=np.int64), 0

    def page_keys(self, prompt: Prompt) -> list[bytes]:
        return []

    def prepare(self, sequence: Sequence) -> None:
        """Nothing."""

    def device_bytes(self, sequence: Sequence, piece_tokens: int) -> int:
        return 0

    def encode_slices(self, pictures: list[Picture]) -> Generator[int, None, list[torch.Tensor]]:
        yield from ()
        return []

    def keep(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Nothing."""

    def erase(self, sequence: Sequence, pages: list[int]) -> None:
        """Nothing."""

    def drafts_save_time(self, rows: int, drafts: list[Chunk], with_prompts: bool) -> bool:
        return True

    def forward(self, rows: list[Sequence], chunks: list[Chunk]) -> torch.Tensor:
        places = [len(row.generated) + row.in_flight for row in rows]
        for chunk in chunks:
            first = chunk.start - chunk.sequence.prompt_tokens + 1 if chunk.drafted else 0
            places += range(first, first + chunk.logits)
        self.steps += bool(rows) or any(chunk.drafted for chunk in chunks)
        logits = torch.zeros(len(places), self.vocab_size)
        for row, place in enumerate(places):
            logits[row, self._token_ids[place] if place < len(self._token_ids) else self.vocab_size - 1] = 1.0
        return logits


def count_steps(vocabulary: TiktokenBpe, form: dict[str, Any], token_ids: list[int], ahead: bool, drafts: bool) -> int:
    """Steps in which an answer is written; every token but the first takes one without drafts."""
    token_bytes = [b""] * (vocabulary.largest_id + 2)
    for token, token_id in vocabulary.ranks.items():
        token_bytes[token_id] = token
    model = Script(token_ids, len(token_bytes), ahead)
    loop = EngineLoop(model, Vocabulary(token_bytes), Scheduler(1, 1024, 1), FeatureCache(0), SilentMeter())
    sampling = Sampling(max_tokens=len(token_ids) + 300, temperature=0.0)
    constraint = Constraint("json_schema", json.dumps(form))
    ids = np.array([1], dtype=np.int32)
    sequence = loop.admission.admit(Prompt("a", ids, (), sampling, 60.0, constraint=constraint), lambda event: None)
    if not drafts:
        sequence.drafter = None
    loop.submit(sequence)
    while loop.step():
        pass
    loop.admission.grammars.close()
    assert sequence.generated == token_ids, "The answer is not the one of the script."
    return model.steps


def count_by_vocabulary(path: Path) -> Iterator[dict[str, Any]]:
    """A row for each schema that has an answer: its tokens; steps without drafts, with them, and with them ahead."""
    vocabulary = TiktokenBpe(path)
    for name, fields in ANSWERS.items():
        token_ids = vocabulary.encode(json.dumps(fields, ensure_ascii=False))
        modes = ((False, False), (False, True), (True, True))
        steps = [count_steps(vocabulary, SCHEMAS[name][1], token_ids, ahead, drafts) for ahead, drafts in modes]
        yield {"schema": name, "tokens": len(token_ids), "steps": steps}


async def prepare(model: ModelSettings, per_schema: int) -> dict[str, list[Prompt]]:
    """Prompts by schema, greedy ones and seeded ones in turn."""
    preprocessor = Preprocessor(model, PreprocessSettings(), SilentMeter())
    prompts: dict[str, list[Prompt]] = {}
    for name, (job, form) in SCHEMAS.items():
        constraint = Constraint("json_schema", json.dumps(form))
        questions = [question for question in one_question_per_picture() if question.job == job][:per_schema]
        prompts[name] = []
        for index, question in enumerate(questions):
            parts = ImagePart((EVALUATION / question.picture).read_bytes()), TextPart(_AS_JSON)
            sampling = Sampling(max_tokens=_MAX_TOKENS, temperature=float(index % 2), seed=index)
            request = ChatRequest(f"{name}-{index}", (Message("user", parts),), sampling, constraint=constraint)
            prompts[name].append(await preprocessor.prepare(request))
    return prompts


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each schema."""
    settings = ModelSettings(device=options.device)
    prompts = asyncio.run(prepare(settings, options.answers))
    loaded = load(checkpoint_folder(settings), settings)
    slots, runner, pool = build_runner(loaded.model, options.at_once, _CONTEXT_TOKENS, _FEATURE_BYTES)
    runner.compile_kernels()
    runner.capture_graphs()
    counter = StepCounter(runner)
    features = FeatureCache(_FEATURE_BYTES)  # pictures are encoded once
    scheduler = Scheduler(slots, 1024, options.at_once, pool)
    loop = EngineLoop(runner, loaded.vocabulary, scheduler, features, SilentMeter())
    try:
        for name, asked in prompts.items():
            turns: list[list[tuple[Answer, Answer]]] = []  # of each round, the answers without and with drafts
            for turn in range(options.rounds + 1):  # the first one is a warm-up
                again = [replace(prompt, id=f"{prompt.id}-{turn}") for prompt in asked]
                without, with_drafts = (
                    answer(loop, counter, again, options.at_once, drafts) for drafts in (False, True)
                )
                pairs = zip(without, with_drafts, strict=True)
                turns.append([(a, b) for a, b in pairs if a.token_ids == b.token_ids])
                assert len(turns[-1]) == len(asked) or options.device != "cpu", f"The answers of {name} differ."
            del turns[0]
            if not all(turns):
                raise SystemExit(f"No answer of {name} is equal with and without drafts, so none can be compared.")
            seconds = [
                statistics.median(statistics.mean(pair[drafts].seconds for pair in equal) for equal in turns)
                for drafts in (0, 1)
            ]
            yield {
                "schema": name,
                "equal_answers": round(min(map(len, turns)) / len(asked), 3),
                "tokens": round(statistics.mean(len(pair[0].token_ids) for pair in turns[0]), 1),
                "steps": [round(statistics.mean(pair[drafts].steps for pair in turns[0]), 1) for drafts in (0, 1)],
                "decode_ms": [round(each * 1e3, 1) for each in seconds],
                "faster": round(seconds[0] / seconds[1], 3),
            }
    finally:
        loop.admission.grammars.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m benchmarks.jump_forward",
    )
    parser.add_argument("--answers", type=int, default=8, help="answers of each schema and round (default: 8)")
    parser.add_argument("--at-once", type=int, default=1, help="answers that decode at once (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up (default: 3)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--vocabulary", type=Path, help="count steps in the tokens of this tiktoken file")
    options = parser.parse_args()
    rows = []
    for row in count_by_vocabulary(options.vocabulary) if options.vocabulary else measure(options):
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    settings = {key: getattr(value, "name", value) for key, value in vars(options).items()}
    result = header("jump_forward", ["torch", "llguidance"]) | {"settings": settings, "schemas": rows}
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
