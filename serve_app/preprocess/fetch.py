"""Fetch the file bytes of pictures: uploads, `data:` URLs, and http(s) addresses, which must be public.

A caller can make this service fetch any address (SSRF), so a host is resolved once, refused unless all its
addresses are public, and connected to by the checked address: no second DNS query, every redirect checked
again, no proxy, no cookies, no credentials, no compression, and no more bytes than a picture may have.
"""

import asyncio
import base64
import binascii
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeAlias

import httpx

from serve_app.contracts import ImagePart
from serve_app.preprocess.picture_limits import ImageLabel, check_bytes, label_of
from serve_app.settings import PreprocessSettings

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]

_REDIRECTS = 3
_PORTS = (80, 443)
_CONNECT_S = 3.0  # one address of a host; then the next one
_ADDRESSES = 4  # tried for one host
_UNICAST6 = ipaddress.IPv6Network("2000::/3")  # all that is routed on the internet
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in its last four bytes


async def resolve_host(host: str, port: int) -> list[str]:
    """All addresses of a host by the system's resolver, in its order of preference."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def is_public(address: str) -> bool:
    """Whether an address is on the internet: not private, loopback, link-local, shared, multicast or a mapped one."""
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


def decode_data_url(url: str, label: ImageLabel, max_bytes: int) -> bytes:
    """The bytes of a `data:...;base64,` URL; raises ImageRejected if it is not strict base64 or too large."""
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise label.rejected('is a data: URL without base64. It must begin like "data:image/png;base64,"')
    if any(space in payload for space in "\r\n\t "):  # lines of 76 characters, as mail and shells make them
        payload = "".join(payload.split())
    size = len(payload) * 3 // 4
    check_bytes(size - 2, max_bytes, label)  # up to two bytes are padding
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise label.rejected("is not valid base64. Use A-Z, a-z, 0-9, + and /, with = at the end") from error


class Fetcher:
    """Opens the sources of pictures."""

    def __init__(
        self,
        settings: PreprocessSettings,
        resolver: Resolver = resolve_host,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        # Connections are not kept: one that was opened for a host must not be used for another at the same address.
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=0),
            timeout=httpx.Timeout(settings.fetch_timeout_s, connect=min(_CONNECT_S, settings.fetch_timeout_s)),
            cookies=_refuse_cookies(),
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "glm-vision-serve"},
        )

    async def fetch_all(self, pictures: Sequence[ImagePart]) -> list[bytes]:
        """The files of a request's pictures, fetched together; raises ImageRejected for the first that fails."""
        tasks = [asyncio.ensure_future(self._open(part, label_of(part, n))) for n, part in enumerate(pictures)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # one refused picture refuses the request: the others are not needed
                task.cancel()

    async def fetch(self, url: str, label: ImageLabel) -> bytes:
        """The body at an address; raises ImageRejected if it is refused, unreachable, slow or too large."""
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                return await self._follow(url, label)
        except TimeoutError as error:
            raise label.rejected(
                f"could not be fetched within {self._settings.fetch_timeout_s:g} seconds. Send the picture itself"
            ) from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _open(self, part: ImagePart, label: ImageLabel) -> bytes:
        if isinstance(part.source, bytes):
            return part.source
        scheme = part.source[:8].lower()
        if scheme.startswith("data:"):
            return await asyncio.to_thread(decode_data_url, part.source, label, self._settings.max_image_bytes)
        if scheme.startswith(("http:", "https:")):
            return await self.fetch(part.source, label)
        raise label.rejected("must be a data: URL or an http(s) address")

    async def _follow(self, url: str, label: ImageLabel) -> bytes:
        target = _parse(url, label)
        for _ in range(_REDIRECTS + 1):
            addresses = await self._checked_addresses(target, label)
            found = await self._get(target, addresses, label)
            if isinstance(found, bytes):
                return found
            target = found
        raise label.rejected(f"is behind more than {_REDIRECTS} redirects")

    async def _checked_addresses(self, target: httpx.URL, label: ImageLabel) -> list[str]:
        private = self._settings.fetch_private_addresses
        if target.scheme not in ("http", "https"):
            raise label.rejected(f"has a {target.scheme!r} address. Only http and https are fetched")
        if not target.host or target.userinfo:
            raise label.rejected("has an address without a host or with a user name. Send a plain http(s) address")
        port = target.port or (443 if target.scheme == "https" else 80)
        if port not in _PORTS and not private:
            raise label.rejected(f"has an address with port {port}. Only ports 80 and 443 are fetched")
        try:
            addresses = await self._resolver(target.host, port)
        except (OSError, UnicodeError) as error:
            raise label.rejected(f"has the unknown host {target.host}. Check the address") from error
        if not private and not all(map(is_public, addresses)):
            raise label.rejected(f"is at {target.host}, which is not a public address. Send the picture itself")
        return addresses[:_ADDRESSES]

    async def _get(self, target: httpx.URL, addresses: list[str], label: ImageLabel) -> bytes | httpx.URL:
        for address in addresses:
            # The URL has the checked address instead of the host, so no other address is connected to.
            # TLS still requests and verifies the certificate of the host.
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
                raise label.rejected(f"could not be fetched from {target.host}") from error
            try:
                return await self._read(response, target, label)
            except httpx.HTTPError as error:
                raise label.rejected(f"could not be fetched completely from {target.host}") from error
            finally:
                await response.aclose()
        raise label.rejected(f"could not be fetched: no connection to {target.host}")

    async def _read(self, response: httpx.Response, target: httpx.URL, label: ImageLabel) -> bytes | httpx.URL:
        if response.has_redirect_location:
            try:
                return target.join(response.headers["Location"])
            except httpx.InvalidURL as error:
                raise label.rejected(f"is redirected by {target.host} to an address that is not a valid URL") from error
        if response.status_code != httpx.codes.OK:
            raise label.rejected(f"could not be fetched: {target.host} answered with status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise label.rejected(f"is sent compressed by {target.host}, although that was not requested")
        limit = self._settings.max_image_bytes
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise label.rejected(f"is more than {limit / 2**20:.3g} MiB, the limit. Send a smaller file")
        return bytes(body)


def _refuse_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # stores none, so it sends none


def _parse(url: str, label: ImageLabel) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise label.rejected("has an address that is not a valid URL") from error
