"""What a change costs: which layers of the image a new build makes anew."""

from __future__ import annotations

import re
from pathlib import Path

from tests.image.building import build, copied_context
from tests.image.containers import ROOT, Containers


def layers(containers: Containers, image: str) -> list[str]:
    """Digests of the layers, lowest first."""
    found = containers.inspect(image)["RootFS"]["Layers"]
    assert isinstance(found, list)
    return found


def test_a_change_of_ours_changes_the_last_layer_alone(
    containers: Containers, image: str, unique_tag: str, tmp_path: Path
):
    context = copied_context(tmp_path)
    (context / "serve_app/errors.py").write_text((context / "serve_app/errors.py").read_text() + "\n# changed\n")
    before = layers(containers, image)
    try:
        after = layers(containers, build(containers, "cpu", unique_tag, context))
    finally:
        containers.podman("rmi", "--force", unique_tag, check=False)
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_the_gpu_target_differs_in_its_libraries_what_it_tells_the_node_and_where_it_keeps_kernels(
    containers: Containers, image: str, unique_tag: str, tmp_path: Path
):
    """With a lock of one package: the CUDA wheels are gigabytes, and nothing here could run them."""
    context = copied_context(tmp_path)
    lock = (context / "requirements.lock").read_text()
    (setuptools,) = re.findall(r"^setuptools==.*\n(?:    .*\n)+", lock, flags=re.MULTILINE)
    (context / "requirements.lock").write_text(setuptools)
    (context / "requirements-torch.lock").write_text("")
    try:
        build(containers, "gpu", unique_tag, context)
        gpu, cpu = (containers.inspect(each)["Config"] for each in (unique_tag, image))
    finally:
        containers.podman("rmi", "--force", unique_tag, check=False)
    for_node = {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
    kernels = "TRITON_CACHE_DIR=/models/triton"  # beside the models, so that a new pod compiles nothing
    assert set(gpu.pop("Env")) - set(cpu.pop("Env")) == for_node | {kernels}
    assert gpu == cpu


def test_the_same_sources_make_the_same_layer(containers: Containers, image: str, unique_tag: str):
    """Wheel, bytecode and dates, made anew from nothing: a node that has this layer need not fetch it again."""
    try:
        build(containers, "package", unique_tag, ROOT, "--no-cache")
        again = contents(containers, unique_tag, "/layers/libraries/opt/glm")
    finally:
        containers.podman("rmi", "--force", unique_tag, check=False)
    assert again == contents(containers, image, "/opt/glm")


def contents(containers: Containers, image: str, prefix: str) -> str:
    """A digest of our package as installed: names, bytes, owners, modes and dates."""
    packages = f"cd {prefix}/lib/python3*/site-packages"
    archive = "tar --sort=name --create serve_app glm_vision_serve* ../../../bin/glm-serve 2>/dev/null"
    return containers.podman("run", "--rm", image, "bash", "-c", f"{packages} && {archive} | sha256sum")
