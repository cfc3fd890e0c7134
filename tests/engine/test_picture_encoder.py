"""Encoding of pictures: errors, cancelled requests, memory, the share of a step and of the batch lane."""

from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

from serve_app.contracts import Finished, Picture
from serve_app.engine.loop import EngineLoop
from serve_app.engine.memory import is_out_of_memory
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.picture_encoder import BATCH_EVERY
from serve_app.errors import DeadlineExceeded, EngineFailed
from tests.engine.conftest import Bench, CountingModel, picture

Benches = Callable[..., Bench]


def pictures(number: int, first: int = 0, side: int = 28) -> tuple[Picture, ...]:
    return tuple(picture(np.random.default_rng(first + seed), side, side) for seed in range(number))


def job_of_two(end_first: Callable[[Bench], None]) -> Bench:
    """A loop with a job of the pictures of "a" and "b" that was begun, after which "a" ends and the job fails."""
    b = Bench(CountingModel(mixes_prefill_and_decode=True), prefill_tokens=4)
    b.ask("streams", max_tokens=100)  # so that a step has one budget
    b.loop.step()
    shown = pictures(8, side=56)  # 4 tokens each
    b.ask("a", pictures=shown[:4], prompt={"deadline_s": 5.0})
    b.ask("b", pictures=shown[4:])
    b.loop.step()
    assert 0 < len(b.model.encoded) < 8
    end_first(b)
    b.model.broken_pictures = {each.digest for each in shown}
    b.run()
    return b


def test_an_error_of_a_job_ends_only_those_of_its_requests_that_were_not_cancelled() -> None:
    b = job_of_two(lambda b: b.loop.cancel("a"))
    assert (b.terminals("a"), [type(e) for e in b.terminals("b")]) == ([], [EngineFailed])
    assert b.finished("streams")


def test_a_request_that_expired_while_its_pictures_were_encoded_gets_one_error() -> None:
    def expire(b: Bench) -> None:
        b.now = 6.0

    b = job_of_two(expire)
    assert [[type(e) for e in b.terminals(name)] for name in "ab"] == [[DeadlineExceeded], [EngineFailed]]


def test_a_job_whose_requests_were_all_cancelled_ends(bench: Benches) -> None:
    b = Bench(CountingModel(mixes_prefill_and_decode=True), prefill_tokens=4)
    b.ask("streams", max_tokens=8)
    b.loop.step()
    b.ask("a", pictures=pictures(8, side=56))
    b.loop.step()
    begun = len(b.model.encoded)
    b.loop.cancel("a")
    b.run()
    assert 0 < begun < 8
    assert len(b.model.encoded) == begun


def test_a_broken_picture_fails_only_the_requests_that_show_it(bench: Benches) -> None:
    b = bench()
    good, bad, other = pictures(3)
    b.model.broken_pictures = {bad.digest, other.digest}
    b.ask("good", pictures=(good,), max_tokens=2)
    b.ask("bad", pictures=(good, bad, other))
    b.run()
    assert b.text("good") == "BC"
    assert [type(e) for e in b.terminals("bad")] == [EngineFailed]


class NoMemoryAtUpload(CountingModel):
    """Raises before the generator exists, as the upload of pixels does."""

    def encode_slices(self, pictures):  # type: ignore[no-untyped-def]
        if any(each.digest in self.broken_pictures for each in pictures):
            raise torch.OutOfMemoryError("no memory")
        return super().encode_slices(pictures)


@pytest.mark.parametrize("ahead", [False, True])
def test_an_upload_without_memory_fails_only_its_own_request(ahead: bool) -> None:
    b = Bench(NoMemoryAtUpload(ahead))
    good, bad = pictures(2)
    b.model.broken_pictures = {bad.digest}
    b.ask("good", pictures=(good,), max_tokens=2)
    b.ask("bad", pictures=(bad,))
    b.run()
    assert b.text("good") == "BC"
    (error,) = b.terminals("bad")
    assert isinstance(error, EngineFailed)
    assert "memory" in error.message


class UnjoinedFeatures(CountingModel):
    """Gives features that `torch.cat` refuses for prompts of several pictures."""

    def encode_slices(self, pictures):  # type: ignore[no-untyped-def]
        features = yield from super().encode_slices(pictures)
        return [torch.zeros(len(one), 4 + index) for index, one in enumerate(features)]


@pytest.mark.parametrize("cache", [0, 2**20])
def test_features_that_cannot_be_joined_fail_only_their_own_request(bench: Benches, cache: int) -> None:
    b = Bench(UnjoinedFeatures(mixes_prefill_and_decode=True), cache=cache)
    first, second, third = pictures(3)
    for name in ("bad", "from the cache"):
        b.ask(name, pictures=(first, second))
        b.ask(f"good, with {name}", pictures=(third,), max_tokens=2)
        b.run()
        assert [type(e) for e in b.terminals(name)] == [EngineFailed]
        assert b.text(f"good, with {name}") == "BC"


def test_an_error_of_the_encoder_itself_fails_the_requests_that_need_features(bench: Benches) -> None:
    b = bench()
    b.loop._executor._encoder._next_job = None  # type: ignore[method-assign, assignment]
    b.ask("picture", pictures=pictures(1))
    b.ask("text", max_tokens=2)
    b.run()
    assert [type(e) for e in b.terminals("picture")] == [EngineFailed]
    assert b.text("text") == "BC"


class BrokenPreparation(CountingModel):
    def prepare(self, sequence):  # type: ignore[no-untyped-def]
        if sequence.id == "bad":
            raise torch.OutOfMemoryError("no memory")
        super().prepare(sequence)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_request_that_cannot_be_prepared_fails_alone(ahead: bool) -> None:
    b = Bench(BrokenPreparation(ahead))
    b.ask("bad")
    b.ask("good", max_tokens=2)
    b.run()
    assert [type(e) for e in b.terminals("bad")] == [EngineFailed]
    assert (b.text("good"), b.loop.slots_used()) == ("BC", 0)


