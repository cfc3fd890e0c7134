"""Values of platform teams, one file of cases/ a need: rendered as Kubernetes needs it, or refused in one sentence."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import core
from tests.chart.render import CHART, HELMS, NAMESPACE, Object, binary, of_kind, rayservice, refusal, render

pytestmark = [pytest.mark.chart, pytest.mark.parametrize("helm", HELMS)]
CASES = Path(__file__).parent / "cases"


def case(name: str, helm: str) -> list[Object]:
    return render(CASES / f"{name}-values.yaml", helm=helm)


def refused(name: str, helm: str) -> str:
    return refusal(CASES / f"{name}-values.yaml", helm=helm)


def templates(objects: list[Object]) -> dict[str, Any]:
    """The pod template of the head and of each worker group, by name."""
    cluster = rayservice(objects)["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def containers(objects: list[Object]) -> Iterator[Any]:
    """Every container of the Ray pods, init containers too."""
    for template in templates(objects).values():
        yield from core.containers(template)


def environment(container: Any) -> dict[str, Any]:
    """name -> value; fails where a name is there twice."""
    names = [each["name"] for each in container.get("env", [])]
    assert len(set(names)) == len(names)
    return {each["name"]: each.get("value") for each in container.get("env", [])}


def test_a_variable_of_the_chart_that_is_also_in_extra_env_is_there_once_with_the_given_value(helm: str) -> None:
    for container in containers(case("env-of-the-charts-own", helm)):
        env = environment(container)
        assert env["HF_HOME"] == "/tmp/hub"
        assert env["RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S"] == "5"
        assert env["HF_ENDPOINT"] == "https://hf-mirror.com"


def test_an_amount_of_gpu_memory_is_not_replaced_by_the_number_of_gpus(helm: str) -> None:
    objects = case("gpu-by-memory", helm)
    (group,) = [
        g for g in rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"] if g["groupName"] == "gpu"
    ]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    assert [str(resources[kind]["aliyun.com/gpu-mem"]) for kind in ("limits", "requests")] == ["16", "16"]
    assert group["resources"]["GPU"] == "1"


def test_the_switch_of_a_parent_chart_changes_nothing(helm: str) -> None:
    assert case("switch-of-a-parent-chart", helm) == render(helm=helm)


def test_labels_are_valid_if_flux_appended_the_commit_to_the_version(helm: str, tmp_path: Path) -> None:
    version = "0.1.0+3a5e8b1c9d2f"
    package = [binary(helm), "package", CHART, "--version", version, "--destination", tmp_path]
    subprocess.run(package, check=True, capture_output=True, timeout=60)
    values = CASES / "version-with-a-commit-values.yaml"
    command = [binary(helm), "template", "glm", tmp_path / f"glm-vision-serve-{version}.tgz", "--values", values]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    objects = [each for each in yaml.load_all(run.stdout, Loader=yaml.CSafeLoader) if each]
    assert {each["metadata"]["labels"]["helm.sh/chart"] for each in objects} == {"glm-vision-serve-0.1.0_3a5e8b1c9d2f"}
    assert [problem for each in objects for problem in core.unsaid_problems(each)] == []


def test_a_proxy_is_not_used_for_the_pod_itself_and_the_services_of_the_cluster(helm: str) -> None:
    for container in containers(case("proxy-for-everything", helm)):
        env = environment(container)
        assert env["http_proxy"] == "http://proxy.corp.example:3128"
        assert {"localhost", "127.0.0.1", ".svc", ".cluster.local"} <= set(env["no_proxy"].split(","))
        assert env["NO_PROXY"] == env["no_proxy"]


@pytest.mark.parametrize(
    ("given", "completed"),
    [
        (
            [{"name": "no_proxy", "value": "10.0.0.0/8, localhost"}],
            "10.0.0.0/8,localhost,127.0.0.1,.svc,.cluster.local",
        ),
        ([{"name": "NO_PROXY", "value": ".corp"}], ".corp,localhost,127.0.0.1,.svc,.cluster.local"),
        ([{"name": "no_proxy", "value": "*"}], "*"),
    ],
)
def test_a_given_no_proxy_is_completed(given: list[Object], completed: str, helm: str) -> None:
    values = {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, *given]}
    for container in containers(render(set=values, helm=helm)):
        env = environment(container)
        assert (env["no_proxy"], env["NO_PROXY"]) == (completed, completed)


def test_a_no_proxy_from_a_secret_is_left_alone(helm: str) -> None:
    source = {"name": "no_proxy", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "no"}}}
    values = {"extraEnv": [{"name": "http_proxy", "value": "http://proxy:3128"}, source]}
    for container in containers(render(set=values, helm=helm)):
        assert source in container["env"]


def test_names_of_digits_stay_strings(helm: str) -> None:
    objects = case("names-of-digits", helm)
    head = templates(objects)["head"]["spec"]
    assert head["imagePullSecrets"] == [{"name": "2024"}]
    assert head["priorityClassName"] == "1000"
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for v in templates(objects)["gpu"]["spec"]["volumes"]
        if "persistentVolumeClaim" in v
    ]
    assert claims == ["2025"]
    password = rayservice(objects)["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisPassword"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "42", "key": "1"}
    (ingress,) = of_kind(objects, "Ingress")
    assert ingress["spec"]["ingressClassName"] == "10"
    assert ingress["spec"]["tls"][0]["secretName"] == "7"
    assert [each for each in objects if each["kind"] != "RayService" and core.schema_problems(each, "1.34")] == []


def test_labels_that_select_pods_can_not_be_set(helm: str) -> None:
    said = refused("pod-labels-of-the-charts-own", helm)
    assert "workers.cpu.podLabels sets the label app.kubernetes.io/instance" in said


def test_the_port_of_serve_s_own_proxy_is_refused(helm: str) -> None:
    assert "settings.http.port is 8500, which is the port of Serve's own proxy" in refused("port-of-serves-proxy", helm)


def test_an_unknown_access_mode_is_refused_with_the_four_that_there_are(helm: str) -> None:
    said = refused("access-mode-abbreviated", helm)
    for mode in ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"):
        assert re.search(rf"\b{mode}\b", said)


def test_the_container_that_copies_the_model_has_its_own_environment(helm: str) -> None:
    copies = [each for each in containers(case("proxy-for-the-fetch", helm)) if each["name"] == "fetch"]
    assert len(copies) == 2
    for container in copies:
        env = environment(container)
        assert env["AWS_REGION"] == "eu-central-1"
        assert env["HTTPS_PROXY"] == "http://proxy.corp.example:3128"
        assert container["envFrom"] == [{"secretRef": {"name": "object-store"}}]


def test_dns_on_openshift_has_its_port_and_no_pod_names_a_user(helm: str) -> None:
    objects = case("dns-on-openshift", helm)
    (policy,) = [each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["name"].endswith("-dns")]
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}]
    assert rule["ports"] == [{"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"}]
    written = yaml.safe_dump(objects)
    assert not re.search("runAsUser|runAsGroup|fsGroup:", written)


def test_a_route_without_timeouts_has_none(helm: str) -> None:
    (route,) = of_kind(case("route-without-timeouts", helm), "HTTPRoute")
    assert "timeouts" not in route["spec"]["rules"][0]


def test_redis_and_helm_test_tolerate_tainted_nodes(helm: str) -> None:
    objects = case("every-node-is-tainted", helm)
    taint = {"key": "dedicated", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}
    (redis,) = [each["spec"]["template"]["spec"] for each in of_kind(objects, "StatefulSet")]
    (test,) = [each["spec"] for each in of_kind(objects, "Pod")]
    for spec in (redis, test, *(each["spec"] for name, each in templates(objects).items() if name != "gpu")):
        assert spec["tolerations"] == [taint]
    assert redis["nodeSelector"] == {"pool": "system"}
    assert redis["priorityClassName"] == "high"


def test_labels_of_a_queue_are_on_the_rayservice_and_on_no_pod(helm: str) -> None:
    objects = case("queue-of-kueue", helm)
    metadata = rayservice(objects)["metadata"]
    labels = {"kueue.x-k8s.io/queue-name": "vision", "cost-centre": "4711"}
    assert labels.items() <= metadata["labels"].items()
    assert metadata["labels"]["app.kubernetes.io/instance"] == "glm"
    assert metadata["annotations"]["argocd.argoproj.io/sync-wave"] == "5"
    for each in objects:
        for _, template in core.pod_templates(each):
            assert not labels.items() & template["metadata"]["labels"].items()
            assert "argocd.argoproj.io/sync-wave" not in template["metadata"].get("annotations", {})


@pytest.mark.parametrize("more", [{}, {"modelStorage.fetch": {"enabled": True, "image": "rclone"}}])
def test_a_private_authority_is_mounted_in_all_ray_containers(more: dict[str, Any], helm: str) -> None:
    objects = render(CASES / "certificate-of-a-private-ca-values.yaml", set=more, helm=helm)
    for template in templates(objects).values():
        assert {"name": "company-ca", "configMap": {"name": "company-ca"}} in template["spec"]["volumes"]
        for container in core.containers(template):
            assert {"name": "company-ca", "mountPath": "/etc/company", "readOnly": True} in container["volumeMounts"]
            assert environment(container)["SSL_CERT_FILE"] == "/etc/company/ca.crt"


def test_a_read_only_claim_is_mounted_read_only_and_the_hub_s_cache_lies_elsewhere(helm: str) -> None:
    for name, template in templates(case("claim-that-is-read-only", helm)).items():
        if name == "head":
            continue
        spec = template["spec"]
        source = {"claimName": "weights", "readOnly": True}
        assert {"name": "models", "persistentVolumeClaim": source} in spec["volumes"]
        (worker,) = spec["containers"]
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in worker["volumeMounts"]
        assert environment(worker)["HF_HOME"] == "/tmp/huggingface"
        assert environment(worker).get("TRITON_CACHE_DIR") == ("/tmp/triton" if name == "gpu" else None)


def test_a_parent_chart_renders_two_copies_whose_objects_and_pods_differ(helm: str, tmp_path: Path) -> None:
    """An umbrella chart with aliases, conditions and values for all its charts."""
    parent = tmp_path / "shop"
    (parent / "charts").mkdir(parents=True)
    dependency = {"name": "glm-vision-serve", "version": "0.1.0", "repository": ""}
    copies = [{**dependency, "alias": alias, "condition": f"{alias}.enabled"} for alias in ("labels", "boards", "off")]
    chart = {"apiVersion": "v2", "name": "shop", "version": "1.0.0", "dependencies": copies}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(chart))
    values = {
        "global": {"imageRegistry": "registry.example.com"},
        "labels": {"enabled": True},
        "boards": {"enabled": True},
        "off": {"enabled": False},
    }
    (parent / "values.yaml").write_text(yaml.safe_dump(values))
    package = [binary(helm), "package", CHART, "--destination", parent / "charts"]
    subprocess.run(package, check=True, capture_output=True, timeout=60)
    command = [binary(helm), "template", "shop", parent, "--namespace", NAMESPACE]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    objects = [each for each in yaml.load_all(run.stdout, Loader=yaml.CSafeLoader) if each]
    services = of_kind(objects, "RayService")
    assert [each["metadata"]["name"] for each in services] == ["shop-boards", "shop-labels"]
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    selected = [each["metadata"]["labels"]["app.kubernetes.io/part-of"] for each in services]
    assert selected == ["boards", "labels"]
    for service in services:
        for _, template in core.pod_templates(service):
            assert template["spec"]["containers"][0]["image"].startswith("registry.example.com/glm-vision-serve:0.1.0-")
