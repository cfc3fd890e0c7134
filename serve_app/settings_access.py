"""Settings of access: who may send requests (API keys, JWT, trusted proxy), and how many."""

from ipaddress import ip_address
from typing import Literal, TypeAlias

from pydantic import Field

from serve_app.settings_section import Section

Algorithm: TypeAlias = Literal["RS256", "ES256", "EdDSA"]


class AccessSettings(Section):
    """Who may send requests. Without any of `keys_file`, `jwt.keys`, `jwt.secret_file` and `proxy_header` there is no
    authentication."""

    keys_file: str = Field(
        "", description="File of API keys, written by `glm-serve keys`; changes take effect within two seconds."
    )
    anonymous: Literal["loopback", "allow"] = Field(
        "loopback",
        description="Requests without credentials. loopback: accepted only without authentication and on a loopback"
        " address; the service does not start on any other address without authentication. allow: always accepted.",
    )
    public_docs: bool = Field(True, description="/docs and /openapi.json need no credentials.")
    widget_secret_file: str = Field(
        "",
        description="File with the secret, at least 32 bytes, that signs widget tokens; empty: each ingress replica has"
        " a random one, and tokens are valid for that replica until it ends.",
    )
    proxy_header: str = Field(
        "",
        description="Header in which a single sign-on proxy names the caller, for example X-Forwarded-User; it is"
        " accepted from `access.trusted_proxies` only.",
    )
    proxy_tenant_header: str = Field(
        "", description="Header in which that proxy names the tenant; empty: the tenant is `default`."
    )
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Networks (`10.1.2.0/24`) from which `access.proxy_header` is accepted."
    )
    metric_classes: tuple[str, ...] = Field(
        (),
        max_length=20,
        description="Classes of tenants that metrics may have as a label; the file of keys gives tenants their class."
        " Any other class is counted as `other`.",
    )


class JwtSettings(Section):
    """JSON Web Tokens: `Authorization: Bearer` with a token that an identity provider has signed."""

    keys: str = Field(
        "",
        description="The provider's public keys (JWKS): an https address, or the path of a file. http is accepted for"
        " loopback addresses only.",
    )
    secret_file: str = Field(
        "", description="File with the shared secret of HS256 tokens, at least 32 bytes; instead of `jwt.keys`."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        ("RS256", "ES256", "EdDSA"), min_length=1, description="Accepted signatures with `jwt.keys`."
    )
    issuer: str = Field("", description="Required value of `iss`.")
    audience: str = Field("", description="Required value of `aud`, or one of its values.")
    leeway_s: float = Field(
        30.0, ge=0, le=300, description="Tolerated difference of clocks for `exp` and `nbf`, in seconds."
    )
    refresh_s: float = Field(
        300.0,
        ge=10,
        description="Interval at which the keys are read again, in seconds; an unknown key id reads them earlier.",
    )
    caller_claim: str = Field("sub", min_length=1, description="Claim with the caller's id.")
    tenant_claim: str = Field("", description="Claim with the tenant; empty: the tenant is `default`.")
    scope_claim: str = Field(
        "",
        description="Claim with the scopes (`inference`, `metrics`, `admin`, `widget`, `chat`), a list or separated by"
        " spaces; empty: every token has `inference`.",
    )

    @property
    def enabled(self) -> bool:
        return bool(self.keys or self.secret_file)


class LimitSettings(Section):
    """What one caller, and all callers of one tenant together, may use; 0: no limit. Entries of the file of keys take
    precedence."""

    requests_per_second: float = Field(0.0, ge=0, description="Requests of a caller per second.")
    concurrent_requests: int = Field(0, ge=0, description="Requests of a caller in progress.")
    tokens_per_minute: int = Field(0, ge=0, description="Tokens of a caller per minute, of prompts and answers.")
    pictures_per_minute: int = Field(0, ge=0, description="Pictures of a caller per minute.")
    tenant_requests_per_second: float = Field(0.0, ge=0, description="Requests of a tenant per second.")
    tenant_concurrent_requests: int = Field(0, ge=0, description="Requests of a tenant in progress.")
    tenant_tokens_per_minute: int = Field(0, ge=0, description="Tokens of a tenant per minute.")
    tenant_pictures_per_minute: int = Field(0, ge=0, description="Pictures of a tenant per minute.")
    redis_url: str = Field(
        "",
        description="Redis that counts for all ingress replicas (`redis://host:6379/0`, `rediss://` with TLS); empty:"
        " each replica counts for itself.",
    )
    redis_user: str = Field("", description="User name of that Redis.")
    redis_password_file: str = Field("", description="File with the password of that Redis.")
    redis_timeout_ms: float = Field(
        50.0,
        gt=0,
        le=1000,
        description="Longest time for Redis, in milliseconds; after it each replica counts for itself for a while.",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to this address."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
