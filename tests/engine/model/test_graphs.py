"""Buckets of the captured decode steps: everything fits one, and none is much larger than what it holds."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.model.batch import BatchSize
from serve_app.engine.model.chunk_graphs import PIECES, TOKEN_MULTIPLE, chunk_sizes, fitting, padded
from serve_app.engine.model.graphs import length_buckets, row_buckets


@given(st.integers(1, 512), st.data())
def test_every_batch_fits_a_bucket_at_most_half_as_large_again_or_three_rows_larger(
    slots: int, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, slots))
    bucket = next(bucket for bucket in row_buckets(slots) if bucket >= rows)
    assert bucket <= max(rows * 1.5, rows + 3)
    assert row_buckets(slots)[-1] == slots


@given(st.integers(64, 131_072), st.data())
def test_every_length_fits_a_bucket_that_is_at_most_half_as_long_again(context: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, context))
    bucket = next(bucket for bucket in length_buckets(context) if bucket >= length)
    assert bucket <= max(length * 1.5 + 1, 512)
    assert length_buckets(context)[-1] == context


@given(st.integers(1, 300), st.integers(64, 4096), st.data())
def test_a_step_with_chunks_is_padded_to_a_captured_size_with_room_for_its_rows_and_one_piece_more(
    slots: int, most: int, data: st.DataObject
) -> None:
    sizes = chunk_sizes(3, slots, most)
    size = BatchSize(
        3, data.draw(st.integers(1, 1200)), data.draw(st.integers(0, slots)), data.draw(st.integers(1, 20))
    )
    found = fitting(sizes, size)
    if found is None:
        largest = max((one.tokens for one in sizes if (one.rows > 0) == (size.rows > 0)), default=0)
        assert size.tokens > largest or size.pieces >= PIECES
    else:
        assert found.tokens >= size.tokens
        assert found.tokens >= found.rows >= size.rows
        assert found.pieces > size.pieces
        assert found.tokens < 128 + max(size.tokens, found.rows) or found.tokens <= 2 * size.tokens


@given(st.integers(1, 5000), st.integers(1, 40), st.integers(0, 64))
def test_a_launched_step_is_padded_to_few_sizes_with_one_piece_for_the_padding(tokens: int, pieces: int, rows: int):
    found = padded(BatchSize(3, tokens, rows, pieces))
    assert tokens <= found.tokens < max(2 * tokens, tokens + TOKEN_MULTIPLE) or found.tokens == 32
    assert found.tokens in (32, 64) or found.tokens % TOKEN_MULTIPLE == 0
    assert found.pieces - pieces == (found.tokens > tokens)
    assert (found.axes, found.rows) == (3, rows)
