"""The RayService is rendered as KubeRay's operator writes it back, so that later upgrades find nothing changed.

tests/chart/test_kustomize.py compares the overlays of k8s/ with what is rendered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.chart.quantities import canonical
from tests.chart.render import HELMS, Object, every_value_set, rayservice, refusal, render

pytestmark = pytest.mark.chart

CASE = Path(__file__).parent / "cases/quantities-as-people-write-them-values.yaml"

UNITS = ("", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e0", "e3", "E2", "e-2", "e+06")
NUMBERS = st.one_of(
    st.integers(0, 5000).map(str),
    st.decimals(0, 900, places=2).map(str),
    st.sampled_from(("0", "00", "007", ".5", "5.", "+2", "1000", "1024", "2048", "1048576", "0.125", "10.50")),
)
QUANTITIES = st.one_of(
    st.builds(str.__add__, NUMBERS, st.sampled_from(UNITS)).filter(lambda written: _is_at_least_a_nano(written)),
    st.integers(0, 10**7),
    st.floats(0.001, 10**7).map(lambda number: round(number, 3)),
)


def _is_at_least_a_nano(written: str) -> bool:
    try:
        canonical(written)
    except StopIteration:
        return False
    return True


def quantities(node: Any) -> Iterator[tuple[str, Any]]:
    """Every amount of a resource in a part of a manifest, with the name of its field."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in {"requests", "limits"} and isinstance(value, dict):
                yield from value.items()
            elif key in {"sizeLimit", "divisor"}:
                yield key, value
            else:
                yield from quantities(value)
    elif isinstance(node, list):
        for each in node:
            yield from quantities(each)


def not_as_go_writes_it(node: Any, place: str = "") -> Iterator[str]:
    """The fields below a manifest's node that Go's serializer leaves out: null, empty lists, empty values, false."""
    if isinstance(node, dict):
        for key, value in node.items():
            absent = value is None or value == [] or (key == "value" and value == "")
            if absent or (key == "readOnly" and value is False):
                yield f"{place}/{key}"
            yield from not_as_go_writes_it(value, f"{place}/{key}")
    elif isinstance(node, list):
        for index, each in enumerate(node):
            yield from not_as_go_writes_it(each, f"{place}/{index}")


def check(resource: Object) -> None:
    cluster = resource["spec"]["rayClusterConfig"]
    assert {name: amount for name, amount in quantities(cluster) if amount != canonical(amount)} == {}
    assert all(isinstance(amount, str) for _, amount in quantities(cluster))
    assert [group["scaleStrategy"] for group in cluster["workerGroupSpecs"]] == [{}] * len(cluster["workerGroupSpecs"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        assert all("resources" in container for container in [*spec.get("initContainers", []), *spec["containers"]])
    assert list(not_as_go_writes_it(cluster)) == []


@pytest.mark.parametrize("files", every_value_set())
def test_every_value_set_is_rendered_in_the_operators_form(files: tuple[Path, ...]):
    check(rayservice(render(*files)))


@pytest.mark.parametrize("helm", HELMS)
def test_amounts_as_people_write_them_become_canonical(helm: str):
    resource = rayservice(render(CASE, helm=helm))
    check(resource)
    cluster = resource["spec"]["rayClusterConfig"]
    containers = {
        group.get("groupName", "head"): group["template"]["spec"]["containers"][0]["resources"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    }
    assert containers == {
        "head": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "cpu": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"cpu": "2500m", "memory": "4Gi"}},
        "gpu": {
            "requests": {"cpu": "1500m", "memory": "26112Mi", "nvidia.com/gpu": "1"},
            "limits": {"memory": "26112Mi", "nvidia.com/gpu": "1"},
        },
    }
    sizes = {amount for name, amount in quantities(cluster) if name == "sizeLimit"}
    assert sizes == {"512Mi", "10Gi", "1Gi", "60Gi"}


def test_the_autoscalers_and_the_init_containers_amounts_are_canonical_too():
    amounts = {"requests": {"cpu": 0.25, "memory": "0.5Gi"}, "limits": {"memory": "1024Mi"}}
    values = {
        "autoscaler.resources": amounts,
        "modelStorage.fetch.enabled": True,
        "modelStorage.fetch.image": "copy",
        "modelStorage.fetch.resources": amounts,
    }
    resource = rayservice(render(set=values))
    check(resource)
    cluster = resource["spec"]["rayClusterConfig"]
    wanted = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
    assert cluster["autoscalerOptions"]["resources"] == wanted
    assert cluster["workerGroupSpecs"][0]["template"]["spec"]["initContainers"][0]["resources"] == wanted


def test_a_variable_without_a_value_is_written_as_the_operator_writes_it():
    resource = rayservice(render(set={"extraEnv": [{"name": "EMPTY", "value": ""}]}))
    check(resource)
    head = resource["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "EMPTY"} in head["env"]


def test_a_label_without_a_value_stays():
    template = rayservice(render(set={"head.podLabels": {"team": ""}}))["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert template["template"]["metadata"]["labels"]["team"] == ""


@settings(max_examples=6, deadline=None, phases=[Phase.generate])  # helm is too slow to shrink with
@given(written=st.lists(QUANTITIES, min_size=100, max_size=100))
def test_every_amount_is_rendered_as_kubernetes_writes_it(written: list[str | int | float]):
    amounts = {f"example.com/r{index:03}": amount for index, amount in enumerate(written)}
    resource = rayservice(render(set={"autoscaler.resources": {"requests": amounts}}))
    rendered = resource["spec"]["rayClusterConfig"]["autoscalerOptions"]["resources"]["requests"]
    differing = {amount: rendered[name] for name, amount in amounts.items() if rendered[name] != canonical(amount)}
    assert differing == {}


@pytest.mark.parametrize("written", ["2GB", "1 Gi", "-1", "two", "", "0.0000000001", "1.23456789Ti"])
def test_what_is_no_amount_is_refused_in_one_sentence(written: str):
    said = refusal(set={"autoscaler.resources": {"requests": {"cpu": written}}})
    assert written in said
    assert "of a resource" in said
