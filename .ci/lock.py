#!/usr/bin/env python3
"""Writes requirements.lock and requirements-dev.lock: what pyproject.toml asks for, pinned.

    make lock

pip resolves pyproject's ranges for each Python that we support; a package that only one of them needs
gets a marker. Versions are public ones (torch==2.13.0, without +cpu), so the same file installs on
machines with and without a GPU; the CUDA packages that torch asks for on some platforms follow from its pin.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12")
PLATFORM_PACKAGES = ("nvidia-", "triton", "cuda-")  # torch asks for its own versions where it needs them


def resolved(requirements: list[str], python: str) -> dict[str, str]:
    """name -> version of everything that the requirements need."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--python-version", python, "--only-binary", ":all:", "--target", folder]
        subprocess.run([*command, "--report", str(report), *requirements], check=True, stderr=subprocess.DEVNULL)
        installs = json.loads(report.read_text())["install"]
    asked = {canonicalize_name(Requirement(requirement).name) for requirement in requirements}
    packages = {}
    for install in installs:
        name = canonicalize_name(install["metadata"]["name"])
        if name in asked or not name.startswith(PLATFORM_PACKAGES):
            packages[name] = install["metadata"]["version"].partition("+")[0]
    return packages


def pins(requirements: list[str]) -> list[str]:
    markers = {canonicalize_name(asked.name): asked.marker for asked in map(Requirement, requirements) if asked.marker}
    versions = {python: resolved(requirements, python) for python in PYTHONS}
    lines = []
    for name in sorted(set().union(*versions.values())):
        found = {python: packages.get(name) for python, packages in versions.items()}
        if len(set(found.values())) == 1:
            marker = f" ; {markers[name]}" if name in markers else ""
            lines.append(f"{name}=={found[PYTHONS[0]]}{marker}")
        else:
            lines += [
                f'{name}=={version} ; python_version == "{python}"' for python, version in found.items() if version
            ]
    return lines


def write(file: str, what: str, lines: list[str]) -> None:
    text = f"# {what}; written by `make lock` from pyproject.toml for Python {' and '.join(PYTHONS)}.\n"
    (ROOT / file).write_text(text + "\n".join(lines) + "\n")
    print(f"{file}: {len(lines)} packages")


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = project["project"]["dependencies"]
    locked = pins(runtime)
    write("requirements.lock", "Everything that the service needs", locked)
    names = {line.partition("==")[0] for line in locked}
    development = pins(
        [*(line.partition(" ;")[0] for line in locked if " ;" not in line), *project["dependency-groups"]["dev"]]
    )
    only_dev = [line for line in development if line.partition("==")[0] not in names]
    write("requirements-dev.lock", "What `make test` and `make check` need besides requirements.lock", only_dev)


if __name__ == "__main__":
    main()
