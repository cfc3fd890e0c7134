"""Kubernetes quantities as numbers, against the examples of its documentation."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chart.quantities import canonical, quantity, whole

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


def test_the_canonical_form_of_the_examples_of_kubernetes_own_tests():
    # apimachinery, pkg/api/resource/quantity_test.go: TestQuantityParse, TestQuantityString
    examples = {
        **{"0": "0", "0Ki": "0", "0.0": "0", "1": "1", "1000": "1k", "1000m": "1", "1024": "1024", "1080": "1080"},
        **{"100Ki": "100Ki", "1024Ki": "1Mi", "1536Mi": "1536Mi", "2048Mi": "2Gi", ".5Gi": "512Mi", "1.5Gi": "1536Mi"},
        **{"0.1Gi": "107374182400m", "0.5Ki": "512", "1.1Ki": "1126400m", "1.5Ki": "1536"},
        **{"1e3": "1e3", "100E3": "100e3", "1e1": "10", "12e4": "120e3", "1E": "1E", "1000e-3": "1"},
        **{"0.001": "1m", "1u": "1u", "1000n": "1u", "0.25k": "250", "129M": "129M", "128974848": "128974848"},
    }
    assert {written: canonical(written) for written in examples} == examples
    assert [canonical(each) for each in (0.5, 2, 2.5, 1000)] == ["500m", "2", "2500m", "1k"]
