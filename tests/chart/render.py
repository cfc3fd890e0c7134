"""The chart rendered by a real helm, as objects: what every test of this folder reads."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
BINARIES = ROOT / ".tools/bin"
RELEASE = "glm"
NAMESPACE = "glm"
PROFILES = ("cpu-demo", "single-24g", "cluster")
HELMS = ("helm3", "helm4")

Object = dict[str, Any]


def render(
    *value_files: str | Path, helm: str = "helm4", set: Mapping[str, Any] | None = None, release: str = RELEASE
) -> list[Object]:
    """The objects of `helm template`, in helm's order; a copy of its own for each caller.

    Value files are named from the chart's folder, or by their whole path. The keys of `set` are paths as helm's --set
    takes them; values are any JSON, so a number in quotes stays a string. Fails the test with helm's own words where
    helm refuses.
    """
    run = template(*value_files, helm=helm, set=set, release=release)
    if run.returncode:
        pytest.fail(f"{helm} template {' '.join(map(str, value_files))} {dict(set or {})}: {run.stderr.strip()}")
    return copy.deepcopy(_parsed(run.stdout))


def refusal(*value_files: str | Path, helm: str = "helm4", set: Mapping[str, Any] | None = None) -> str:
    """What helm says when it refuses these values; fails the test where it takes them."""
    run = template(*value_files, helm=helm, set=set)
    if not run.returncode:
        pytest.fail(f"{helm} took {' '.join(map(str, value_files))} {dict(set or {})}")
    return run.stderr


def template(
    *value_files: str | Path, helm: str = "helm4", set: Mapping[str, Any] | None = None, release: str = RELEASE
) -> subprocess.CompletedProcess[str]:
    """One run of `helm template`; the same arguments are run once a session."""
    files = tuple(str(CHART / file) for file in value_files)
    return _template(helm, release, files, tuple((key, json.dumps(value)) for key, value in (set or {}).items()))


@lru_cache(maxsize=256)
def _template(
    helm: str, release: str, files: tuple[str, ...], sets: tuple[tuple[str, str], ...]
) -> subprocess.CompletedProcess[str]:
    arguments = [str(binary(helm)), "template", release, str(CHART), "--namespace", NAMESPACE]
    arguments += [part for file in files for part in ("--values", file)]
    arguments += [part for key, value in sets for part in ("--set-json", f"{key}={value}")]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


@lru_cache(maxsize=64)
def _parsed(manifests: str) -> list[Object]:
    return [each for each in yaml.load_all(manifests, Loader=yaml.CSafeLoader) if each]


def binary(name: str) -> Path:
    """The path of helm3, helm4 or kubectl; fails the test where `.ci/tools` has not run."""
    path = BINARIES / name
    if not path.exists():
        pytest.fail(f"no {name} in .tools/bin: run .ci/tools")
    return path


def profile(name: str, helm: str = "helm4") -> list[Object]:
    """The objects of one of `PROFILES`."""
    return render(f"values-{name}.yaml", helm=helm)


def ci_value_sets() -> list[Path]:
    """The value files of helm/ci: what the profiles don't set, set once."""
    return sorted((CHART / "ci").glob("*.yaml"))


def every_value_set() -> list[Any]:
    """For parametrize: the value files of all that tests render, which are the defaults, every profile and helm/ci."""
    named: list[tuple[str, tuple[Path, ...]]] = [("defaults", ())]
    named += [(name, (CHART / f"values-{name}.yaml",)) for name in PROFILES]
    named += [(file.stem, (file,)) for file in ci_value_sets()]
    return [pytest.param(files, id=name) for name, files in named]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def rayservice(objects: list[Object]) -> Object:
    """The one RayService of a release."""
    (only,) = of_kind(objects, "RayService")
    return only


def name_of(each: Object) -> str:
    """Kind and name, for a message."""
    return f"{each['kind']}/{each['metadata']['name']}"