NO_MEMORY = (
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory",
)


@pytest.mark.parametrize("message", NO_MEMORY)
def test_memory_errors_of_cublas_and_of_the_driver_are_known_and_release_memory(bench: Benches, message: str) -> None:
    b = bench(cache=2**20)
    one, other = pictures(2)
    b.ask("first", pictures=(one,), max_tokens=2)
    b.run()
    assert b.loop._features.bytes > 0
    b.model.refuse_encoding = RuntimeError(message)
    b.ask("big", pictures=(other,))
    b.run()
    (error,) = b.terminals("big")
    assert isinstance(error, EngineFailed)
    assert "memory" in error.message
    assert b.loop._features.bytes == 0


def test_other_errors_are_no_memory_errors() -> None:
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_step_that_has_no_memory_by_cublas_is_repeated(bench: Benches) -> None:
    b = bench()
    b.ask("a", max_tokens=3)
    b.loop.step()
    b.model.out_of_memory_steps, b.model.out_of_memory = 1, RuntimeError(NO_MEMORY[0])
    b.run()
    assert b.text("a") == "BCD"


def test_the_feature_cache_keeps_no_larger_tensor_than_it_counts() -> None:
    cache = FeatureCache(2**20)
    job = torch.arange(40.0).view(10, 4)
    part, _ = job.split([2, 8])
    cache.put("part", part)
    kept = cache.get("part")
    assert kept is not None
    assert torch.equal(kept, part)
    assert kept.untyped_storage().nbytes() == cache.bytes == part.nbytes


def test_pictures_of_one_slice_count_too_and_a_step_ends_at_its_limit() -> None:
    """The tower yields between slices only: small pictures were not counted, and all were encoded in one step."""
    b = Bench(CountingModel(mixes_prefill_and_decode=True), prefill_tokens=20)
    b.ask("streams", max_tokens=20)
    b.loop.step()
    for number in range(3):
        b.ask(f"p{number}", pictures=pictures(1, first=number, side=28 * 20))  # 400 tokens, a job each
    encoded = []
    for _ in range(3):
        b.loop.step()
        encoded.append(len(b.model.encoded))
    assert encoded == [1, 2, 3]


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(0, 40), st.booleans())
@example(1, 31, True)
def test_pictures_of_the_batch_lane_wait_for_a_bounded_number_of_jobs(
    number: int, interactive_before: int, ahead: bool
) -> None:
    b = Bench(CountingModel(ahead), slots=8, prefill_tokens=64)
    seed = iter(range(10_000))

    def ask_interactive() -> None:
        b.ask(f"i{next(seed)}", pictures=pictures(1, first=100 + next(seed), side=28 * 20), max_tokens=1)

    for _ in range(interactive_before):
        ask_interactive()
        b.loop.step()
    background = pictures(number, side=28 * 20)
    b.ask("batch", pictures=background, max_tokens=1, prompt={"lane": "batch"})
    b.loop.step()  # it waits for its turn from here on
    begun = len(b.model.encoded)
    while not {each.digest for each in background} <= set(b.model.encoded):
        for _ in range(8 - b.loop.slots_used() - b.loop.waiting()):  # interactive pictures always wait
            ask_interactive()
        b.loop.step()
        assert len(b.model.encoded) - begun <= BATCH_EVERY * number
    b.run()
    assert isinstance(b.terminals("batch")[0], Finished)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_happens_to_pictures_every_request_ends_once(data: st.DataObject) -> None:
    b = Bench(CountingModel(data.draw(st.booleans())), slots=3, prefill_tokens=7, max_waiting=20, cache=64)
    names = [f"r{index}" for index in range(data.draw(st.integers(1, 8)))]
    known = pictures(5, side=56)
    b.model.broken_pictures = {each.digest for each in data.draw(st.lists(st.sampled_from(known), max_size=3))}
    cancelled = set()
    for name in names:
        shown = tuple(data.draw(st.lists(st.sampled_from(known), max_size=4)))
        lane = data.draw(st.sampled_from(["interactive", "batch"]))
        b.ask(name, b"A" * 5, pictures=shown, max_tokens=3, prompt={"lane": lane})
        for _ in range(data.draw(st.integers(0, 3))):
            b.loop.step()
        if data.draw(st.booleans()):
            cancelled.add(data.draw(st.sampled_from(names)))
            b.loop.cancel(sorted(cancelled)[-1])
    b.run()
    assert b.loop.slots_used() == 0
    for name in names:
        assert len(b.terminals(name)) <= 1
        assert name in cancelled or len(b.terminals(name)) == 1


def loop_of_a_gpu_without_kernels() -> tuple[Bench, EngineLoop]:
    b = Bench(CountingModel(), prefill_tokens=16)
    b.model.device = torch.device("cuda")
    return b, b.loop


def test_a_gpu_without_kernels_reads_long_prompts_in_steps_of_the_budget() -> None:
    b, loop = loop_of_a_gpu_without_kernels()
    b.ask("long", b"x" * 40)
    loop.step()
    assert [chunk[1:] for chunk in b.model.chunks] == [(0, 16)]


def test_a_gpu_without_kernels_encodes_pictures_of_three_quarters_of_the_budget_in_a_step() -> None:
    b, loop = loop_of_a_gpu_without_kernels()
    b.ask("many", b"x" * 40, pictures=pictures(8, side=56))  # 4 tokens each
    loop.step()
    assert len(b.model.encoded) == 3
