"""nginx and Caddy as deploy/ configures them, on free ports with a certificate made here."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.ports import free_port
from tests.waiting import wait_until

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
NAME: Final = "glm.example.com"
UPSTREAM: Final = "127.0.0.1:8000"
TLS: Final = "/etc/ssl/glm-serve"


class Proxy:
    """One proxy: its TLS port, and the command that only checks its configuration."""

    def __init__(self, kind: str, folder: Path, upstream: str) -> None:
        if shutil.which(kind) is None:
            pytest.fail(f"no {kind} here: run .ci/tools")
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        make_certificate(folder)
        self.start, self.check = getattr(self, f"_{kind}")(folder, upstream)

    def _nginx(self, folder: Path, upstream: str) -> tuple[list[str], list[str]]:
        """The file is a part of `http {}`, as in /etc/nginx/conf.d."""
        text = (DEPLOY / "nginx.conf").read_text()
        for old, new in (
            ("listen [::]:443 ssl http2;", ""),
            ("listen [::]:80;", ""),
            ("listen 443 ", f"listen 127.0.0.1:{self.port} "),
            ("listen 80;", f"listen 127.0.0.1:{self.plain_port};"),
        ):
            assert old in text
            text = text.replace(old, new)
        (folder / "glm-serve.conf").write_text(text.replace(UPSTREAM, upstream).replace(TLS, str(folder)))
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "main.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{temporary}include {folder}/glm-serve.conf;\n}}\n"
        )
        start = ["nginx", "-p", str(folder), "-c", str(folder / "main.conf"), "-e", "stderr"]
        return start, [*start, "-t"]

    def _caddy(self, folder: Path, upstream: str) -> tuple[list[str], list[str]]:
        text = (DEPLOY / "Caddyfile").read_text()
        options = f"http_port {self.plain_port}\n\thttps_port {self.port}"
        assert "admin off\n" in text
        text = text.replace("admin off\n", f"admin off\n\tauto_https disable_redirects\n\t{options}\n", 1)
        (folder / "Caddyfile").write_text(text.replace(UPSTREAM, upstream).replace(TLS, str(folder)))
        named = ["--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
        return ["caddy", "run", *named], ["caddy", "validate", *named]


def make_certificate(folder: Path) -> None:
    """A key and a self-signed certificate for `NAME`."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    command += ["-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def running(kind: str, folder: Path, upstream: str) -> Iterator[Proxy]:
    """The proxy before `upstream`; ended at the end."""
    proxy = Proxy(kind, folder, upstream)
    log = folder / "proxy.log"
    with log.open("w") as stream:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)}
        process = subprocess.Popen(proxy.start, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_until(lambda: _accepts(proxy.port), 20, log.read_text)
        yield proxy
    finally:
        process.terminate()
        process.wait(20)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
