"""The sampler on a CUDA device: no rule makes the host wait for the logits."""

from collections.abc import Iterator

import pytest
import torch

from serve_app.contracts import Sampling
from serve_app.engine.sampling.sampler import Sampler
from tests.engine.conftest import VOCAB, new_sequence, next_samples

pytestmark = pytest.mark.gpu

RULES = {
    "greedy": Sampling(max_tokens=8, temperature=0.0),
    "no early end": Sampling(max_tokens=8, temperature=0.0, min_tokens=8),
    "random": Sampling(max_tokens=8, temperature=0.7, top_p=0.9, top_k=20, min_p=0.01, seed=1),
    "penalties": Sampling(max_tokens=8, temperature=0.0, presence_penalty=0.5, repetition_penalty=1.1),
    "biases": Sampling(max_tokens=8, temperature=0.0, logit_bias=((65, 2.0),)),
    "logprobs": Sampling(max_tokens=8, temperature=0.0, logprobs=3),
}


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rule", RULES)
def test_sampling_does_not_wait_for_the_device(rule: str, waiting_is_an_error: None) -> None:
    device = torch.device("cuda")
    sampler = Sampler(4, VOCAB, device, frozenset([256, 257]))
    rows = [new_sequence(f"r{slot}", RULES[rule], slot=slot) for slot in range(4)]
    logits = torch.randn(4, VOCAB, device=device)
    for row in rows:
        sampler.prepare_row(row)
    sampler.sample(logits, next_samples(rows)).read()  # what is allocated at first use
    torch.cuda.set_sync_debug_mode("error")
    pending = sampler.sample(logits, next_samples(rows))
    torch.cuda.set_sync_debug_mode("default")
    assert len(pending.read()) == 4
