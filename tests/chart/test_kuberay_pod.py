"""The Pods that KubeRay would make of the chart's RayService: valid and fit for our image.

test_recordings.py compares them with those of a real operator; here is what no recording shows.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from serve_app.ray_flags import CLUSTER
from tests.chart import core
from tests.chart.kuberay_pod import groups, head_address, head_pod, pods, worker_pod
from tests.chart.network import selects
from tests.chart.render import Object, every_value_set, of_kind, rayservice, render
from tests.chart.sample import changed
from tests.chart.sample import rayservice as sample

pytestmark = pytest.mark.chart

VALUE_SETS = pytest.mark.parametrize("files", every_value_set())
IN_OUR_IMAGE = {"bash", "wget", "grep", "/bin/bash", "ray", "glm-serve"}


def variables(container: Object) -> dict[str, str | None]:
    return {each["name"]: each.get("value") for each in container["env"]}


def start_command(pod: Object) -> str:
    command: str = pod["spec"]["containers"][0]["args"][0]
    return command


def test_resources_of_a_group_are_passed_to_ray():
    gpu = "spec/rayClusterConfig/workerGroupSpecs/0"
    group = changed(changed(sample(), f"{gpu}/rayStartParams", {}), f"{gpu}/resources", {"CPU": "1500m", "a": "1k"})
    command = start_command(worker_pod(group, "gpu"))
    assert "--num-cpus=2 " in command
    assert """--resources='{"a":1000}' """ in command


def test_a_flag_is_present_or_absent_except_the_few_that_take_a_boolean():
    head = "spec/rayClusterConfig/headGroupSpec/rayStartParams"
    command = start_command(
        head_pod(changed(sample(), head, {"disable-usage-stats": "False", "include-dashboard": "false"}))
    )
    assert "disable-usage-stats" not in command
    assert "--include-dashboard=false" in command


def test_a_worker_waits_for_the_head_at_the_address_given():
    pod = worker_pod(sample(), "gpu", head="127.0.0.1")
    assert "--address 127.0.0.1:6379" in pod["spec"]["initContainers"][-1]["args"][0]
    assert variables(pod["spec"]["containers"][0])["RAY_ADDRESS"] == "127.0.0.1:6379"


def test_a_probe_of_ours_is_left_as_it_is():
    own = {"httpGet": {"path": "/", "port": 1}}
    container = "spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0"
    pod = worker_pod(changed(sample(), f"{container}/readinessProbe", own), "gpu")
    assert pod["spec"]["containers"][0]["readinessProbe"] == own


def test_making_pods_leaves_the_rayservice_as_it_is():
    resource = sample()
    pods(resource)
    assert resource == sample()


@VALUE_SETS
def test_every_pod_that_kuberay_makes_is_valid(files: tuple[Path, ...]):
    for pod in pods(rayservice(render(*files))):
        assert core.unsaid_problems(pod) == []
        for release in core.RELEASES:
            assert core.schema_problems(pod, release) == []


@VALUE_SETS
def test_ray_itself_takes_every_start_command(files: tuple[Path, ...]):
    start = ray_cli.get_command(click.Context(ray_cli), "start")
    for pod in pods(rayservice(render(*files))):
        ray, word, *arguments = shlex.split(start_command(pod).split("; ")[1])
        assert (ray, word) == ("ray", "start")
        start.make_context("start", [each.replace("$", "") for each in arguments])


@VALUE_SETS
def test_every_ray_process_has_the_environment_of_a_cluster(files: tuple[Path, ...]):
    for pod in pods(rayservice(render(*files))):
        assert CLUSTER.keys() <= variables(pod["spec"]["containers"][0]).keys()


@VALUE_SETS
def test_every_command_is_in_our_image(files: tuple[Path, ...]):
    # KubeRay's probes and its start command are written for rayproject/ray: these words are all that they take from it.
    for pod in pods(rayservice(render(*files))):
        for container in core.containers(pod):
            if container["image"] != pod["spec"]["containers"][0]["image"]:
                continue
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
            probes = [container.get(each, {}) for each in ("livenessProbe", "readinessProbe")]
            programs = {each["exec"]["command"][0] for each in probes if "exec" in each} | set(hook[:1])
            assert programs | {container["command"][0]} <= IN_OUR_IMAGE


@VALUE_SETS
def test_what_a_port_is_called_is_what_listens_there(files: tuple[Path, ...]):
    resource = rayservice(render(*files))
    for pod in pods(resource):
        ray = pod["spec"]["containers"][0]
        ports = {each["name"]: str(each["containerPort"]) for each in ray["ports"]}
        flags = dict(
            each.split("=", 1) for each in shlex.split(start_command(pod)) if each.startswith("--") and "=" in each
        )
        assert ports["metrics"] == flags["--metrics-export-port"]
        assert ports.get("gcs-server", "6379") == flags.get("--port", "6379")
        assert ports.get("dashboard", "8265") == flags.get("--dashboard-port", "8265")


@VALUE_SETS
def test_every_monitor_selects_pods_that_have_its_ports(files: tuple[Path, ...]):
    objects = render(*files)
    made = pods(rayservice(objects))
    for monitor in of_kind(objects, "PodMonitor"):
        scraped = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
        selected = [pod for pod in made if selects(monitor["spec"]["selector"], pod["metadata"]["labels"])]
        assert selected
        for pod in selected:
            assert scraped <= {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


@VALUE_SETS
def test_every_disruption_budget_selects_pods_that_kuberay_makes(files: tuple[Path, ...]):
    objects = render(*files)
    made = [pod["metadata"]["labels"] for pod in pods(rayservice(objects))]
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"], labels) for labels in made)


@VALUE_SETS
def test_workers_find_the_head_of_their_own_cluster(files: tuple[Path, ...]):
    resource = rayservice(render(*files))
    for group in groups(resource):
        address = variables(worker_pod(resource, group)["spec"]["containers"][0])["RAY_ADDRESS"]
        assert address == f"{head_address(resource)}:6379"
