"""Writes k8s/base and k8s/overlays from the chart, for `kubectl apply -k`; --check reports differences.

    python k8s/generate.py [--check]

base is the chart rendered with values.yaml; an overlay is one of its profiles, as differences from the base: JSON
patches (RFC 6902), additional objects, removed objects. What only helm can use is left out: its hooks (the test), its
labels and annotations, and the Secret with a random password.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART = HERE.parent / "helm"
HELM = HERE.parent / ".tools/bin/helm4"
RELEASE = "glm-vision-serve"
NAMESPACE = "glm"  # alerts contain it, so `kubectl -n` can't set it
OVERLAYS = {
    "demo-cpu": "values-cpu-demo.yaml",
    "single-gpu": "values-single-24g.yaml",
    "cluster": "values-cluster.yaml",
}

Object = dict[str, Any]
Key = tuple[str, str, str]

_HELM_NAME = re.compile(r"(.+\.)?helm\.sh/|meta\.helm\.sh/")
# Strings that YAML parsers other than PyYAML read as numbers.
_LIKE_A_NUMBER = re.compile(r"[-+.]?\d[\d_.eE+-]*|0[xo][\da-fA-F]+")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Indents by two spaces, lists too; writes multi-line strings as literal blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else '"' if _LIKE_A_NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _string)


def file_text(value: Any, source: str) -> str:
    """A file's text: a comment with its source, then YAML."""
    body = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# Written by k8s/generate.py from {source}: change that, or patch this file in your own overlay.\n{body}"


def rendered(*value_files: str) -> dict[Key, Object]:
    """The chart's objects without the parts for helm, by apiVersion, kind and name."""
    files = [part for file in value_files for part in ("--values", str(CHART / file))]
    command = [str(HELM), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, *files]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        sys.exit(f"{HELM} is missing. Run .ci/tools.")
    if run.returncode:
        sys.exit(run.stderr)
    return without_helm([each for each in yaml.load_all(run.stdout, Loader=yaml.CSafeLoader) if each])


def without_helm(objects: list[Object]) -> dict[Key, Object]:
    """Removes hooks, the random Secret, and helm's labels and annotations."""
    kept = {}
    for each in objects:
        metadata = each["metadata"]
        if "helm.sh/hook" in (metadata.get("annotations") or {}) or each["kind"] == "Secret":
            continue
        for field in ("labels", "annotations"):
            present = metadata.get(field) or {}
            ours = {name: value for name, value in present.items() if not _belongs_to_helm(name)}
            metadata.pop(field, None)
            if ours:
                metadata[field] = ours
        kept[each["apiVersion"], each["kind"], metadata["name"]] = each
    return kept


def _belongs_to_helm(name: str) -> bool:
    return name == "app.kubernetes.io/managed-by" or _HELM_NAME.match(name) is not None


def file_name(key: Key) -> str:
    """The kind, then the name without the release's name."""
    _, kind, name = key
    suffix = name.removeprefix(RELEASE)
    return f"{kind.lower()}{suffix}"


def pointer(*steps: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def patch(old: Any, new: Any, place: str = "") -> Iterator[Object]:
    """The operations of RFC 6902 that change `old` into `new`; list items are matched by name or groupName."""
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):  # in Python, 1 equals True
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            if key in new:
                yield from patch(old[key], new[key], place + pointer(key))
            else:
                yield {"op": "remove", "path": place + pointer(key)}
        for key in new:
            if key not in old:
                yield {"op": "add", "path": place + pointer(key), "value": new[key]}
    elif (names := _names(old)) and (wanted := _names(new)) and _is_in_order(wanted, names):
        for index in reversed(range(len(names))):
            if names[index] not in wanted:
                yield {"op": "remove", "path": place + pointer(index)}
        kept = [each for each, name in zip(old, names, strict=True) if name in wanted]
        for index, each in enumerate(new):
            if index < len(kept):
                yield from patch(kept[index], each, place + pointer(index))
            else:
                yield {"op": "add", "path": place + pointer("-"), "value": each}
    else:
        yield {"op": "replace", "path": place, "value": new}


def _names(value: Any) -> list[str]:
    """The names that identify the items of a list; empty if an item has none or two have the same."""
    items = value if isinstance(value, list) else []
    names: list[Any] = [each.get("groupName", each.get("name")) if isinstance(each, dict) else None for each in items]
    return [] if None in names or len(set(names)) < len(names) else names


def _is_in_order(wanted: list[str], names: list[str]) -> bool:
    """Whether the kept items come first and in their old order."""
    kept = [name for name in names if name in wanted]
    return wanted[: len(kept)] == kept


def files() -> dict[Path, str]:
    """Every generated file with its content."""
    base = rendered()
    made = _folder(HERE / "base", "helm/values.yaml", {"resources": []}, base)
    for name, values in OVERLAYS.items():
        made |= _overlay(HERE / "overlays" / name, f"helm/{values}", base, rendered(values))
    return made


def _folder(folder: Path, source: str, kustomization: Object, objects: dict[Key, Object]) -> dict[Path, str]:
    made = {folder / f"{file_name(key)}.yaml": file_text(each, source) for key, each in objects.items()}
    kustomization["resources"] += [path.name for path in made]
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAMESPACE}
    return {folder / "kustomization.yaml": file_text(head | kustomization, source), **made}


def _overlay(folder: Path, source: str, base: dict[Key, Object], wanted: dict[Key, Object]) -> dict[Path, str]:
    patches: list[Object] = []
    made = {}
    for key, old in base.items():
        if key not in wanted:
            named = {"$patch": "delete", "apiVersion": key[0], "kind": key[1], "metadata": {"name": key[2]}}
            patches.append({"patch": yaml.dump(named, sort_keys=False)})
        elif operations := list(patch(old, wanted[key])):
            path = folder / f"{file_name(key)}-patch.yaml"
            made[path] = file_text(operations, source)
            patches.append({"path": path.name, "target": {"kind": key[1], "name": key[2]}})
    more = {key: each for key, each in wanted.items() if key not in base}
    kustomization: Object = {"resources": ["../../base"], "patches": patches}
    return _folder(folder, source, kustomization, more) | made


def drift(wanted: dict[Path, str]) -> list[str]:
    """The differences between the folders and the generated files, one sentence each."""
    there = {path for name in ("base", "overlays") for path in (HERE / name).rglob("*") if path.is_file()}
    differences = []
    for path in sorted(there | wanted.keys()):
        if path not in wanted:
            differences.append(f"{path.relative_to(HERE.parent)} does not come from the chart.")
        elif path not in there:
            differences.append(f"{path.relative_to(HERE.parent)} is missing.")
        elif path.read_text() != wanted[path]:
            differences.append(f"{path.relative_to(HERE.parent)} is out of date.")
    return differences


def main() -> None:
    wanted = files()
    if "--check" in sys.argv[1:]:
        if differences := drift(wanted):
            sys.exit("\n".join([*differences, "Run `python k8s/generate.py`."]))
        return
    for name in ("base", "overlays"):
        for path in (HERE / name).rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main()
