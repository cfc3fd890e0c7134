"""Buckets of the captured decode steps: everything fits one, and none is much larger than what it holds."""

from hypothesis import given
from hypothesis import strategies as st

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
