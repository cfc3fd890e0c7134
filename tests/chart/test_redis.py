"""Where the control plane's state lies: the bundled Redis, one's own, and a password that upgrades keep."""

from __future__ import annotations

import base64
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.api_server import api_server
from tests.chart.render import CHART, HELMS, RELEASE, Object, binary, of_kind, rayservice, render

pytestmark = pytest.mark.chart
PASSWORD = 'a b "c\\d $e'
KEPT = base64.b64encode(b"of the first install").decode()


def options(objects: list[Object]) -> Any:
    return rayservice(objects)["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]


def test_the_control_plane_s_state_goes_to_the_bundled_redis() -> None:
    objects = render("ci/redis-bundled-values.yaml")
    (service,) = of_kind(objects, "Service")
    (redis,) = of_kind(objects, "StatefulSet")
    (secret,) = of_kind(objects, "Secret")
    told = options(objects)
    assert told["redisAddress"] == f"{service['metadata']['name']}:6379"
    assert told["redisPassword"]["valueFrom"]["secretKeyRef"] == {
        "name": secret["metadata"]["name"],
        "key": "password",
    }
    assert service["spec"]["selector"].items() <= redis["spec"]["template"]["metadata"]["labels"].items()
    assert len(base64.b64decode(secret["data"]["password"])) == 40


def test_the_bundled_redis_keeps_its_state_on_a_volume_or_nowhere() -> None:
    (kept,) = of_kind(render(set={"faultTolerance.enabled": True}), "StatefulSet")
    (claim,) = kept["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "1Gi"}
    (lost,) = of_kind(render("ci/redis-bundled-values.yaml"), "StatefulSet")
    assert lost["spec"]["template"]["spec"]["volumes"] == [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}]


def test_a_user_s_password_is_used_and_none_is_generated() -> None:
    values = {"faultTolerance.enabled": True, "faultTolerance.passwordSecret": {"name": "mine", "key": "word"}}
    objects = render(set=values)
    assert not of_kind(objects, "Secret")
    (redis,) = of_kind(objects, "StatefulSet")
    (environment,) = [container["env"] for container in redis["spec"]["template"]["spec"]["containers"]]
    assert environment[0]["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "word"}
    reference = options(objects)["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "mine", "key": "word"}


def test_an_external_redis_takes_the_place_of_the_bundled_one() -> None:
    objects = render("ci/redis-external-values.yaml")
    assert not of_kind(objects, "StatefulSet")
    assert not of_kind(objects, "Secret")
    assert options(objects)["redisAddress"] == "rediss://redis.example.com:6380"
    (way,) = [each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["name"].endswith("-to-redis")]
    assert way["spec"]["egress"] == [{"ports": [{"port": 6380, "protocol": "TCP"}]}]


FIRST_SECRET: Object = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {
        "name": "glm-glm-vision-serve-redis",
        "namespace": "glm",
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": RELEASE, "meta.helm.sh/release-namespace": "glm"},
    },
    "data": {"password": KEPT},
}


@pytest.mark.parametrize("helm", HELMS)
def test_an_upgrade_keeps_the_password_of_the_first_install(helm: str) -> None:
    values = CHART / "ci/redis-bundled-values.yaml"
    command = [binary(helm), "template", RELEASE, CHART, "--namespace", "glm", "--values", values]
    with api_server(FIRST_SECRET) as address:
        command += ["--dry-run=server", "--kube-apiserver", address, "--disable-openapi-validation"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    (secret,) = of_kind([each for each in yaml.safe_load_all(run.stdout) if each], "Secret")
    assert secret["data"] == {"password": KEPT}


def test_a_head_that_comes_back_has_the_address_of_the_one_before() -> None:
    """KubeRay's own head Service is headless: workers went on asking the old pod's address, and were taken for dead."""
    head = rayservice(render("ci/redis-bundled-values.yaml"))["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["headService"]["spec"]["type"] == "ClusterIP"
    assert "clusterIP" not in head["headService"]["spec"]


def test_two_installs_have_two_passwords() -> None:
    one, other = (
        of_kind(render("ci/redis-bundled-values.yaml", helm=helm), "Secret")[0]["data"]["password"] for helm in HELMS
    )
    assert one != other


def test_the_bundled_redis_starts_requires_its_password_and_stops_on_sigterm(tmp_path: Path) -> None:
    """The container's own command and probe, with /data and the port moved."""
    (redis,) = of_kind(render("ci/redis-bundled-values.yaml"), "StatefulSet")
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    moved = script.replace("dir /data", f"dir {tmp_path}\nport 0\nunixsocket {tmp_path}/redis.sock")
    environment = {"PATH": "/usr/bin:/bin", "PASSWORD": PASSWORD}
    server = subprocess.Popen([*container["command"], moved], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        client = f"redis-cli -s {shlex.quote(str(tmp_path))}/redis.sock"
        (*shell, probe) = container["readinessProbe"]["exec"]["command"]
        ready = [*shell, probe.replace("redis-cli", client)]
        deadline = time.monotonic() + 20
        while subprocess.run(ready, env=environment, capture_output=True).returncode and time.monotonic() < deadline:
            time.sleep(0.1)
        assert subprocess.run(ready, env=environment).returncode == 0
        assert subprocess.run(ready, env=environment | {"PASSWORD": "wrong"}).returncode != 0
        listed = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert PASSWORD not in listed
    finally:
        server.terminate()
        assert server.wait(timeout=20) == 0
