import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import ImageRejected, Overloaded
from serve_app.preprocess.fetch import Fetcher
from serve_app.preprocess.memory_budget import MemoryBudget, Reservation
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.public_address import is_public
from serve_app.settings import PreprocessSettings

LABEL = ImageLabel(1, "messages[0].content[0].image_url")
PUBLIC = "93.184.215.14"
Respond = Callable[[str], bytes]  # the request's path -> the whole response


def free() -> Reservation:
    return Reservation(MemoryBudget(2**30))


class Names:
    """A resolver that gives each host its answers in turn, the last one for ever, and counts."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {host.replace("_", "."): list(turns) for host, turns in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        turns = self._answers.get(host)
        if turns is None:
            raise OSError(f"no such host {host}")
        return turns.pop(0) if len(turns) > 1 else turns[0]


class Internet(httpx.AsyncBaseTransport):
    """Stands in for the internet: takes connections to one public address to a real local server.

    What it is asked to connect to must be an address, never a name that would be looked up again.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._inner = httpx.AsyncHTTPTransport()
        self.connected: list[tuple[str, str, str]] = []  # address, Host header, TLS name

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert "Cookie" not in request.headers
        assert "Authorization" not in request.headers
        assert request.headers["Accept"] == "image/*, application/pdf"  # servers that choose by it send either
        self.connected.append((request.url.host, request.headers["Host"], request.extensions["sni_hostname"]))
        if request.url.host != PUBLIC:
            raise httpx.ConnectError(f"no route to {request.url.host}")
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return await self._inner.handle_async_request(request)


