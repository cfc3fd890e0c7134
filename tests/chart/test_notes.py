"""What the chart says to whoever installs it, and the question that `helm test` asks."""

from __future__ import annotations

import base64
import json
import re
import subprocess

import pytest

from tests.chart.render import CHART, NAMESPACE, RELEASE, ROOT, binary, of_kind, profile, rayservice, render

pytestmark = pytest.mark.chart
TRACKING = {"picture": "labels-002.jpg", "kind": "tracking"}


def notes(*arguments: str) -> str:
    """helm 3 writes them only with a cluster at hand."""
    command = [binary("helm4"), "install", RELEASE, CHART, "--namespace", NAMESPACE, "--dry-run=client", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.partition("\nNOTES:\n")[2]


def test_helm_test_asks_about_a_picture_of_the_evaluation_set() -> None:
    objects = profile("cpu-demo")
    (pod,) = of_kind(objects, "Pod")
    (picture,) = [each for each in of_kind(objects, "ConfigMap") if "label.jpg" in each.get("binaryData", {})]
    content = base64.b64decode(picture["binaryData"]["label.jpg"])
    assert content == (ROOT / "benchmarks/evaluation/labels-002.jpg").read_bytes()
    (container,) = pod["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["URL"] == "http://glm-glm-vision-serve-serve-svc:8000"
    lines = (ROOT / "benchmarks/evaluation/questions.jsonl").read_text().splitlines()
    (truth,) = [each["answer"] for each in map(json.loads, lines) if TRACKING.items() <= each.items()]
    assert re.fullmatch(environment["EXPECTED"], truth)


def test_in_incremental_upgrades_helm_test_has_a_service_of_its_own() -> None:
    objects = render("ci/incremental-upgrade-values.yaml")
    (service,) = of_kind(objects, "Service")
    (pod,) = of_kind(objects, "Pod")
    assert {"name": "URL", "value": f"http://{service['metadata']['name']}:8000"} in pod["spec"]["containers"][0]["env"]
    (group, *_) = rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert service["spec"]["selector"].items() <= group["template"]["metadata"]["labels"].items()


def test_the_notes_say_where_to_ask() -> None:
    assert "port-forward svc/glm-glm-vision-serve-serve-svc 8000" in notes()
    values = str(CHART / "values-cluster.yaml")
    assert 'glm-serve ask --url https://glm.example.com picture.jpg "What is this?"' in notes("--values", values)
    assert "https://glm.example.com" in notes("--values", str(CHART / "ci/gateway-route-values.yaml"))
    assert "get gateway glm-glm-vision-serve-gateway" in notes(
        "--values", str(CHART / "ci/incremental-upgrade-values.yaml")
    )


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("values-cpu-demo.yaml", "No pod except `helm test` may call the service"),
        ("ci/nginx-limits-values.yaml", "and the ingress controller or gateway, in\n     networkPolicy.clients"),
        ("values-cpu-demo.yaml", "The demo model reads only labels"),
        ("values-single-24g.yaml", "can be mounted on one node only"),
        ("values-single-24g.yaml", "delete raycluster"),
        ("values-single-24g.yaml", "set faultTolerance.enabled"),
        ("ci/scale-to-zero-values.yaml", "for checks from outside use /healthz"),
        ("ci/fetch-model-values.yaml", "downloads the model again"),
        ("ci/fetch-model-values.yaml", "needs resources for a second cluster"),
        ("values-single-24g.yaml", "change the image\n     first, delete the RayCluster"),
        ("ci/incremental-upgrade-values.yaml", "serve-svc has no endpoints"),
        ("ci/pass-through-values.yaml", "serveService.type LoadBalancer publishes every path"),
        ("values-cluster.yaml", "The runbook links of the alerts are no addresses"),
        ("../tests/chart/cases/proxy-for-everything-values.yaml", "no rule of networkPolicy.extraEgress"),
    ],
)
def test_the_notes_say_what_to_do_next(file: str, said: str) -> None:
    assert said in notes("--values", str(CHART / file))


def test_the_notes_ask_for_nothing_that_is_done() -> None:
    words = notes("--values", str(CHART / "values-cluster.yaml"))
    assert not any(
        each in words for each in ("faultTolerance.enabled", "podMonitor.enabled", "demo model", "No pod except")
    )
    assert "token" not in notes("--values", str(CHART / "ci/everything-off-values.yaml"))


def test_the_notes_say_which_stage_can_be_in_one_pod() -> None:
    values = [f"workers.cpu.replicas={json.dumps({'min': 2, 'max': 4})}", "stages.preprocess.replicas.min=2"]
    said = notes(*(part for value in values for part in ("--set-json", value)))
    assert "stages.preprocess.replicas.min=3 keeps some in another pod" in said
    assert "keeps some in another pod" not in notes("--values", str(CHART / "values-cluster.yaml"))
