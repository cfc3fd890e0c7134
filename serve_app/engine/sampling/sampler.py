"""Sampler: the next token of every row of a batch, each with its own parameters and seed.

A row's token depends only on its logits, parameters, seed and step, not on the rest of the batch. Rows of one
sequence follow each other: each is sampled as if the drafted tokens before it had been accepted. Order of the
steps: logit bias, repetition penalty, presence and frequency penalty, forbidden tokens (end tokens before
`min_tokens`, tokens that the constraint excludes), temperature, top-k, top-p, min-p. Steps that `transformers`
also has are in its order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.contracts import Sampling, TokenLogprob
from serve_app.engine.output.detokenizer import Vocabulary
from serve_app.engine.sampling.noise import gumbel, noise_key
from serve_app.engine.sampling.transfer import HostCopy, to_device
from serve_app.engine.sequence import Sample, Sequence
from serve_app.engine.structured.masks import TokenMasks
from serve_app.errors import EngineFailed, ServiceError


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The sampled token of a row, and its log probability before sampling parameters, if requested."""

    token_id: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class PendingTokens:
    """Sampled tokens, still on the device: the next step can use them before the host has read them."""

    token_ids: torch.Tensor  # (rows,) int64
    read: Callable[[], list[SampledToken | ServiceError]]  # waits for the device; a result for each row


