"""What is in the image, what is not, and what its user may do there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from packaging.requirements import Requirement

import serve_app
from tests.image.conftest import CONFINED
from tests.image.containers import ROOT, Containers

DIST_INFO = "/opt/glm/lib/python3*/site-packages"
LARGEST_CPU_BYTES = 1_600_000_000  # 1.52 GB with a base of 185 MB
LARGEST_OWN_LAYER_BYTES = 60_000_000  # the package with its demo model: what a new version of ours costs to fetch


def run(containers: Containers, image: str, script: str) -> str:
    """What a shell script in a confined container printed."""
    return containers.podman("run", "--rm", "--network", "none", *CONFINED, image, "bash", "-c", script)


def test_it_runs_as_its_own_user_without_rights(containers: Containers, image: str):
    status = run(containers, image, "id -u; id -g; id -un; cat /proc/self/status")
    assert status.splitlines()[:3] == ["10001", "10001", "glm"]
    said = dict(line.split(":\t") for line in status.splitlines()[3:] if ":\t" in line)
    assert {said[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert said["NoNewPrivs"] == "1"
    assert said["Seccomp"].strip() == "2"  # a filter


def test_its_user_can_write_nothing_but_the_mounts(containers: Containers, image: str):
    # With a root that could be written, so that it is the files' owners and modes that are looked at.
    found = containers.podman(
        *("run", "--rm", "--network", "none", image, "bash", "-c"),
        "find / -xdev ! -type l -writable ! -path '/proc/*' 2>/dev/null; true",
    )
    assert set(found.split()) <= {"/tmp", "/var/tmp", "/models", "/var/lock", "/run/lock"}


def test_nothing_in_it_makes_its_user_root(containers: Containers, image: str):
    assert run(containers, image, "find / -xdev -type f -perm /6000 2>/dev/null; true") == ""


@pytest.mark.parametrize("command", ["bash", "wget", "grep", "ray", "glm-serve"])
def test_it_has_what_kuberay_calls(containers: Containers, image: str, command: str):
    assert run(containers, image, f"command -v {command}").strip()
    assert containers.podman("run", "--rm", image, "bash", "-lc", f"command -v {command}").strip()


def test_the_autoscaler_that_kuberay_puts_beside_the_head_can_start(containers: Containers, image: str):
    """The sidecar runs this image; without an API server no more than its imports can be tried."""
    modules = (
        "ray.autoscaler._private.kuberay.run_autoscaler",
        "ray.autoscaler.v2.instance_manager.cloud_providers.kuberay.cloud_provider",
    )
    run(containers, image, f"python3 -c 'import {', '.join(modules)}'")
    assert "--cluster-name" in run(containers, image, "ray kuberay-autoscaler --help")


@pytest.mark.parametrize("command", ["cc", "gcc", "c++", "ld", "make", "git", "pip", "curl"])
def test_it_has_no_tools_of_builders(containers: Containers, image: str, command: str):
    assert run(containers, image, f"command -v {command} || true") == ""


def test_no_trace_of_the_build_is_left(containers: Containers, image: str):
    script = (
        "ls -d /build /layers /opt/* /mnt/* /etc/pip* /root/.cache /tmp/* /var/cache/apt/archives/*.deb 2>/dev/null"
    )
    assert run(containers, image, f"{script}; true").split() == ["/opt/glm"]
    configuration = json.dumps(containers.inspect(image)["Config"])
    assert "PIP_" not in configuration


def test_nothing_of_the_checkout_is_in_it_but_the_package(containers: Containers, image: str):
    names = " -o ".join(f"-name '{name}'" for name in (".git", "requirements*.lock", "Dockerfile", "values*.yaml"))
    assert run(containers, image, f"find / -xdev \\( {names} \\) 2>/dev/null; true") == ""
    ours = run(containers, image, f"cd {DIST_INFO}/serve_app && find . -type f ! -name '*.pyc' | sort").split()
    here = [f"./{file.relative_to(ROOT / 'serve_app')}" for file in (ROOT / "serve_app").rglob("*") if file.is_file()]
    assert set(ours) <= set(here)


def test_every_module_is_compiled(containers: Containers, image: str):
    """Nothing can be written beside the sources, so each process would compile them anew."""
    script = f"cd {DIST_INFO} && for name in serve_app ray torch transformers fastapi; do "
    script += "echo $(find $name -name '*.py' | wc -l) $(find $name -name '*.pyc' | wc -l); done"
    for line in run(containers, image, script).splitlines():
        sources, compiled = map(int, line.split())
        assert compiled >= 0.99 * sources  # a few files are templates and no Python


def test_bytecode_is_found_fresh(containers: Containers, image: str):
    script = "python3 -v -c 'import serve_app.settings' 2>&1 | grep -E 'serve_app/.*(matches|stale|wrote)'"
    said = run(containers, image, script)
    assert "matches" in said
    assert "stale" not in said


def test_a_scanner_finds_what_is_installed(containers: Containers, image: str):
    """Debian's packages in dpkg's list, Python's by their own metadata, at the versions of the lock."""
    assert "Package: wget" in run(containers, image, "cat /var/lib/dpkg/status")
    script = "python3 -c 'import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]'"
    found = dict(line.split() for line in run(containers, image, script).splitlines())
    locked = (ROOT / "requirements.lock").read_text() + (ROOT / "requirements-torch.lock").read_text()
    python = run(containers, image, "python3 -c 'import platform; print(platform.python_version())'").strip()
    asked = [Requirement(line) for line in re.findall(r"^[a-z0-9-]+==[^\\\n]+", locked, flags=re.MULTILINE)]
    pins = {
        each.name: str(each.specifier).removeprefix("==")
        for each in asked
        if not each.name.startswith(("nvidia-", "cuda-", "triton"))
        and (each.marker is None or each.marker.evaluate({"python_full_version": python}))
    }
    normal = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in found.items()}
    assert {name: normal.get(name, "").partition("+")[0] for name in pins} == pins
    assert normal["glm-vision-serve"] == serve_app.__version__


def test_its_labels_say_what_it_is(containers: Containers, image: str):
    labels = containers.inspect(image)["Labels"]
    assert labels["org.opencontainers.image.title"] == "GLM Vision Serve"
    assert labels["org.opencontainers.image.version"] == serve_app.__version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    packages = "/opt/glm/lib/python3*/site-packages"
    license_text = run(containers, image, f"cat {packages}/glm_vision_serve-*.dist-info/licenses/LICENSE")
    assert license_text.strip() == (ROOT / "LICENSE").read_text().strip()


def test_layers_stay_small(containers: Containers, image: str, record_property: Callable[[str, object], None]):
    history = json.loads(containers.podman("history", "--format", "json", image))
    sizes = [layer["size"] for layer in history if layer["size"]]
    record_property("layer_bytes", sizes)  # newest first
    assert sum(sizes) < LARGEST_CPU_BYTES
    assert sizes[0] < LARGEST_OWN_LAYER_BYTES


def test_quantized_weights_need_no_compiler(containers: Containers, image: str):
    """bitsandbytes tries to compile some of its products for CPUs; here it uses its plain ones at once."""
    script = """
import torch, bitsandbytes
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
weights = torch.randn(96, 64)
packed, state = quantize_4bit(weights, quant_type="nf4")
error = (dequantize_4bit(packed, state) - weights).abs().mean().item()
import sys
print(error < 0.1, "torch._inductor.compile_fx" in sys.modules)
"""
    assert run(containers, image, f"python3 -c '{script}'").split()[-2:] == ["True", "False"]