@contextlib.asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[int]:
    """A real HTTP server on loopback that answers every path with what `respond` gives."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(respond(head.split()[1].decode()))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def ok(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n".encode() + body


async def streamed(body: bytes) -> AsyncIterator[bytes]:
    yield body


def moved(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def fetched(
    url: str, names: Names, respond: Respond, limits: PreprocessSettings | None = None
) -> tuple[bytes, Internet]:
    async with serving(respond) as port:
        internet = Internet(port)
        fetcher = Fetcher(limits or PreprocessSettings(), names, internet)
        try:
            return await fetcher.fetch(url, LABEL, free()), internet
        finally:
            await fetcher.close()


async def refused(url: str, names: Names, respond: Respond = lambda _: ok(b"secret")) -> str:
    with pytest.raises(ImageRejected) as error:
        await fetched(url, names, respond)
    assert error.value.param == LABEL.param
    assert str(error.value).startswith("Picture 1 ")
    return str(error.value)


async def test_a_picture_comes_from_the_address_that_was_checked() -> None:
    body, internet = await fetched(
        "https://pics.example/a.png?b=1", Names(pics_example=[[PUBLIC]]), lambda path: ok(path.encode())
    )
    assert body == b"/a.png?b=1"
    assert internet.connected == [(PUBLIC, "pics.example", "pics.example")]


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    names = Names(pics_example=[["2606:4700::1", PUBLIC]])
    body, internet = await fetched("http://pics.example/", names, lambda _: ok(b"x"))
    assert body == b"x"
    assert [address for address, *_ in internet.connected] == ["2606:4700::1", PUBLIC]


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1",
    "fc00::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "100::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)
    assert "not a public address" in await refused("http://pics.example/", Names(pics_example=[[address]]))


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


async def test_one_private_address_among_public_ones_is_refused() -> None:
    assert "not a public" in await refused("http://pics.example/", Names(pics_example=[[PUBLIC, "10.0.0.1"]]))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/", "http://localhost/"]
)
async def test_loopback_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(ImageRejected, match=r"not a public address|not known|not a valid URL"):
        await Fetcher(PreprocessSettings()).fetch(url, LABEL, free())


async def test_a_redirect_to_loopback_is_refused() -> None:
    names = Names(pics_example=[[PUBLIC]], **{"127_0_0_1": [["127.0.0.1"]]})
    seen: list[str] = []

    def respond(path: str) -> bytes:
        seen.append(path)
        return moved("http://127.0.0.1/admin")

    assert "127.0.0.1, which is not a public address" in await refused("http://pics.example/a", names, respond)
    assert seen == ["/a"]


async def test_a_name_that_changes_its_address_after_the_check_gains_nothing() -> None:
    names = Names(pics_example=[[PUBLIC], ["127.0.0.1"]])
    body, internet = await fetched("http://pics.example/", names, lambda _: ok(b"x"))
    assert body == b"x"
    assert names.asked == ["pics.example"]
    assert [address for address, *_ in internet.connected] == [PUBLIC]


async def test_a_name_that_changes_its_address_is_checked_again_at_a_redirect() -> None:
    names = Names(pics_example=[[PUBLIC], ["127.0.0.1"]])
    assert "not a public address" in await refused("http://pics.example/", names, lambda _: moved("/again"))


async def test_redirects_are_followed_up_to_three() -> None:
    names = Names(pics_example=[[PUBLIC]], other_example=[[PUBLIC]])
    steps = {"/0": moved("/1"), "/1": moved("https://other.example/2"), "/2": moved("3"), "/3": ok(b"there")}
    body, internet = await fetched("http://pics.example/0", names, steps.__getitem__)
    assert body == b"there"
    assert [host for _, host, _ in internet.connected] == [
        "pics.example",
        "pics.example",
        "other.example",
        "other.example",
    ]
    assert "more than 3 redirects" in await refused("http://pics.example/", names, lambda _: moved("/on"))


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://pics.example/a",
        "gopher://pics.example/",
        "http://u:p@pics.example/",
        "http://pics.example:22/",
        "http://",
    ],
)
async def test_a_redirect_elsewhere_than_the_web_is_refused(location: str) -> None:
    await refused("http://pics.example/", Names(pics_example=[[PUBLIC]]), lambda _: moved(location))


@pytest.mark.parametrize(
    "url",
    [
        "http://pics.example:8080/",
        "http://user:word@pics.example/",
        "http:///a",
        "http://pics.example:99999/",
        "http://\u2024/",
    ],
)
async def test_an_address_with_another_port_or_credentials_is_refused(url: str) -> None:
    await refused(url, Names(pics_example=[[PUBLIC]]))


async def test_a_cookie_is_neither_kept_nor_sent() -> None:
    names = Names(pics_example=[[PUBLIC]])
    async with serving(lambda _: ok(b"x", "Set-Cookie: who=me; Path=/\r\n")) as port:
        internet = Internet(port)
        fetcher = Fetcher(PreprocessSettings(), names, internet)
        for _ in range(2):
            await fetcher.fetch("http://pics.example/", LABEL, free())
        await fetcher.close()
    assert len(internet.connected) == 2


async def test_a_body_over_the_limit_is_cut_off() -> None:
    with pytest.raises(ImageRejected, match=r"more than 0.00195 MiB"):
        await fetched(
            "http://pics.example/",
            Names(pics_example=[[PUBLIC]]),
            lambda _: ok(b"x" * 50_000),
            PreprocessSettings(max_image_bytes=2048),
        )


async def test_a_slow_server_is_given_up() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    fetcher = Fetcher(PreprocessSettings(fetch_timeout_s=0.05), never)
    with pytest.raises(ImageRejected, match=r"within 0.05 seconds"):
        await fetcher.fetch("http://pics.example/", LABEL, free())
    await fetcher.close()


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "status 404"),
        (ok(b"x", "Content-Encoding: gzip\r\n"), "compressed"),
        (ok(b"x", "Content-Length: 9\r\n"), "not be fetched completely"),
        (b"garbage\r\n\r\n", "could not be fetched"),
    ],
)
async def test_a_failed_fetch_says_how(response: bytes, reason: str) -> None:
    assert reason in await refused("http://pics.example/", Names(pics_example=[[PUBLIC]]), lambda _: response)


async def test_an_unknown_host_is_named() -> None:
    assert "nowhere.example" in await refused("http://nowhere.example/", Names())


async def test_private_addresses_are_fetched_where_that_is_allowed() -> None:
    async with serving(lambda _: ok(b"inside")) as port:
        fetcher = Fetcher(PreprocessSettings(fetch_private_addresses=True))
        assert await fetcher.fetch(f"http://127.0.0.1:{port}/", LABEL, free()) == b"inside"
        await fetcher.close()


async def test_a_slow_host_holds_only_its_own_places() -> None:
    names = Names(slow_example=[[PUBLIC]], fast_example=[[PUBLIC]])
    entered = asyncio.Semaphore(0)

    async def answer(request: httpx.Request) -> httpx.Response:
        if request.headers["Host"] == "slow.example":
            entered.release()
            await asyncio.sleep(60)
        return httpx.Response(200, content=streamed(b"x"))

    fetcher = Fetcher(PreprocessSettings(max_fetches=3, max_fetches_per_host=2), names, httpx.MockTransport(answer))
    slow = [asyncio.create_task(fetcher.fetch("http://slow.example/", LABEL, free())) for _ in range(8)]
    await entered.acquire()
    await entered.acquire()
    assert await asyncio.wait_for(fetcher.fetch("http://fast.example/", LABEL, free()), 5) == b"x"
    assert entered.locked()  # no third one
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert await asyncio.wait_for(fetcher.fetch("http://fast.example/", LABEL, free()), 5) == b"x"
    await fetcher.close()


async def test_more_waiting_fetches_than_the_limit_are_refused() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    fetcher = Fetcher(PreprocessSettings(max_fetches=1), never)
    waiting = [asyncio.create_task(fetcher.fetch("http://a.example/", LABEL, free())) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="4 pictures are being fetched"):
        await fetcher.fetch("http://b.example/", LABEL, free())
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await fetcher.close()


async def test_a_name_whose_lookup_takes_too_long_is_given_up() -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [PUBLIC]

    fetcher = Fetcher(PreprocessSettings(dns_timeout_s=0.05), never)
    with pytest.raises(ImageRejected, match=r"pics.example, whose address was not found within 0.05 seconds"):
        await fetcher.fetch("http://pics.example/", LABEL, free())
    await fetcher.close()


@pytest.mark.parametrize("host", ["xn--a", "xn--0", "xn--\u00e4", "a..b", "\u00ad", "-" * 70, "xn--zz.example"])
async def test_a_host_that_idna_refuses_is_refused_in_words(host: str) -> None:
    await refused(f"http://{host}/", Names())
    location = host.encode("utf-8").decode("latin-1")
    await refused("http://pics.example/", Names(pics_example=[[PUBLIC]]), lambda _: moved(f"http://{location}/"))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.sampled_from(["http://", "https://", "http:", "http://[", "http://a@", "http://a:"]))
async def test_any_address_is_refused_in_words(rest: str, start: str) -> None:
    fetcher = Fetcher(PreprocessSettings(), Names(), httpx.MockTransport(lambda _: httpx.Response(404)))
    with pytest.raises(ImageRejected):
        await fetcher.fetch(start + rest, LABEL, free())


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30))
async def test_any_redirect_is_followed_or_refused_in_words(location: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers=[(b"Location", location.encode("latin-1"))])

    fetcher = Fetcher(PreprocessSettings(), Names(pics_example=[[PUBLIC]]), httpx.MockTransport(answer))
    with pytest.raises(ImageRejected):
        await fetcher.fetch("http://pics.example/", LABEL, free())


async def test_a_body_that_exceeds_the_bytes_of_all_requests_is_refused() -> None:
    budget = MemoryBudget(20_000)
    async with serving(lambda _: ok(b"x" * 50_000)) as port:
        fetcher = Fetcher(PreprocessSettings(), Names(pics_example=[[PUBLIC]]), Internet(port))
        with pytest.raises(Overloaded, match="the limit"), budget.reservation() as held:
            await fetcher.fetch("http://pics.example/", LABEL, held)
        await fetcher.close()
    assert budget.used == 0
