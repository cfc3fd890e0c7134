"""Ray's dashboard on the head, called as KubeRay's operator calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

PORT = 8265
APPLICATIONS = "/api/serve/applications/"


@dataclass(frozen=True)
class Dashboard:
    """The head's address, and the token of its cluster."""

    address: str
    token: str = field(repr=False)

    def request(self, method: str, path: str, body: Any = None, timeout_s: float = 30.0) -> httpx.Response:
        url = f"http://{self.address}:{PORT}{path}"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.request(method, url, json=body, headers=headers, timeout=timeout_s, trust_env=False)

    def deploy(self, config: Mapping[str, Any]) -> httpx.Response:
        """Sends `serveConfigV2` to Serve."""
        return self.request("PUT", APPLICATIONS, config, 60)

    def serve(self) -> dict[str, Any]:
        """Serve's status: applications and proxies."""
        response = self.request("GET", APPLICATIONS)
        assert response.status_code == 200, response.text
        status: dict[str, Any] = response.json()
        return status

    def application(self) -> dict[str, Any]:
        """Our application: status, message, deployments with their replicas."""
        found: dict[str, Any] = self.serve()["applications"].get("glm", {"status": "NOT_THERE"})
        return found

    def worker_nodes(self) -> dict[str, str]:
        """The worker group of each living worker node, by the node's id."""
        response = self.request("GET", "/api/v0/nodes?detail=True&limit=100")
        response.raise_for_status()
        found = response.json()["data"]["result"]["result"]
        alive = [node for node in found if node["state"] == "ALIVE" and not node["is_head_node"]]
        return {node["node_id"]: node["labels"]["ray.io/node-group"] for node in alive}
