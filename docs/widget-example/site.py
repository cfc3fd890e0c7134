"""A site with the widget: its page, and the route from which the widget gets a token.

GLM_URL=http://127.0.0.1:8000 GLM_KEY=glm-… python docs/widget-example/site.py

The key needs the scope `widget` and stays on the server; a real site checks its own session before it issues a token.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("index.html").read_text(encoding="utf-8")
LIMITS = {"requests_per_second": 1, "concurrent_requests": 2, "pictures_per_minute": 20}


def issued_token(service: str, key: str, origin: str) -> bytes:
    """The response of /v1/widget/tokens, as JSON."""
    body = json.dumps({"origin": origin, "expires_in_s": 600, "limits": LIMITS}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{service}/v1/widget/tokens", body, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
    return content


def site(service: str, key: str, port: int = 0) -> ThreadingHTTPServer:
    """The site on loopback; the caller runs `serve_forever`."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, "text/html; charset=utf-8", PAGE.replace("%SERVICE%", service).encode())

        def do_POST(self) -> None:
            origin = f"http://{self.headers['Host']}"
            if self.path != "/glm-token" or self.headers.get("Origin") != origin:  # only pages of this site
                self._send(403, "text/plain", b"")
                return
            try:
                self._send(200, "application/json", issued_token(service, key, origin))
            except urllib.error.HTTPError as error:
                self.log_error("no token: %s", error.read().decode())
                self._send(502, "text/plain", b"")

        def _send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Site)


if __name__ == "__main__":
    site(os.environ["GLM_URL"], os.environ["GLM_KEY"], 8090).serve_forever()
