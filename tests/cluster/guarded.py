"""A service with keys, tokens, an answer cache and a required audit log on a small disk."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from serve_app.audit.files import audit_files, lines_of
from tests.cluster.conftest import Service, started
from tests.cluster.credentials import AUDIENCE, ISSUER, Credentials

DISK = "64m"


@dataclass
class Guarded:
    """The running service."""

    service: Service
    credentials: Credentials
    audit: Path  # the folder as this process sees it

    @property
    def base_url(self) -> str:
        return self.service.base_url

    def raw(self, request: str, kind: str) -> tuple[int, str]:
        """Status and body of a request whose first line no client would send."""
        host, port = self.base_url.removeprefix("http://").split(":")
        lines = [request, f"Host: {host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.credentials.headers[kind].items()]
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode(errors="replace")

    def lines(self, kind: str = "request") -> list[dict[str, Any]]:
        found = [json.loads(data) for file in audit_files(self.audit) for _, data in lines_of(file)]
        return [line for line in found if line["kind"] == kind]

    def kill(self, stage: str) -> None:
        for process in psutil.Process(self.service.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if f"ServeReplica:glm:{stage}" in " ".join(process.cmdline()):
                    process.kill()


@contextmanager
def guarded_service(folder: Path) -> Iterator[Guarded]:
    """`glm-serve up` in a mount namespace of its own, where the disk of the audit log is."""
    credentials, disk = Credentials([folder]), folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={DISK} tmpfs {disk} && exec "$@"'
    settings = {
        "GLM_JWT__KEYS": str(folder / "jwks.json"),
        "GLM_JWT__ISSUER": ISSUER,
        "GLM_JWT__AUDIENCE": AUDIENCE,
        "GLM_JWT__TENANT_CLAIM": "org",
        "GLM_JWT__REFRESH_S": "10",
        "GLM_CACHE__BACKEND": "memory",
        "GLM_AUDIT__MODE": "required",
        "GLM_AUDIT__FOLDER": str(disk / "audit"),
    }
    within = ("unshare", "-m", "bash", "-c", mount, "--")
    with started(folder, "--keys", str(credentials.file), within=within, **settings) as service:
        yield Guarded(service, credentials, Path(f"/proc/{service.process.pid}/root{disk}/audit"))
