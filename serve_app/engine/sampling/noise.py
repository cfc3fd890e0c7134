"""Counter-based random numbers: Gumbel noise hashed from seed, step and token id.

The noise of a token does not depend on the other rows of the batch or on the device. The hash is
SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import torch

_MASK_63 = (1 << 63) - 1  # all bits but the sign


def noise_key(seed: int, step: int) -> int:
    """The signed 64-bit key of one step of one sequence, mixed so that keys of neighbours are unrelated."""
    return _signed(_mix((seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + 1) & (2**64 - 1)))


def gumbel(keys: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise (rows, vocab) hashed from keys (rows,) and token ids.

    The token with the largest logit plus noise is a sample from the softmax of the logits (Gumbel-max).
    """
    counter = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=keys.device)
    bits = keys[:, None] + counter * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _signed(0x94D049BB133111EB)
    bits = bits ^ _shift(bits, 31)
    uniform = (_shift(bits, 11).double() + 0.5) * 2.0**-53  # in (0, 1), never 0 or 1
    return -torch.log(-torch.log(uniform)).float()


def _mix(value: int) -> int:
    """SplitMix64's finalizer on an unsigned 64-bit integer."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return value ^ (value >> 31)


def _shift(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Logical shift to the right; int64 has only the arithmetic one."""
    return (bits >> by) & (_MASK_63 >> (by - 1))


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
