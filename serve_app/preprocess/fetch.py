"""Fetch pictures from http(s) addresses, which must be public.

A caller can make this service fetch any address (SSRF), so a host is resolved once, refused unless all its
addresses are public, and connected to by the checked address: no second DNS query, every redirect checked
again, no proxy, no cookies, no credentials, no compression, and no more bytes than a picture may have.
The number of fetches is limited in total and for each host, so a slow host delays only fetches from itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

from serve_app.errors import Overloaded
from serve_app.preprocess.memory_budget import Reservation
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.public_address import Resolver, is_public, resolve_host
from serve_app.settings import PreprocessSettings

_REDIRECTS: Final = 3
_PORTS: Final = (80, 443)
_CONNECT_S: Final = 3.0  # one address of a host; then the next one
_ADDRESSES: Final = 4  # tried for one host
_QUEUE_FACTOR: Final = 4  # fetches, running or waiting, for each that may run


class FetchPlaces:
    """Limits the fetches that run at the same time, in total and for one host; others wait, within their time-out."""

    def __init__(self, total: int, per_host: int) -> None:
        self._max_waiting, self._per_host = _QUEUE_FACTOR * total, per_host
        self._total = asyncio.Semaphore(total)
        self._hosts: dict[str, tuple[asyncio.Semaphore, int]] = {}  # with the fetches that run or wait
        self._number = 0

    @asynccontextmanager
    async def at(self, host: str) -> AsyncIterator[None]:
        """A context in which one fetch from a host runs; raises Overloaded if too many fetches wait already."""
        if self._number >= self._max_waiting:
            raise Overloaded(f"{self._number} pictures are being fetched or waiting, the limit. Try again shortly.")
        places, users = self._hosts.get(host, (asyncio.Semaphore(self._per_host), 0))
        self._hosts[host] = places, users + 1
        self._number += 1
        try:
            async with places, self._total:  # in this order: a fetch that waits for a slow host does not count in total
                yield
        finally:
            self._number -= 1
            places, users = self._hosts.pop(host)
            if users > 1:
                self._hosts[host] = places, users - 1


class Fetcher:
    """Fetches pictures from the web."""

    def __init__(
        self,
        settings: PreprocessSettings,
        resolver: Resolver = resolve_host,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._places = FetchPlaces(settings.max_fetches, settings.max_fetches_per_host)
        # Connections are not kept: one that was opened for a host must not be used for another at the same address.
        self._client = httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(settings.fetch_timeout_s, connect=min(_CONNECT_S, settings.fetch_timeout_s)),
            cookies=_refuse_cookies(),
            headers={
                "Accept": "image/*, application/pdf",
                "Accept-Encoding": "identity",
                "User-Agent": "glm-vision-serve",
            },
        )

    async def fetch(self, url: str, label: ImageLabel, held: Reservation) -> bytes:
        """The body at an address, whose bytes are added to `held` as they arrive.

        Raises ImageRejected if it is refused, unreachable, slow or too large, Overloaded if the service has too many
        fetches or bytes.
        """
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s):
                return await self._follow(url, label, held)
        except TimeoutError as error:
            raise label.rejected(
                f"could not be fetched within {self._settings.fetch_timeout_s:g} seconds. Send the picture itself"
            ) from error

    async def close(self) -> None:
        await self._client.aclose()

    async def _follow(self, url: str, label: ImageLabel, held: Reservation) -> bytes:
        target = _parse(url, label)
        for _ in range(_REDIRECTS + 1):
            async with self._places.at(target.host.lower()):
                addresses = await self._checked_addresses(target, label)
                found = await self._get(target, addresses, label, held)
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
        seconds = self._settings.dns_timeout_s
        try:
            async with asyncio.timeout(seconds):
                addresses = await self._resolver(target.host, port)
        except TimeoutError as error:
            raise label.rejected(
                f"is at {target.host}, whose address was not found within {seconds:g} seconds. Send the picture itself"
            ) from error
        except (OSError, UnicodeError) as error:
            raise label.rejected(f"has the unknown host {target.host}. Check the address") from error
        if not private and not all(map(is_public, addresses)):
            raise label.rejected(f"is at {target.host}, which is not a public address. Send the picture itself")
        return addresses[:_ADDRESSES]

    async def _get(
        self, target: httpx.URL, addresses: list[str], label: ImageLabel, held: Reservation
    ) -> bytes | httpx.URL:
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
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: httpx parses a redirect
                raise label.rejected(f"could not be fetched from {target.host}") from error
            try:
                return await self._read(response, target, label, held)
            except httpx.HTTPError as error:
                raise label.rejected(f"could not be fetched completely from {target.host}") from error
            finally:
                await response.aclose()
        raise label.rejected(f"could not be fetched: no connection to {target.host}")

    async def _read(
        self, response: httpx.Response, target: httpx.URL, label: ImageLabel, held: Reservation
    ) -> bytes | httpx.URL:
        if response.has_redirect_location:
            try:
                return _checked(target.join(response.headers["Location"]))
            except (httpx.InvalidURL, ValueError) as error:
                raise label.rejected(f"is redirected by {target.host} to an address that is not a valid URL") from error
        if response.status_code != httpx.codes.OK:
            raise label.rejected(f"could not be fetched: {target.host} answered with status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise label.rejected(f"is sent compressed by {target.host}, although that was not requested")
        limit = self._settings.max_image_bytes
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            held.add(len(chunk))
            if len(body) > limit:
                raise label.rejected(f"is more than {limit / 2**20:.3g} MiB, the limit. Send a smaller file")
        return bytes(body)


def _refuse_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # stores none, so it sends none


def _parse(url: str, label: ImageLabel) -> httpx.URL:
    try:
        return _checked(httpx.URL(url))
    except (httpx.InvalidURL, ValueError) as error:
        raise label.rejected("has an address that is not a valid URL") from error


def _checked(url: httpx.URL) -> httpx.URL:
    """The address; raises UnicodeError for a host that IDNA refuses, which httpx finds only when it reads the host."""
    _ = url.host, url.netloc
    return url
