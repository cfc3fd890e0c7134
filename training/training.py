"""Trains the demo model: python -m training.training --out DIR --minutes 22 --fonts DIR.

One step uses a dense batch of each of the three jobs. The loss is that of the answers, plus, with a decreasing weight,
that of the characters in each patch. Muon updates matrices, AdamW the other parameters; the learning rate follows the
clock, so a run takes the given time. In the last part most forward passes round the text layers to NF4, which keeps the
answers correct with 4-bit weights.
"""

import argparse
import json
import math
import multiprocessing
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Glm4vForConditionalGeneration

from training import fonts
from training.architecture import Reader, create_model, model_config
from training.batches import JOBS, Batch, Drawings
from training.exams import abilities_exam, examine_abilities, examine_jobs, job_exam, kinds
from training.export import export
from training.muon import Muon
from training.nf4 import quantized_weights, rounded_weights
from training.tokenizer import PROCESSOR_FILES, save_processor

# Conversations of each job per step, as multiples of --rows: boards are learnt first and need the fewest.
_ROWS = {"labels": 1.15, "boards": 0.7, "documents": 1.15}
# Share of the drawing processes of each job, by the time that its pictures take.
_SHARES = {"labels": 0.33, "boards": 0.14, "documents": 0.53}


def main() -> None:
    options = _options()
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    font_folder = Path(options.fonts) if options.fonts else None
    if font_folder:
        fonts.search_first(font_folder)
    if options.resume and Path(options.resume).is_dir():
        for name in PROCESSOR_FILES:  # the ids must be those of the weights
            shutil.copy(Path(options.resume) / name, out / name)
    else:
        save_processor(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    config = model_config(tokenizer, options.size)
    exams = {job: job_exam(job, options.exam_rows, tokenizer) for job in JOBS}
    abilities = [abilities_exam(job, options.exam_rows // 4, tokenizer) for job in JOBS]
    strength = multiprocessing.Value("d", 0.0 if not options.resume else 1.0)
    # the drawing processes are forked, which must happen before CUDA is initialized
    streams = {job: _stream(job, options, tokenizer, strength, font_folder) for job in JOBS}
    reader = Reader(create_model(config)).to(options.device)
    run = Run(reader, options)
    if options.resume:
        run.load(Path(options.resume))
    if options.compile:
        reader.compile_blocks()
    log = (out / "training_log.jsonl").open("a", encoding="utf-8")
    next_exam = options.exam_every
    while (progress := run.progress()) < 1:
        strength.value = 1.0 if options.resume else min(1.0, progress / options.wear_until)
        before = time.monotonic()
        batches = [next(streams[job]) for job in JOBS]
        run.waited += time.monotonic() - before
        run.step(batches, progress)
        if run.steps % options.log_every == 0:
            _write(log, run.report(progress))
        if run.elapsed() > next_exam:
            next_exam = run.elapsed() + options.exam_every
            line = {"step": run.steps, "seconds": round(run.elapsed()), "exam": examine_jobs(reader, exams)}
            _write(log, line | {"abilities": examine_abilities(reader, abilities, tokenizer)})
            run.save(out / "checkpoint.pt")
            export(reader.model, config, out)
    run.save(out / "checkpoint.pt")
    export(reader.model, config, out)
    line = {"step": run.steps, "exam": examine_jobs(reader, exams)}
    line["abilities"] = examine_abilities(reader, abilities, tokenizer)
    with rounded_weights(quantized_weights(reader.text)):
        line["exam_nf4"] = examine_jobs(reader, exams)
        line["abilities_nf4"] = examine_abilities(reader, abilities, tokenizer)
    _write(log, line | {"kinds": kinds(reader, exams)})


class Run:
    """The state of one training run: optimizers, clock, checkpoint."""

    def __init__(self, reader: Reader, options: argparse.Namespace) -> None:
        self.reader, self.options = reader, options
        matrices: list[tuple[str, nn.Parameter]] = []
        rest: list[tuple[str, nn.Parameter]] = []
        for name, parameter in reader.named_parameters():
            inside = "blocks." in name or "layers." in name or "merger." in name
            (matrices if parameter.ndim == 2 and inside else rest).append((name, parameter))
        self.muon = Muon(matrices)
        decayed = [p for _, p in rest if p.ndim > 1]
        plain = [p for _, p in rest if p.ndim <= 1]
        self.adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98),
            eps=1e-9,
            fused=options.device == "cuda",
        )  # fmt: skip
        self.quantized = quantized_weights(reader.text)
        self.rng = Random(options.seed)
        self.steps = self.pictures = 0
        self.started = time.monotonic()
        self.waited = 0.0
        self.spotting = True
        self.losses: dict[str, list[Tensor]] = defaultdict(list)

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def progress(self) -> float:
        """From 0 to 1, by the clock or by the number of steps, whichever is larger."""
        clock: float = self.elapsed() / (self.options.minutes * 60)
        return max(clock, self.steps / self.options.steps if self.options.steps else 0.0)

    def step(self, batches: list[Batch], progress: float) -> None:
        rate = _rate(progress, self.steps, self.options.hold)
        rounding = progress > self.options.round_from and self.rng.random() < 0.7
        spot_weight = max(0.05, 0.6 * (1 - progress / 0.5)) if self.spotting else 0.0
        device = self.options.device
        with rounded_weights(self.quantized) if rounding else nullcontext():
            for job, batch in zip(JOBS, batches, strict=True):
                moved = {
                    key: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for key, v in batch.items()
                }
                with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                    answer_loss, spot_loss = loss_of(self.reader, moved)
                ((answer_loss + spot_weight * spot_loss) / len(batches)).backward()
                self.losses[batch["sort"]].append(answer_loss.detach())
                if self.spotting:
                    self.losses[job + "_spots"].append(spot_loss.detach())
                self.pictures += batch["images"].shape[0]
        nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
        self.muon.step(self.options.rate * rate, 0.05)
        for group in self.adam.param_groups:
            group["lr"] = 0.75 * self.options.rate * rate
        self.adam.step()
        self.reader.zero_grad(set_to_none=True)
        self.steps += 1

    def report(self, progress: float) -> dict[str, Any]:
        """A line of the log, with the mean losses since the last one."""
        line: dict[str, Any] = {"step": self.steps, "seconds": round(self.elapsed(), 1), "progress": round(progress, 4)}
        line |= {"pictures_per_s": round(self.pictures / self.elapsed()), "waited_s": round(self.waited, 1)}
        means = {name: round(torch.stack(values).mean().item(), 4) for name, values in sorted(self.losses.items())}
        self.losses.clear()
        return line | means

    def save(self, path: Path) -> None:
        torch.save({"model": self.reader.state_dict(), "steps": self.steps}, path)

    def load(self, path: Path) -> None:
        """Resumes from a checkpoint, or from an exported folder, which has no spotting head."""
        if path.is_dir():
            exported = Glm4vForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
            self.reader.model.load_state_dict(exported.state_dict())
            self.spotting = False
            return
        self.reader.load_state_dict(torch.load(path, map_location=self.options.device)["model"])


def loss_of(reader: Reader, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of the answers, and of the characters in the patches."""
    features = patches = None
    if batch["images"] is not None:
        features, patches = reader.see(batch["images"])
    hidden = reader.read(features, batch["ids"], batch["positions"])
    logits = reader.model.lm_head(hidden.flatten(0, 1)[batch["where"]])
    each = functional.cross_entropy(logits.float(), batch["targets"], reduction="none")
    answer_loss = (each * batch["weights"]).sum() / batch["weights"].sum()
    if patches is None:
        return answer_loss, answer_loss.new_zeros(())
    spots = batch["spots"]
    # an empty patch has the class "no character", id 0; only one in eight of them is in the loss
    empty = (spots[..., 0] < 0) & (torch.rand(spots.shape[:2], device=spots.device) < 0.125)
    first, second = spots[..., 0] >= 0, spots[..., 1] >= 0
    asked = torch.cat((patches[empty], patches[first], patches[second]))
    named = torch.cat((torch.zeros_like(spots[..., 0][empty]), spots[..., 0][first], spots[..., 1][second]))
    return answer_loss, functional.cross_entropy(reader.spotter(asked).float(), named)


def _stream(
    job: str, options: argparse.Namespace, tokenizer: Any, strength: Any, font_folder: Path | None
) -> Iterator[Batch]:
    drawings = Drawings(job, round(options.rows * _ROWS[job]), tokenizer, options.seed, strength, font_folder)
    workers = max(1, round(options.workers * _SHARES[job])) if options.workers else 0
    loader = DataLoader(
        drawings, batch_size=None, num_workers=workers, pin_memory=options.device == "cuda",
        prefetch_factor=2 if workers else None,
    )  # fmt: skip
    return iter(loader)


def _rate(progress: float, steps: int, hold: float) -> float:
    """The learning rate's factor: a short warm-up by steps, a plateau, then a cosine to almost 0."""
    warm = min(1.0, (steps + 1) / 150)
    fall = max(0.0, (progress - hold) / (1 - hold))
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fall)))


