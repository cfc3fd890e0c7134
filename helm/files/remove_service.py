"""Deletes the RayService before helm deletes the bundled Redis, and waits until KubeRay has removed its clusters.

To remove a cluster, KubeRay runs a Job that deletes the cluster's state in Redis, with the head's ServiceAccount and
the Secret with the password. helm deletes these before a RayService, and the Job could not start. The uninstall goes on
when the time is over. Variables: NAMESPACE, NAME, TIME_LIMIT_S, ACCOUNT (the folder of the token), and those by which a
pod finds the API server, or API_SERVER.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

POLL_S = 2.0


def api_server() -> str:
    """The address of the API server."""
    if address := os.environ.get("API_SERVER"):
        return address
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    return f"https://{f'[{host}]' if ':' in host else host}:{os.environ['KUBERNETES_SERVICE_PORT']}"


def call(method: str, resource: str) -> dict[str, Any]:
    """The API server's response; raises OSError, of which urllib's errors are kinds."""
    account = Path(os.environ["ACCOUNT"])
    url = f"{api_server()}/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/{resource}"
    headers = {"Authorization": f"Bearer {(account / 'token').read_text().strip()}"}
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=account / "ca.crt")))
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.build_opener(*handlers).open(request, timeout=10) as response:
        content: dict[str, Any] = json.load(response)
        return content


def clusters(name: str) -> list[str]:
    """The RayClusters of the RayService that are still there."""
    return [
        each["metadata"]["name"]
        for each in call("GET", "rayclusters")["items"]
        if any(owner["name"] == name for owner in each["metadata"].get("ownerReferences", []))
    ]


def still_there(name: str) -> str:
    """What is still there; empty once the service and its clusters are removed."""
    try:
        call("DELETE", f"rayservices/{name}")
    except urllib.error.HTTPError as error:
        if error.code != 404:  # deleting it again changes nothing
            return f"the RayService {name} ({error})"
    except OSError as error:
        return f"the RayService {name} ({error})"
    try:
        return ", ".join(clusters(name))
    except OSError as error:
        return f"the clusters of {name} ({error})"


def main() -> None:
    name, limit = os.environ["NAME"], time.monotonic() + float(os.environ["TIME_LIMIT_S"])
    while left := still_there(name):
        if time.monotonic() > limit:
            sys.stdout.write(f"Still there: {left}. The uninstall goes on without waiting longer.\n")
            return
        time.sleep(POLL_S)
    sys.stdout.write(f"The RayService {name} and its clusters are removed.\n")


main()
