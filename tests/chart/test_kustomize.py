"""k8s/ is the chart for `kubectl apply -k`: overlays build to the profiles, and none has drifted."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.chart.render import BINARIES, CHART, ROOT, Object, binary, render

pytestmark = pytest.mark.chart

K8S = ROOT / "k8s"


def _generate() -> ModuleType:
    """k8s/generate.py, a program beside the package."""
    spec = importlib.util.spec_from_file_location("k8s_generate", K8S / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _generate()
OVERLAYS = [*generate.OVERLAYS.items()]
# The one that `.ci/tools` brings, and the machine's own where it has one: kustomize differs between them.
KUBECTLS = [str(BINARIES / "kubectl"), *filter(None, [shutil.which("kubectl")])]


def built(folder: Path, kubectl: str | None = None) -> list[Object]:
    """The objects of `kubectl kustomize`."""
    command = [kubectl or str(binary("kubectl")), "kustomize", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return [each for each in yaml.load_all(run.stdout, Loader=yaml.CSafeLoader) if each]


def without_namespace(objects: list[Object]) -> list[Object]:
    """The objects as helm makes them, which leaves the namespace to whoever installs; here it is named."""
    assert {each["metadata"].pop("namespace") for each in objects} == {generate.NAMESPACE}
    return objects


def by_name(objects: list[Object]) -> dict[Any, Object]:
    return {(each["apiVersion"], each["kind"], each["metadata"]["name"]): each for each in objects}


def charts(*value_files: str) -> dict[Any, Object]:
    """The chart's objects under the release name of k8s/, without what is helm's own."""
    objects: dict[Any, Object] = generate.without_helm(render(*value_files, release=generate.RELEASE))
    return objects


def test_all_files_equal_the_rendered_chart():
    assert generate.drift(generate.files()) == []


@pytest.mark.parametrize("kubectl", KUBECTLS)
@pytest.mark.parametrize(("name", "values"), OVERLAYS)
def test_an_overlay_builds_to_the_objects_of_its_profile(name: str, values: str, kubectl: str):
    assert by_name(without_namespace(built(K8S / "overlays" / name, kubectl))) == charts(values)


@pytest.mark.parametrize("kubectl", KUBECTLS)
def test_the_base_builds_to_the_charts_defaults(kubectl: str):
    assert by_name(without_namespace(built(K8S / "base", kubectl))) == charts()


def test_alerts_ask_for_the_namespace_that_the_overlays_name():
    (rules,) = (each for each in built(K8S / "overlays/cluster") if each["kind"] == "PrometheusRule")
    expressions = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert all('namespace="glm"' in each for each in expressions if "namespace=" in each)
    assert rules["metadata"]["namespace"] == "glm"


def test_every_profile_has_its_overlay():
    assert {values for _, values in OVERLAYS} == {path.name for path in CHART.glob("values-*.yaml")}


@pytest.mark.parametrize(("name", "values"), OVERLAYS)
def test_only_hooks_and_the_random_secret_are_left_out(name: str, values: str):
    objects = render(values, release=generate.RELEASE)
    left_out = by_name(objects).keys() - charts(values).keys()
    hooks = {key for key, each in by_name(objects).items() if "helm.sh/hook" in each["metadata"].get("annotations", {})}
    secrets = {key for key in left_out if key[1] == "Secret"}
    assert left_out == hooks | secrets
    assert {key[2] for key in secrets} <= {"glm-vision-serve-redis"}


def test_no_secret_is_committed():
    for path in K8S.rglob("*.yaml"):
        for each in yaml.safe_load_all(path.read_text()):
            assert not isinstance(each, dict) or each.get("kind") != "Secret", path


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name, _ in OVERLAYS)])
def test_every_file_of_a_folder_is_used_and_has_its_kind_in_its_name(folder: str):
    kustomization = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text())
    patches = [each["path"] for each in kustomization.get("patches", []) if "path" in each]
    files = {path.name for path in (K8S / folder).glob("*.yaml")} - {"kustomization.yaml"}
    assert {*kustomization["resources"], *patches} - {"../../base"} == files
    for name in set(kustomization["resources"]) - {"../../base"}:
        content = yaml.safe_load((K8S / folder / name).read_text())
        assert name.removesuffix(".yaml").split("-")[0] == content["kind"].lower()


def test_the_example_of_the_readme_sets_what_it_says(tmp_path: Path):
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("__pycache__"))
    example, client = re.findall(r"```yaml\n(.*?)```", (K8S / "README.md").read_text(), flags=re.DOTALL)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text((example + client).replace("../glm-vision-serve/k8s", "../k8s"))
    objects = {(each["kind"], each["metadata"]["name"]): each for each in built(mine)}

    cluster = objects["RayService", "glm-vision-serve"]["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = {each["template"]["spec"]["containers"][0]["image"] for each in groups}
    assert images == {"registry.example.com/glm-vision-serve:0.1.0-gpu"}
    assert objects["Ingress", "glm-vision-serve"]["spec"]["rules"][0]["host"] == "glm.example.org"
    (rule,) = objects["NetworkPolicy", "glm-vision-serve-operator"]["spec"]["ingress"]
    assert rule["from"][0]["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
    (rule,) = objects["NetworkPolicy", "glm-vision-serve-serve"]["spec"]["ingress"]
    assert [peer["namespaceSelector"]["matchLabels"].popitem()[1] for peer in rule["from"][1:]] == [
        "ingress-nginx",
        "shop",
    ]


def test_the_check_lists_every_difference(tmp_path: Path):
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "helm").symlink_to(CHART)
    (tmp_path / ".tools").symlink_to(BINARIES.parent)
    base = tmp_path / "k8s/base"
    (base / "serviceaccount.yaml").write_text("kind: ServiceAccount\n")
    (base / "rayservice.yaml").unlink()
    (base / "clusterrole.yaml").write_text("kind: ClusterRole\n")
    program = [sys.executable, str(tmp_path / "k8s/generate.py")]

    check = subprocess.run([*program, "--check"], capture_output=True, text=True, timeout=120, check=False)
    assert check.returncode == 1
    assert check.stderr.splitlines() == [
        "k8s/base/clusterrole.yaml does not come from the chart.",
        "k8s/base/rayservice.yaml is missing.",
        "k8s/base/serviceaccount.yaml is out of date.",
        "Run `python k8s/generate.py`.",
    ]
    subprocess.run(program, timeout=120, check=True)
    assert subprocess.run([*program, "--check"], timeout=120, check=False).returncode == 0


def applied(value: Any, operations: list[Object]) -> Any:
    """RFC 6902, as far as the program writes it."""
    made = [copy.deepcopy(value)]
    for each in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in each["path"].split("/")]
        place, step = made, "0"
        for following in steps[1:]:
            place, step = place[int(step) if isinstance(place, list) else step], following
        key = int(step) if isinstance(place, list) and step != "-" else step
        if each["op"] == "remove":
            del place[key]
        elif key == "-":
            place.append(each["value"])
        else:
            assert (each["op"] == "replace") == (isinstance(place, list) or key in place)
            place[key] = each["value"]
    return made[0]


scalars = st.none() | st.booleans() | st.integers() | st.sampled_from(["", "a", "a/b", "~"])
names = st.lists(st.sampled_from("abcd"), unique=True, max_size=4)
named = names.flatmap(
    lambda names: st.tuples(*(st.fixed_dictionaries({"name": st.just(n), "x": scalars}) for n in names))
)
values = st.recursive(
    scalars | named.map(list),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b/c", "~d"]), inner, max_size=3),
    max_leaves=12,
)


@given(values, values)
def test_a_patch_makes_the_new_of_the_old(old: Any, new: Any):
    # As text, because True == 1 in Python and not in YAML.
    made = applied(old, list(generate.patch(old, new)))
    assert json.dumps(made, sort_keys=True) == json.dumps(new, sort_keys=True)


def test_a_patch_says_only_what_differs():
    old = {"a": 1, "groups": [{"name": "cpu", "min": 1}, {"name": "gpu", "min": 1}]}
    new = {"a": 1, "groups": [{"name": "gpu", "min": 2}]}
    assert list(generate.patch(old, new)) == [
        {"op": "remove", "path": "/groups/0"},
        {"op": "replace", "path": "/groups/0/min", "value": 2},
    ]


@pytest.mark.parametrize(
    "text", ["1", "1e3", "0x1F", "0o7", "1_000", "yes", "null", "~", "1.5", "- a", "a: b", "x\ny\n"]
)
def test_a_string_stays_a_string_in_a_written_file(text: str, tmp_path: Path):
    config: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"text": text}}
    (tmp_path / "configmap.yaml").write_text(generate.file_text(config, "a test"))
    (tmp_path / "kustomization.yaml").write_text("resources: [configmap.yaml]\n")
    assert built(tmp_path) == [config]


def test_the_readme_names_every_overlay_and_the_pinned_operator():
    text = (K8S / "README.md").read_text()
    assert all(f"k8s/overlays/{name}" in text for name, _ in OVERLAYS)
    assert "--version 1.7.0" in text
