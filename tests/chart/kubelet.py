"""What the kubelet makes of a container's environment."""

from __future__ import annotations

from collections.abc import Callable

from tests.chart.render import Object


def environment(container: Object, metadata: Object, secret: Callable[[str, str], str]) -> dict[str, str]:
    """The variables of a container: as written, of a secret (`secret(name, key)`), or a field of the Pod's metadata."""
    fields = {f"metadata.{name}": value for name, value in metadata.items()}
    fields |= {f"metadata.labels['{label}']": value for label, value in metadata["labels"].items()}
    resolved = {}
    for variable in container["env"]:
        match variable:
            case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
                resolved[variable["name"]] = str(fields[path])
            case {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}:
                resolved[variable["name"]] = secret(name, key)
            case {"valueFrom": source}:
                raise AssertionError(f"The source {source} of {variable['name']} is not supported here.")
            case _:
                resolved[variable["name"]] = str(variable.get("value", ""))
    return resolved
