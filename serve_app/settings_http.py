"""Settings of the HTTP API: address, page, who may call it from a browser, and limits of requests."""

from typing import Literal

from pydantic import Field

from serve_app.settings_section import Section


class HttpSettings(Section):
    """The HTTP API and its limits."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback by default.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the HTTP API.")
    unknown_fields: Literal["refuse", "ignore"] = Field(
        "refuse", description="Unknown fields of a request: refused by name, or named in the header X-Ignored-Fields."
    )
    keep_alive_s: float = Field(
        15.0, gt=0, description="A stream without news for this many seconds gets a comment line; proxies cut at 60."
    )
    recent_items_bytes: int = Field(
        16 * 2**20,
        ge=0,
        description="Memory of an ingress replica for items of recent answers, to which /v1/responses may be sent"
        " references, in bytes; 0: none are kept.",
    )
    max_choices: int = Field(8, ge=1, le=128, description="Maximum number of choices of one request (`n`).")
    max_body_bytes: int = Field(64 * 2**20, ge=1024, description="Largest request body, in bytes.")
    request_timeout_s: float = Field(300.0, gt=0, description="Longest time for one answer, in seconds.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Names that the Host header may have besides loopback names; empty: only loopback names where the"
        " service listens on a loopback address, any name elsewhere. `*`: any name.",
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        description="Origins (`https://shop.example`) whose pages may use the API from a browser (CORS); `*`: all.",
    )
    web_page: bool = Field(
        True, description="Browsers get a page for questions at `/`; it and the widget have their files under `/web/`."
    )
    max_connections: int = Field(2048, ge=8, description="Maximum number of open connections of one ingress replica.")
    header_timeout_s: float = Field(
        10.0, gt=0, description="Longest time to receive the headers of a request, in seconds."
    )
    max_header_bytes: int = Field(
        32 * 2**10, ge=1024, description="Maximum size of a request line and its headers, in bytes."
    )
    max_headers: int = Field(100, ge=16, description="Maximum number of header fields of one request.")
    send_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Longest time for which a client may leave a part of a response unread, in seconds; then its"
        " connection is closed.",
    )
    body_timeout_s: float = Field(120.0, gt=0, description="Longest time to receive one request body, in seconds.")
    body_grace_s: float = Field(
        10.0,
        gt=0,
        description="Time from the start of a body in which `http.min_body_bytes_per_s` does not apply, in seconds.",
    )
    min_body_bytes_per_s: int = Field(
        32 * 2**10, ge=1, description="Minimum rate at which a request body must arrive, in bytes per second."
    )
    max_unfinished_bodies: int = Field(
        256,
        ge=1,
        description="Maximum number of bodies that are being received; above it, the oldest is refused (408).",
    )
    max_bytes_in_flight: int = Field(
        512 * 2**20,
        ge=2**20,
        description="Maximum size of the bodies of all requests in progress, in bytes; above it, the largest body"
        " that is still being received is refused (503).",
    )
    max_wait_s: float = Field(
        60.0,
        gt=0,
        description="Longest expected time of a request, by the measured rate, in seconds; above it, it is refused"
        " (503).",
    )

    @property
    def local_url(self) -> str:
        """Where this machine reaches the API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
