"""An API server with a few objects, enough for helm's `lookup`: discovery, and GET of one object by its name.

There are no Secrets of releases: for `helm install`, nothing is installed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.chart.render import Object

_RESOURCES = {
    "/api/v1": {
        "configmaps": "ConfigMap",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "pods": "Pod",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "/apis/apps/v1": {"statefulsets": "StatefulSet"},
    "/apis/networking.k8s.io/v1": {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
    "/apis/policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "/apis/ray.io/v1": {"rayservices": "RayService", "rayclusters": "RayCluster"},
}


@contextmanager
def api_server(*objects: Object) -> Iterator[str]:
    """The address of a server that has these objects, for helm's --kube-apiserver."""
    plural = {kind: name for kinds in _RESOURCES.values() for name, kind in kinds.items()}
    answers = _discovery()
    for each in objects:
        version = each["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        metadata = each["metadata"]
        answers[f"{root}/namespaces/{metadata['namespace']}/{plural[each['kind']]}/{metadata['name']}"] = each

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = answers.get(path)
            if "/namespaces/" in path and path.endswith("/secrets"):  # `helm install` lists its releases there
                found = {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found or missing).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _discovery() -> dict[str, Object]:
    groups = []
    for path in _RESOURCES:
        if path.startswith("/apis/"):
            name, version = path.removeprefix("/apis/").split("/")
            served = {"groupVersion": f"{name}/{version}", "version": version}
            groups.append({"name": name, "versions": [served], "preferredVersion": served})
    answers: dict[str, Object] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    }
    for path, kinds in _RESOURCES.items():
        answers[path] = {
            "kind": "APIResourceList",
            "groupVersion": path.removeprefix("/apis/").removeprefix("/api/"),
            "resources": [
                {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
                for name, kind in kinds.items()
            ],
        }
    return answers
