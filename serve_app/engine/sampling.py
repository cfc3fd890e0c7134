"""Drawing the next token of every row at once, each row by its own rules and its own seed.

A row's draw depends on its logits, settings, seed and step alone, never on who shares the batch:
randomness is Gumbel noise hashed from (seed, step, token id), so the same seed gives the same tokens
alone and in company. Order of the rules as in `transformers`: repetition penalty, presence and
frequency penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

import torch

from serve_app.contracts import Sampling
from serve_app.engine.sequence import Sequence

_MASK_63 = (1 << 63) - 1  # all bits but the sign


class Sampler:
    """Draws tokens for the rows of a batch; keeps token counts of rows that use penalties."""

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self._shape = (slots, vocab_size)
        self._device = device
        self._prompt_seen: torch.Tensor | None = None  # (slots, vocab) bool; allocated when first needed
        self._counts: torch.Tensor | None = None  # (slots, vocab) int32

    def begin(self, sequence: Sequence) -> None:
        """Prepare the row of a newly admitted sequence."""
        if not _uses_penalties(sequence.prompt.sampling):
            return
        seen, counts = self._penalty_state()
        seen[sequence.slot] = False
        ids = torch.from_numpy(sequence.prompt.token_ids.astype("int64")).to(self._device)
        seen[sequence.slot, ids] = True
        counts[sequence.slot] = 0

    def draw(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[int | None]:
        """One token id for each row of `logits` (rows, vocab); None where a row is not finite."""
        finite = torch.isfinite(logits.amax(dim=-1))
        if all(_is_greedy(sequence.prompt.sampling) for sequence in sequences):
            token_ids = logits.argmax(dim=-1)
        else:
            token_ids = self._draw_by_rules(logits.float(), sequences)
        # One transfer for both answers.
        drawn = torch.where(finite, token_ids, -1).tolist()
        self._count(drawn, sequences)
        return [token_id if token_id >= 0 else None for token_id in drawn]

    def _draw_by_rules(self, logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
        rules = [sequence.prompt.sampling for sequence in sequences]
        logits = self._penalize(logits, sequences, rules)
        greedy = logits.argmax(dim=-1)
        random_rows = [row for row, rule in enumerate(rules) if rule.temperature > 0]
        if not random_rows:
            return greedy
        chosen = logits[random_rows]  # (random rows, vocab), a copy
        temperatures = [rules[row].temperature for row in random_rows]
        chosen /= torch.tensor(temperatures, device=self._device)[:, None]
        for index, row in enumerate(random_rows):
            _restrict(chosen[index], rules[row])
        keys = [_key(sequences[row].seed, len(sequences[row].generated)) for row in random_rows]
        noise = _gumbel(torch.tensor(keys, dtype=torch.int64, device=self._device), chosen.shape[1])
        greedy[random_rows] = (chosen + noise).argmax(dim=-1)
        return greedy

    def _penalize(self, logits: torch.Tensor, sequences: list[Sequence], rules: list[Sampling]) -> torch.Tensor:
        rows = [row for row, rule in enumerate(rules) if _uses_penalties(rule)]
        if not rows:
            return logits
        prompt_seen, all_counts = self._penalty_state()
        slots = [sequences[row].slot for row in rows]

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=self._device)[:, None]

        counts = all_counts[slots]  # (rows, vocab)
        chosen = logits[rows]
        repetition = column([rules[row].repetition_penalty for row in rows])
        seen = prompt_seen[slots] | (counts > 0)
        chosen = torch.where(seen, torch.where(chosen > 0, chosen / repetition, chosen * repetition), chosen)
        chosen -= column([rules[row].presence_penalty for row in rows]) * (counts > 0)
        chosen -= column([rules[row].frequency_penalty for row in rows]) * counts
        logits = logits.clone()
        logits[rows] = chosen
        return logits

    def _count(self, drawn: list[int], sequences: list[Sequence]) -> None:
        for token_id, sequence in zip(drawn, sequences, strict=True):
            if token_id >= 0 and _uses_penalties(sequence.prompt.sampling):
                self._penalty_state()[1][sequence.slot, token_id] += 1

    def _penalty_state(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._prompt_seen is None or self._counts is None:
            self._prompt_seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
            self._counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
        return self._prompt_seen, self._counts


def _is_greedy(rule: Sampling) -> bool:
    return rule.temperature == 0 and not _uses_penalties(rule)


def _uses_penalties(rule: Sampling) -> bool:
    return rule.presence_penalty != 0 or rule.frequency_penalty != 0 or rule.repetition_penalty != 1


def _restrict(logits: torch.Tensor, rule: Sampling) -> None:
    """Forbid, in place, what top-k and top-p leave out of one row (vocab,); the likeliest always stays."""
    if 0 < rule.top_k < logits.shape[0]:
        smallest_kept = logits.topk(rule.top_k).values[-1]
        logits[logits < smallest_kept] = -torch.inf
    if rule.top_p < 1:
        ordered, order = logits.sort(descending=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        # A token stays while the mass before it is below top_p.
        dropped = (mass - ordered.softmax(dim=-1)) >= rule.top_p
        dropped[0] = False
        logits[order[dropped]] = -torch.inf


def _key(seed: int, step: int) -> int:
    """A signed 64-bit key of one draw, mixed so that neighbouring seeds and steps share nothing."""
    key = _mix((seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 1) & (2**64 - 1))
    return key - 2**64 if key >= 2**63 else key


def _mix(value: int) -> int:
    """SplitMix64's finalizer (Steele, Lea, Flood 2014) on an unsigned 64-bit integer."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return value ^ (value >> 31)


def _gumbel(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise (rows, vocab) hashed from keys (rows,) and token ids; the same on every device."""
    counter = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=keys.device)
    bits = keys[:, None] + counter * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    bits = bits ^ _shift(bits, 31)
    uniform = (_shift(bits, 11).double() + 0.5) * 2.0**-53  # in (0, 1), never 0 or 1
    return -torch.log(-torch.log(uniform)).float()


def _shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Logical shift to the right; int64 has only the arithmetic one."""
    return (bits >> by) & (_MASK_63 >> (by - 1))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
