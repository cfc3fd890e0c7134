"""docs/values.md: every value of the chart with its default, its comment in values.yaml, and who needs it.

docs/generate.py writes the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

VALUES = Path(__file__).parents[1] / "helm/values.yaml"
_KEY = re.compile(r"^( *)([A-Za-z]\w*):(?: (.*))?$")
_LONGEST_DEFAULT = 60
HEAD = ("Value", "Default", "What it does", "Who needs it")

MOST_USED = {
    "image.repository": "your registry's name of the image",
    "settings": "the model (`settings.model.path`), its weight format, all limits ([settings.md](settings.md))",
    "auth.keysSecret.name": "API keys ([access.md](access.md))",
    "networkPolicy.clients": "who may call the service; nobody by default",
    "modelStorage.existingClaim": "weights on a volume of yours; `modelStorage.create` makes one",
    "stages.engine.replicas": "how many GPUs are used, at least and at most",
    "workers.gpu.replicas": "pods with GPUs: room for these replicas",
    "workers.gpu.tolerations": "taints of your GPU nodes",
    "ingress.enabled": "callers outside the cluster; or `gateway.enabled`",
    "upgrade.strategy": "`None` if there are no GPUs for a second cluster",
}

# Who needs a value, by the longest beginning of its name.
WHO = {
    "nameOverride": "parent charts",
    "fullnameOverride": "names that other objects refer to",
    "image": "everybody: the image is in your registry",
    "image.digest": "supply-chain rules",
    "image.pullPolicy": "tests with a tag that changes",
    "image.pullSecrets": "private registries",
    "settings": "everybody",
    "auth": "everybody whose callers are not trusted",
    "cache": "answer cache in Redis",
    "audit": "audit log",
    "stages": "everybody with more or less load than the default",
    "stages.engine.downscaleToZeroDelaySeconds": "scale to zero",
    "stages.engine.target": "tuning of the autoscaler, after measurements",
    "head": "many replicas; dedicated nodes",
    "workers": "everybody: hardware",
    "workers.cpu.stages": "everything in one pod",
    "workers.gpu.gpuResource": "MIG, shared GPUs, AMD",
    "workers.gpu.runtimeClassName": "clusters whose default runtime is not NVIDIA's",
    "modelStorage": "everybody but the demo",
    "modelStorage.volume": "NFS, CSI, image and host volumes",
    "modelStorage.subPath": "one volume for several models",
    "modelStorage.readOnly": "ReadOnlyMany disks",
    "modelStorage.storageClassName": "clusters whose default class is not for several nodes",
    "modelStorage.hubTokenSecret": "gated models",
    "modelStorage.fetch": "object stores",
    "autoscaler": "a fixed number of pods",
    "upgrade": "everybody with few GPUs",
    "upgrade.incremental": "upgrades in steps",
    "faultTolerance": "production with several pods",
    "faultTolerance.externalAddress": "Redis of a cloud",
    "faultTolerance.username": "Redis with access lists",
    "faultTolerance.caSecret": "Redis with a private certificate authority",
    "redis": "fault tolerance with the bundled Redis",
    "uninstall": "quotas that ask for more than these",
    "rayAuth": "debugging",
    "publish": "developers outside the cluster",
    "ingress": "callers outside the cluster",
    "gateway": "callers outside the cluster, by the Gateway API",
    "gateway.timeouts": "GKE's Gateways",
    "networkPolicy": "everybody",
    "networkPolicy.operator": "an operator elsewhere, or of a cloud",
    "networkPolicy.dns": "OpenShift and clusters with other DNS pods",
    "networkPolicy.egress": "private networks",
    "networkPolicy.extraEgress": "proxies, object stores in the cluster, workload identity",
    "networkPolicy.apiServer": "strict clusters; minikube and MicroK8s (ports)",
    "podDisruptionBudget": "clusters with their own budgets",
    "serviceAccount": "workload identity",
    "monitoring": "production",
    "monitoring.api": "Google's and Azure's Prometheus",
    "monitoring.scrapeAnnotations": "Prometheus without operator",
    "monitoring.prometheusRule.alert": "teams with routes of their own",
    "test": "`helm test` with another model or question",
    "podSecurityContext": "OpenShift",
    "labels": "Kueue, Volcano, YuniKorn",
    "annotations": "Argo CD",
    "commonLabels": "cost accounting",
    "commonAnnotations": "cost accounting",
    "extraEnv": "proxies, mirrors, Ray's flags",
    "extraEnvFrom": "variables from Secrets",
    "extraVolumes": "certificates of a private authority",
    "extraVolumeMounts": "certificates of a private authority",
    "extraInitContainers": "preparation of a node or volume",
    "extraContainers": "log shippers, proxies",
    "rayTokenSecret": "a token of your own secret store",
    "suspend": "nights without load; Kueue",
    "serveService": "load balancers of a cloud",
    "extraObjects": "objects that belong to the release",
    "overrides": "what no value covers",
}


@dataclass(frozen=True)
class Value:
    """A line of the table."""

    name: str
    default: str
    comment: str

    @property
    def who(self) -> str:
        beginnings = [start for start in WHO if self.name == start or self.name.startswith(start)]
        return WHO[max(beginnings, key=len)] if beginnings else "users of this feature"


def values_page() -> str:
    """The page as Markdown."""
    found = list(values(VALUES.read_text()))
    sections = dict.fromkeys(each.name.partition(".")[0] for each in found)
    parts = [
        "# Values of the chart",
        "<!-- written by `make docs` from helm/values.yaml; change it there -->",
        f"{len(found)} values; these ten are the ones that most installations set:",
        _table(("Value", "For"), *((f"`{name}`", text) for name, text in MOST_USED.items())),
        "Unknown names and combinations that can't work are refused with a message that names the value.\n"
        "[platforms.md](platforms.md) has examples for clouds, OpenShift, proxies, Istio, Flux and Argo CD. `head`,\n"
        "`redis`, `test` and every group of `workers` take further values: see the last section of `helm/values.yaml`.",
    ]
    single = []
    for section in sections:
        rows = [_row(each) for each in found if each.name.partition(".")[0] == section]
        if len(rows) == 1:
            single += rows
        else:
            parts += [f"## {section}", _table(HEAD, *rows)]
    parts += ["## Without a section", _table(HEAD, *single)]
    return "\n\n".join(parts) + "\n"


def _row(value: Value) -> tuple[str, ...]:
    return f"`{value.name}`", value.default, value.comment, value.who


def _table(*rows: tuple[str, ...]) -> str:
    head, *rest = rows
    lines = [head, tuple("---" for _ in head), *rest]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def values(text: str) -> Iterator[Value]:
    """Each leaf of values.yaml with its comment: on its line, before it, or else of its section."""
    tree = yaml.safe_load(text)
    path: list[tuple[int, str, str]] = []  # indentation, key, comment
    before: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            before.append(line.strip().removeprefix("#").strip())
            continue
        match = _KEY.match(line)
        if match is None:
            before = []
            continue
        indent, key, rest = len(match[1]), match[2], match[3] or ""
        content, _, remark = f" {rest}".partition(" #")
        comment = " ".join(filter(None, (" ".join(before), remark.strip())))
        before = []
        while path and path[-1][0] >= indent:
            path.pop()
        path.append((indent, key, comment))
        try:
            value = _at(tree, [name for _, name, _ in path])
        except KeyError:
            continue
        if content.strip() or not isinstance(value, dict):
            description = comment or next((each for _, _, each in reversed(path[1:]) if each), "")
            yield Value(".".join(name for _, name, _ in path), _default(value), description)


def _at(tree: Any, names: list[str]) -> Any:
    """The value of this path; KeyError for a key within a list."""
    for name in names:
        if not isinstance(tree, dict):
            raise KeyError(name)
        tree = tree[name]
    return tree


def _default(value: Any) -> str:
    written = json.dumps(value, ensure_ascii=False)
    return f"`{written}`" if len(written) <= _LONGEST_DEFAULT else "see the file"
