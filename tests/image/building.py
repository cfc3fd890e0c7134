"""Builds the Dockerfile as a user would, on a base that is made here where no registry can be reached."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import urlparse

import pytest

import serve_app
from tests.image.containers import CACHE, ROOT, Containers

DEBIAN = "http://deb.debian.org/debian"
BUILD_LIMIT_S = 1200
MOST_KEPT_IMAGES = 200  # intermediate ones included; about 40 builds
_MOUNTED = "/mnt"  # a folder that every Debian has: a mount leaves no trace there


def base_name() -> str:
    """The base that the Dockerfile asks for."""
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return found[1]


def make_base(containers: Containers) -> None:
    """A minimal Debian with its own Python, under the name of the Dockerfile's base; made once, then kept.

    It has less than the official image (no pip, no wget): what builds from it builds from that one too.
    """
    if containers.run("podman", "image", "exists", base_name()).returncode == 0:
        return
    if shutil.which("debootstrap") is None:
        pytest.fail("no debootstrap here: run .ci/tools")
    folder, archive = CACHE / "base", CACHE / "base.tar"
    shutil.rmtree(folder, ignore_errors=True)
    packages = "python3,python3-venv,ca-certificates"
    subprocess.run(
        ["nice", "debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder), DEBIAN],
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=".", filter=_without_apt_cache)
    containers.podman("import", "--quiet", "--change", 'CMD ["bash"]', str(archive), base_name(), timeout_s=120)
    archive.unlink()
    shutil.rmtree(folder)


def keep_small(containers: Containers) -> None:
    """Empties the store when the layers that builds keep for later ones have become many."""
    if len(containers.podman("images", "--all", "--quiet").split()) > MOST_KEPT_IMAGES:
        containers.podman("rmi", "--all", "--force", timeout_s=300)


def _without_apt_cache(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.startswith(("./var/cache/apt/archives/", "./var/lib/apt/lists/")) else member


def build(containers: Containers, target: str, tag: str, context: Path = ROOT, *options: str) -> str:
    """The image of a target of the Dockerfile, by its tag; fails the test with the end of the build's output."""
    command = ["nice", "buildah", "bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers"]
    command += ["--format", "docker", "--target", target, "--tag", tag, *options]
    # Empty: pip's own index, which has torch for CPUs where these tests run.
    command += ["--build-arg", "TORCH_INDEX=", "--build-arg", f"PIP_CONFIG_FILE={_MOUNTED}/pip.conf"]
    command += ["--label", f"org.opencontainers.image.version={serve_app.__version__}"]
    for outside, inside in _pip_configuration().items():
        command += ["--volume", f"{outside}:{inside}:ro"]
    ended = containers.run(*command, str(context), timeout_s=BUILD_LIMIT_S)
    if ended.returncode:
        pytest.fail(f"building {target}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}")
    return tag


def _pip_configuration() -> dict[str, str]:
    """What pip needs of this machine, mounted for the build and in no layer: path here -> path there.

    All of pip's configuration here, its environment included, as one file; and the local folders that it names.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    )
    options: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), reverse=True):  # ":env:" after "global": it wins
        name, _, value = line.partition("=")
        options[name.rpartition(".")[2]] = value.strip("'\"")
    options["cert"] = options.get("cert") or os.environ.get("SSL_CERT_FILE") or ""
    folder = CACHE / "settings/pip"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mounts = {str(folder): _MOUNTED}
    for name, value in options.items():
        for address in value.split():
            local = Path(urlparse(address).path)
            if not (local.is_absolute() and local.exists() and urlparse(address).scheme in ("", "file")):
                continue
            # An index names files that lie beside its pages.
            shared = local.parent if address.startswith("file:") else local
            inside = str(len(mounts))
            (folder / inside).touch() if shared.is_file() else (folder / inside).mkdir()  # what is mounted upon
            mounts[str(shared)] = f"{_MOUNTED}/{inside}"
            options[name] = options[name].replace(str(shared), mounts[str(shared)])
    configuration = configparser.RawConfigParser()
    configuration["global"] = {name: value for name, value in options.items() if value}
    with (folder / "pip.conf").open("w") as stream:
        configuration.write(stream)
    return mounts


def copied_context(folder: Path) -> Path:
    """What a build gets to see, in a folder where it can be changed."""
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements.lock",
        "requirements-torch.lock",
        "Dockerfile",
        ".dockerignore",
    ):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("serve_app", "image"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
