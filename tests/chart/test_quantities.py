"""Kubernetes quantities as numbers, against the examples of its documentation."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chart.quantities import quantity, whole

pytestmark = pytest.mark.chart


def test_the_examples_of_the_documentation():
    # kubernetes.io/docs/concepts/configuration/manage-resources-containers: about the same amount, written four ways
    assert [whole(each) for each in ("128974848", "129e6", "129M", "123Mi")] == [
        128974848,
        129000000,
        129000000,
        128974848,
    ]
    assert quantity("0.1") == quantity("100m") == Fraction(1, 10)
    assert whole("500m") == 1
    assert whole(2) == 2
    assert quantity(".5") == quantity(0.5) == Fraction(1, 2)


@pytest.mark.parametrize("written", ["", "1 Gi", "1gi", "Gi", "1GB", "1.1.1", "e3"])
def test_what_is_no_quantity_is_refused(written: str):
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(written)


@given(st.integers(0, 10**6), st.sampled_from(["", "m", "k", "M", "Gi", "Ti"]))
def test_rounding_up_adds_less_than_one(number: int, suffix: str):
    written = f"{number}{suffix}"
    assert 0 <= whole(written) - quantity(written) < 1
