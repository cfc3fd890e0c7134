"""What must agree across the repository: layers, lock files, one version, modules that say what they are."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import serve_app

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = sorted((ROOT / "serve_app").rglob("*.py"))
LOCKS = ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock")
LONGEST_FIRST_LINE = 103  # so that the lines of the trees in docs/architecture.md stay readable
MOST_LINES = 350
# One sets Ray's variables, one reads KubeRay's, one the terminal's language; settings are read by pydantic.
ENVIRONMENT_READERS = {"settings.py", "private_ray.py", "drain.py", "in_flight.py", "language.py"}


def pins(*files: str) -> dict[str, set[str]]:
    """name -> the versions pinned (several if they differ between Pythons)."""
    found: dict[str, set[str]] = {}
    for file in files:
        for line in (ROOT / file).read_text().splitlines():
            if line and not line.startswith(("#", " ")):
                pin = Requirement(line.removesuffix(" \\"))
                (specifier,) = pin.specifier
                assert specifier.operator == "==", line
                found.setdefault(canonicalize_name(pin.name), set()).add(specifier.version)
    return found


def asked(requirements: list[str]) -> list[Requirement]:
    return [Requirement(requirement) for requirement in requirements]


@pytest.mark.parametrize("requirement", asked(PROJECT["project"]["dependencies"]), ids=str)
def test_a_dependency_is_locked_within_its_range(requirement: Requirement):
    locked = pins("requirements.lock", "requirements-torch.lock").get(canonicalize_name(requirement.name))
    assert locked, "not in the lock files; run `make lock`"
    assert all(requirement.specifier.contains(version) for version in locked)


@pytest.mark.parametrize("requirement", asked(PROJECT["dependency-groups"]["dev"]), ids=str)
def test_a_tool_is_locked_within_its_range(requirement: Requirement):
    locked = pins("requirements.lock", "requirements-dev.lock").get(canonicalize_name(requirement.name))
    assert locked, "not in requirements-dev.lock; run `make lock`"
    assert all(requirement.specifier.contains(version) for version in locked)


def test_what_is_installed_is_what_is_locked():
    installed = {name: version(name) for name in ("ray", "transformers", "pydantic", "fastapi", "bitsandbytes")}
    locked = pins("requirements.lock")
    assert {name: {found} for name, found in installed.items()} == {name: locked[name] for name in installed}


@pytest.mark.parametrize("file", LOCKS)
def test_every_package_is_locked_with_the_hashes_of_its_files(file: str):
    head, *rest = (ROOT / file).read_text().splitlines()
    assert head.startswith("# ")
    blocks = re.split(r"\n(?=[a-z])", "\n".join(rest))
    for block in blocks:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^\n]+?)?( \\\n    --hash=sha256:[0-9a-f]{64})+", block), block
    assert len(blocks) == sum(map(len, pins(file).values()))  # two versions where they differ by Python


def test_only_torch_and_its_libraries_are_apart_because_builds_without_cuda_are_other_files():
    apart = pins("requirements-torch.lock")
    assert "torch" in apart
    assert all(name == "torch" or name.startswith(("nvidia-", "cuda-", "triton")) for name in apart)
    assert not apart.keys() & pins("requirements.lock").keys()


@pytest.mark.parametrize("base", ["python:3.11-slim", "python@sha256:12", f"python@sha256:{'g' * 64}"])
def test_the_image_is_not_built_on_a_base_without_a_digest(base: str):
    run = subprocess.run(["make", "image", f"BASE={base}", "BUILDER=echo"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode
    assert "has no digest" in run.stderr


def test_the_image_is_built_on_a_base_that_is_named_with_its_digest():
    base = f"docker.io/library/python:3.11-slim-bookworm@sha256:{'0' * 64}"
    run = subprocess.run(["make", "image", f"BASE={base}", "BUILDER=echo"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"--build-arg BASE={base} " in run.stdout


def test_the_license_is_the_apache_license_everywhere():
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in (ROOT / "Dockerfile").read_text()


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "serve_app.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", serve_app.__version__)


def test_imports_go_down_only():
    linter = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("module", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_says_what_it_is_for(module: Path):
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    assert docstring, "no docstring"
    assert len(docstring.splitlines()[0]) <= LONGEST_FIRST_LINE


@pytest.mark.parametrize("module", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_settings_alone_read_the_environment(module: Path):
    source = module.read_text()
    if module.name not in ENVIRONMENT_READERS and "demo" not in module.parts:
        assert not re.search(r"os\.(environ|getenv)", source)


def test_app_keeps_its_annotations_for_ray():
    """With `from __future__ import annotations` Ray hands `build` an unchecked dict, without a word."""
    tree = ast.parse((ROOT / "serve_app" / "app.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


def test_what_ci_calls_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_no_module_is_longer_than_350_lines():
    lines = {str(module.relative_to(ROOT)): len(module.read_text(encoding="utf-8").splitlines()) for module in MODULES}
    assert {module: number for module, number in lines.items() if number > MOST_LINES} == {}