class Sampler:
    """Samples tokens for the rows of a batch; keeps the penalty state and biases of each slot."""

    def __init__(
        self,
        slots: int,
        vocab_size: int,
        device: torch.device,
        stop_ids: frozenset[int] = frozenset(),
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self._shape = (slots, vocab_size)
        self._device = device
        self._stop_ids = self._tensor(sorted(stop_ids))
        self._impossible = torch.tensor(-torch.inf, device=device)
        self._token_bytes = vocabulary.token_bytes if vocabulary is not None else [b""] * vocab_size
        self._biases: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by slot: (token ids, biases)
        self._prompt_seen: torch.Tensor | None = None  # (slots, vocab) bool; allocated when first needed
        self._counts: torch.Tensor | None = None  # (slots, vocab) int32

    def prepare_row(self, sequence: Sequence) -> None:
        """Reset the state of the slot of a newly admitted sequence."""
        rule = sequence.prompt.sampling
        self._biases.pop(sequence.slot, None)
        if bias := dict(rule.logit_bias):
            self._biases[sequence.slot] = self._tensor(list(bias)), self._tensor(list(bias.values())).float()
        if not _uses_penalties(rule):
            return
        seen, counts = self._penalty_state()
        seen[sequence.slot] = False
        seen[sequence.slot].index_fill_(0, self._tensor(sequence.prompt.token_ids.tolist()), True)
        counts[sequence.slot] = 0

    def sample(self, logits: torch.Tensor, samples: list[Sample], masks: TokenMasks | None = None) -> PendingTokens:
        """One token for each row of `logits` (rows, vocab), which stay as they are; does not wait for the device.

        The result of a row is an error if its logits are not finite or its constraint failed.
        """
        finite = torch.isfinite(logits.amax(dim=-1))
        sequences = [sample.sequence for sample in samples]
        forced_tokens = _forced_token_ids(sequences, masks)
        if masks is None and not forced_tokens and all(_is_greedy(sequence) for sequence in sequences):
            token_ids = logits.argmax(dim=-1)
        else:
            token_ids = self._sample_by_rules(logits, samples, masks)
            if forced_tokens:
                token_ids.index_copy_(0, self._tensor(list(forced_tokens)), self._tensor(list(forced_tokens.values())))
        self._count(token_ids, samples)
        logprobs = self._logprobs(logits, token_ids, sequences)
        copied = HostCopy(torch.where(finite, token_ids, -1))
        failed = {} if masks is None else masks.failed

        def read() -> list[SampledToken | ServiceError]:
            found = logprobs()
            not_numbers = EngineFailed("The model produced infinite or NaN logits for this request.")
            return [
                not_numbers if token_id < 0 else failed.get(row) or SampledToken(token_id, found.get(row))
                for row, token_id in enumerate(copied.read().tolist())
            ]

        return PendingTokens(token_ids, read)

    def _sample_by_rules(self, logits: torch.Tensor, samples: list[Sample], masks: TokenMasks | None) -> torch.Tensor:
        sequences = [sample.sequence for sample in samples]
        rules = [sequence.prompt.sampling for sequence in sequences]
        logits = logits.to(torch.float32, copy=True)
        for row, sequence in enumerate(sequences):
            if sequence.slot in self._biases:
                ids, added = self._biases[sequence.slot]
                logits[row].index_add_(0, ids, added)
        self._penalize(logits, samples)
        if (early := [row for row, sequence in enumerate(sequences) if _below_min_tokens(sequence)]) and len(
            self._stop_ids
        ):
            # On the device: to assign a number would copy it there, and wait for the logits.
            logits.index_put_((self._tensor(early)[:, None], self._stop_ids), self._impossible)
        if masks is not None:
            _apply_masks(logits, masks.rows, forbidden_tokens(masks.bits, logits.shape[1], self._device))
        token_ids = logits.argmax(dim=-1)
        if random_rows := [row for row, rule in enumerate(rules) if rule.temperature > 0]:
            indices = self._tensor(random_rows)
            chosen = logits if len(random_rows) == len(rules) else logits.index_select(0, indices)
            chosen_rules = [rules[row] for row in random_rows]
            chosen /= self._tensor([rule.temperature for rule in chosen_rules])[:, None]
            filter_top(chosen, chosen_rules)
            keys = [noise_key(sequences[row].seed, samples[row].index) for row in random_rows]
            chosen += gumbel(self._tensor(keys), chosen.shape[1])
            token_ids.index_copy_(0, indices, chosen.argmax(dim=-1))
        return token_ids

    def _penalize(self, logits: torch.Tensor, samples: list[Sample]) -> None:
        rows = [row for row, sample in enumerate(samples) if _uses_penalties(sample.sequence.prompt.sampling)]
        if not rows:
            return
        rules = [samples[row].sequence.prompt.sampling for row in rows]
        indices, slots = self._tensor(rows), self._tensor([samples[row].sequence.slot for row in rows])
        prompt_seen, all_counts = self._penalty_state()
        counts = all_counts.index_select(0, slots)  # (rows, vocab)
        if drafted := [(place, token_id) for place, row in enumerate(rows) for token_id in samples[row].drafted]:
            places, token_ids = self._tensor(drafted).unbind(1)
            counts.index_put_((places, token_ids), torch.ones_like(places, dtype=counts.dtype), accumulate=True)
        chosen = logits.index_select(0, indices)
        repetition = self._tensor([rule.repetition_penalty for rule in rules])[:, None]
        seen = prompt_seen[slots] | (counts > 0)
        chosen = torch.where(seen, torch.where(chosen > 0, chosen / repetition, chosen * repetition), chosen)
        chosen -= self._tensor([rule.presence_penalty for rule in rules])[:, None] * (counts > 0)
        chosen -= self._tensor([rule.frequency_penalty for rule in rules])[:, None] * counts
        logits.index_copy_(0, indices, chosen)

    def _logprobs(
        self, logits: torch.Tensor, token_ids: torch.Tensor, sequences: list[Sequence]
    ) -> Callable[[], dict[int, TokenLogprob]]:
        wanted = {
            row: count
            for row, sequence in enumerate(sequences)
            if (count := sequence.prompt.sampling.logprobs) is not None
        }
        if not wanted:
            return dict
        indices, counts = self._tensor(list(wanted)), list(wanted.values())
        copied = HostCopy(
            logprob_table(logits.index_select(0, indices), token_ids.index_select(0, indices), max(counts))
        )
        return lambda: dict(zip(wanted, token_logprobs(copied.read(), counts, self._token_bytes), strict=True))

    def _count(self, token_ids: torch.Tensor, samples: list[Sample]) -> None:
        rows = [row for row, sample in enumerate(samples) if _uses_penalties(sample.sequence.prompt.sampling)]
        if rows:
            slots = self._tensor([samples[row].sequence.slot for row in rows])
            counts = self._penalty_state()[1]
            chosen = token_ids.index_select(0, self._tensor(rows))
            accepted = self._accepted(token_ids, samples).index_select(0, self._tensor(rows)).to(counts.dtype)
            counts.index_put_((slots, chosen), accepted, accumulate=True)

    def _accepted(self, token_ids: torch.Tensor, samples: list[Sample]) -> torch.Tensor:
        """Bool (rows,): whether the drafted tokens before each row are those that were sampled."""
        if not any(sample.drafted for sample in samples):
            return torch.ones(len(samples), dtype=torch.bool, device=self._device)
        drafted = self._tensor([sample.drafted[-1] if sample.drafted else -1 for sample in samples])
        refused = ((token_ids.roll(1) != drafted) & (drafted >= 0)).cumsum(0)  # up to each row, of all sequences
        firsts = self._tensor([row - len(sample.drafted) for row, sample in enumerate(samples)])
        return refused == refused.index_select(0, firsts)

    def _penalty_state(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._prompt_seen is None or self._counts is None:
            self._prompt_seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
            self._counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
        return self._prompt_seen, self._counts

    def _tensor(self, values: list[int] | list[float] | list[tuple[int, int]]) -> torch.Tensor:
        return to_device(values, self._device)


def forbidden_tokens(bits: NDArray[np.int32], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Bool (rows, vocab): True where masks of 32-bit words (rows, words), lowest bit first, have a 0."""
    octets = bits.view(np.uint8)  # the lowest first, on every machine that torch runs on
    if device.type == "cpu":  # a tenth of the time that torch takes for a small vocabulary
        forbidden = np.unpackbits(~octets, axis=1, count=vocab_size, bitorder="little")
        return torch.from_numpy(forbidden.view(np.bool_))
    on_device = torch.from_numpy(octets).pin_memory().to(device, non_blocking=True)
    return unpacked(on_device).logical_not_()[:, :vocab_size]


def unpacked(octets: torch.Tensor) -> torch.Tensor:
    """The bits of bytes (rows, bytes), lowest first, as bool (rows, 8 * bytes)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=octets.device)
    return ((octets[:, :, None] >> shifts) & 1).ne(0).flatten(1)


def _apply_masks(logits: torch.Tensor, rows: list[int], forbidden: torch.Tensor) -> None:
    """Set the logits of forbidden tokens to -inf, in place: bool (len(rows), vocab) for rows of (batch, vocab)."""
    if len(rows) == logits.shape[0]:
        logits.masked_fill_(forbidden, -torch.inf)
    else:
        indices = to_device(rows, logits.device)
        logits.index_copy_(0, indices, logits.index_select(0, indices).masked_fill_(forbidden, -torch.inf))


def filter_top(logits: torch.Tensor, rules: list[Sampling]) -> None:
    """Apply top-k, top-p and min-p to each row (rows, vocab), in place; the most likely token always stays."""
    vocab_size = logits.shape[1]
    rows = [row for row, rule in enumerate(rules) if 0 < rule.top_k < vocab_size or rule.top_p < 1]
    if rows:
        top_k = [rules[row].top_k if 0 < rules[row].top_k < vocab_size else vocab_size for row in rows]
        top_p = [rules[row].top_p if rules[row].top_p < 1 else math.inf for row in rows]
        # Stable: which of equal tokens stays must not depend on the batch.
        indices = to_device(rows, logits.device)
        ordered, order = logits.index_select(0, indices).sort(dim=-1, descending=True, stable=True)
        smallest_kept = ordered.gather(1, to_device(top_k, logits.device)[:, None] - 1)
        ordered = ordered.masked_fill(ordered < smallest_kept, -torch.inf)
        mass = ordered.softmax(dim=-1)
        # A token stays while the mass before it is below top_p.
        dropped = (mass.cumsum(dim=-1) - mass) >= to_device(top_p, logits.device)[:, None]
        dropped[:, 0] = False
        ordered = ordered.masked_fill(dropped, -torch.inf)
        logits.index_copy_(0, indices, torch.empty_like(ordered).scatter_(1, order, ordered))
    if rows := [row for row, rule in enumerate(rules) if rule.min_p > 0]:
        indices = to_device(rows, logits.device)
        least = to_device([math.log(rules[row].min_p) for row in rows], logits.device)[:, None]
        chosen = logits.index_select(0, indices)
        kept = chosen.masked_fill(chosen < chosen.amax(dim=-1, keepdim=True) + least, -torch.inf)
        logits.index_copy_(0, indices, kept)


def logprob_table(logits: torch.Tensor, token_ids: torch.Tensor, top: int) -> torch.Tensor:
    """Of each row of raw `logits` (rows, vocab): sampled id, its logprob, ids and logprobs of the `top` likeliest.

    Log-softmax in float32; (rows, 2 + 2 * top) in float64, which holds ids and logprobs exactly.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    best = logprobs.topk(min(max(1, top), logprobs.shape[1]), dim=-1)
    sampled = logprobs.gather(1, token_ids[:, None])
    return torch.cat([column.double() for column in (token_ids[:, None], sampled, best.indices, best.values)], dim=1)


def token_logprobs(table: torch.Tensor, top: list[int], token_bytes: list[bytes]) -> list[TokenLogprob]:
    """The rows of a `logprob_table`, each with as many of the likeliest tokens as `top` says.

    The sampled token takes the place of the last one if it is not among them, as with vLLM.
    """
    width, found = (table.shape[1] - 2) // 2, []
    for (token_id, logprob, *likeliest), count in zip(table.tolist(), top, strict=True):
        ids = [int(value) for value in likeliest[:count]]
        values = likeliest[width : width + count]
        if ids and int(token_id) not in ids:
            ids[-1], values[-1] = int(token_id), logprob
        tops = tuple((index, token_bytes[index], value) for index, value in zip(ids, values, strict=True))
        found.append(TokenLogprob(int(token_id), token_bytes[int(token_id)], logprob, tops))
    return found


def _forced_token_ids(sequences: list[Sequence], masks: TokenMasks | None) -> dict[int, int]:
    """Forced tokens by row, without those that a constraint excludes."""
    return {
        row: token_id
        for row, sequence in enumerate(sequences)
        if (token_id := sequence.forced_token) is not None and (masks is None or masks.allows(row, token_id))
    }


def _is_greedy(sequence: Sequence) -> bool:
    """Whether an unconstrained row takes the most likely token of the unchanged logits."""
    rule = sequence.prompt.sampling
    return rule.temperature == 0 and not (_uses_penalties(rule) or rule.logit_bias or _below_min_tokens(sequence))


def _below_min_tokens(sequence: Sequence) -> bool:
    return len(sequence.generated) < sequence.prompt.sampling.min_tokens


def _uses_penalties(rule: Sampling) -> bool:
    return rule.presence_penalty != 0 or rule.frequency_penalty != 0 or rule.repetition_penalty != 1
