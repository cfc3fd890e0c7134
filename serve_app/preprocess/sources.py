"""Where a picture comes from -> its file bytes: upload, `data:` URL, or an address on the internet.

A caller may make this service fetch any address, so an address is looked up once, refused unless it is
public, and connected to by the very number that was checked: no second look-up, no redirect unchecked,
no proxy, no cookie, no credentials, no compression, and no more bytes than a picture may have.
"""

import asyncio
import base64
import binascii
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeAlias

import httpx

from serve_app.preprocess.images import Name
from serve_app.settings import PreprocessSettings

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]

_REDIRECTS = 3
_PORTS = (80, 443)
_CONNECT_S = 3.0  # one address of a host; then the next one
_ADDRESSES = 4  # tried for one host
_UNICAST6 = ipaddress.IPv6Network("2000::/3")  # all that is routed on the internet
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in its last four bytes


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host, by the system's resolver, in its order of preference."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def is_public(address: str) -> bool:
    """Whether an address is on the internet: not private, loopback, link-local, shared, multicast or a disguise."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        # 6to4 and Teredo carry an IPv4 address of the caller's choice
        if ip not in _UNICAST6 or ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def decode_data_url(url: str, name: Name, max_bytes: int) -> bytes:
    """The bytes of a `data:...;base64,` URL; raises ImageRejected if it is not strict base64 or too large."""
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise name.rejected('is a data: URL without base64; it must begin like "data:image/png;base64,"')
    if any(space in payload for space in "\r\n\t "):  # lines of 76 characters, as mail and shells make them
        payload = "".join(payload.split())
    size = len(payload) * 3 // 4
    if size > max_bytes + 2:
        raise name.rejected(f"is {size / 2**20:.3g} MiB; the limit is {max_bytes / 2**20:.3g}")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise name.rejected("is not valid base64 (A-Z, a-z, 0-9, +, / and = at the end)") from error


class Fetcher:
    """Gets pictures from `http:` and `https:` addresses."""

    def __init__(
        self,
        settings: PreprocessSettings,
        resolver: Resolver = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        # Connections are not kept: one that was opened for a host must not serve another at the same address.
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=0),
            timeout=httpx.Timeout(settings.fetch_timeout_s, connect=min(_CONNECT_S, settings.fetch_timeout_s)),
            cookies=_no_cookies(),
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "glm-vision-serve"},
        )

    async def fetch(self, url: str, name: Name) -> bytes:
        """The body at an address; raises ImageRejected if it is refused, unreachable, slow or too large."""
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                return await self._follow(url, name)
        except TimeoutError as error:
            raise name.rejected(f"could not be fetched within {self._settings.fetch_timeout_s:g} seconds") from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _follow(self, url: str, name: Name) -> bytes:
        target = _parse(url, name)
        for _ in range(_REDIRECTS + 1):
            addresses = await self._checked_addresses(target, name)
            found = await self._get(target, addresses, name)
            if isinstance(found, bytes):
                return found
            target = found
        raise name.rejected(f"is behind more than {_REDIRECTS} redirects")

    async def _checked_addresses(self, target: httpx.URL, name: Name) -> list[str]:
        private = self._settings.fetch_private_addresses
        if target.scheme not in ("http", "https"):
            raise name.rejected(f"is at a {target.scheme!r} address; only http and https are fetched")
        if not target.host or target.userinfo:
            raise name.rejected("is at an address without a host, or with a user name; neither is fetched")
        port = target.port or (443 if target.scheme == "https" else 80)
        if port not in _PORTS and not private:
            raise name.rejected(f"is at port {port}; only 80 and 443 are fetched")
        try:
            addresses = await self._resolver(target.host, port)
        except (OSError, UnicodeError) as error:
            raise name.rejected(f"is at {target.host}, a host that is not known") from error
        if not private and not all(map(is_public, addresses)):
            raise name.rejected(f"is at {target.host}, which is not a public address; it is not fetched")
        return addresses[:_ADDRESSES]

    async def _get(self, target: httpx.URL, addresses: list[str], name: Name) -> bytes | httpx.URL:
        for address in addresses:
            # The address stands in for the host: what was checked is what is connected to. TLS still
            # asks for, and verifies, the host's own certificate.
            request = self._client.build_request(
                "GET",
                target.copy_with(host=address.partition("%")[0]),
                headers={"Host": target.netloc.decode("ascii")},
                extensions={"sni_hostname": target.host},
            )
            try:
                response = await self._client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise name.rejected(f"could not be fetched from {target.host}") from error
            try:
                return await self._read(response, target, name)
            except httpx.HTTPError as error:
                raise name.rejected(f"could not be fetched whole from {target.host}") from error
            finally:
                await response.aclose()
        raise name.rejected(f"could not be fetched: no connection to {target.host}")

    async def _read(self, response: httpx.Response, target: httpx.URL, name: Name) -> bytes | httpx.URL:
        if response.has_redirect_location:
            try:
                return target.join(response.headers["Location"])
            except httpx.InvalidURL as error:
                raise name.rejected(f"is redirected by {target.host} to no valid address") from error
        if response.status_code != httpx.codes.OK:
            raise name.rejected(f"could not be fetched: {target.host} answered with status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise name.rejected(f"is sent compressed by {target.host}, although that was not asked for")
        limit = self._settings.max_image_bytes
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise name.rejected(f"is more than {limit / 2**20:.3g} MiB, the limit")
        return bytes(body)


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # takes none, so it sends none


def _parse(url: str, name: Name) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise name.rejected("is at an address that is not a valid URL") from error