def _write(log: Any, line: dict[str, Any]) -> None:
    text = json.dumps(line, ensure_ascii=False)
    print(text, flush=True)
    log.write(text + "\n")
    log.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder of the model, the checkpoint and the log")
    parser.add_argument("--fonts", default="", help="folder with the fonts, searched before the system's")
    parser.add_argument("--minutes", type=float, default=22.0, help="how long to train")
    parser.add_argument("--steps", type=int, default=0, help="stop after these many steps, if earlier")
    parser.add_argument("--rows", type=int, default=48, help="conversations of each job in a step")
    parser.add_argument("--workers", type=int, default=15, help="drawing processes; 0: draw in this one")
    parser.add_argument("--rate", type=float, default=2e-3, help="Muon's peak learning rate")
    parser.add_argument("--hold", type=float, default=0.25, help="part of the run before the rate begins to fall")
    parser.add_argument(
        "--wear-until", type=float, default=0.3, help="part of the run after which pictures are fully degraded"
    )
    parser.add_argument("--round-from", type=float, default=0.6, help="part of the run after which weights are rounded")
    parser.add_argument("--exam-every", type=float, default=60.0, help="seconds between validations")
    parser.add_argument("--exam-rows", type=int, default=128, help="questions a job in a validation")
    parser.add_argument("--log-every", type=int, default=20, help="steps between lines of the log")
    parser.add_argument("--resume", default="", help="checkpoint to resume from; pictures are fully degraded")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="full", choices=("full", "micro"))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
