"""The scan of uploads: a real clamd with one signature of its own, and servers that fail in each way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from serve_app.contracts import ChatRequest, ImagePart, Message, Sampling, TextPart
from serve_app.errors import ImageRejected, Overloaded
from serve_app.metrics import SilentMeter
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.preprocess.prepare import Preprocessor
from serve_app.preprocess.scan import Scanner
from serve_app.settings import ModelSettings, PreprocessSettings
from serve_app.settings_scan import ScanSettings
from tests.fakes import FakeMeter
from tests.ports import free_port
from tests.preprocess.decoders import close_shared_decoders, shared_decoders
from tests.preprocess.pictures import encoded, photo

# The harmless test file that scanners agree on (eicar.org), in two parts so that this file is not found itself.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD" + b"-ANTIVIRUS-TEST-FILE!$H+H*"
LABEL = ImageLabel(1, "image")


def wait_for(fact: Callable[[], bool]) -> None:
    for _ in range(600):
        if fact():
            return
        time.sleep(0.05)
    raise AssertionError("it did not become true in 30 s")


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A clamd whose only signatures are EICAR's digest and a marked picture; its two addresses."""
    folder = tmp_path_factory.mktemp("clamd")
    database = folder / "db"
    database.mkdir()
    signature = f"{hashlib.sha256(EICAR).hexdigest()}:{len(EICAR)}:Eicar-Test\n"
    (database / "own.hsb").write_text(signature)
    (database / "own.ndb").write_text(f"Marked-Picture:0:*:{b'MALWARE-IN-A-PICTURE'.hex()}\n")
    port = free_port()
    path = folder / "clamd.sock"
    (folder / "clamd.conf").write_text(
        f"DatabaseDirectory {database}\nLocalSocket {path}\nTCPSocket {port}\nTCPAddr 127.0.0.1\nForeground yes\n"
        f"User {pwd.getpwuid(os.getuid()).pw_name}\nLogFile {folder / 'clamd.log'}\nStreamMaxLength 3M\n"
    )
    process = subprocess.Popen(
        ["clamd", "--config-file", str(folder / "clamd.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: path.exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "clamd.log").read_text()
        yield {"tcp": f"tcp://127.0.0.1:{port}", "unix": f"unix://{path}"}
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
async def false_clamd() -> AsyncIterator[Callable[[bytes | None], object]]:
    """Servers that respond with fixed bytes, or never."""
    servers: list[asyncio.Server] = []

    async def serve(response: bytes | None) -> str:
        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if response is None:
                await asyncio.sleep(60)
            await reader.read(10)
            writer.write(response or b"")
            writer.close()

        servers.append(await asyncio.start_server(respond, "127.0.0.1", 0))
        return f"tcp://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield serve
    for server in servers:
        server.close()


def scanner(address: str, meter: FakeMeter | None = None, **settings: object) -> Scanner:
    return Scanner(ScanSettings(address=address, **settings), meter or FakeMeter())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_eicar_is_refused_and_a_picture_accepted(clamd: dict[str, str], kind: str):
    meter = FakeMeter()
    one = scanner(clamd[kind], meter)
    await one.scan_all([encoded(photo(300, 200)), bytes(2_000_000)], [LABEL, LABEL])
    with pytest.raises(ImageRejected, match=r"Picture 1 is refused: the virus scanner found Eicar-Test\S* in it\."):
        await one.scan_all([EICAR], [LABEL])
    assert meter.counts["glm_scans_total", "clean"] == 2
    assert meter.counts["glm_scans_total", "found"] == 1


async def test_malware_inside_a_valid_picture_is_found_before_it_is_decoded(clamd: dict[str, str]):
    preprocessor = Preprocessor(
        ModelSettings(), PreprocessSettings(), SilentMeter(), decoders=shared_decoders(), scanner=scanner(clamd["unix"])
    )

    def about(file: bytes) -> ChatRequest:
        return ChatRequest("one", (Message("user", (ImagePart(file), TextPart("?"))),), Sampling(16))

    png = encoded(photo(300, 200))
    prompt = await preprocessor.prepare(about(png))
    assert prompt.stages_ms["scan"] > 0
    with pytest.raises(ImageRejected, match="Marked-Picture"):
        await preprocessor.prepare(about(png + b"MALWARE-IN-A-PICTURE"))
    preprocessor._cpu.shutdown(wait=False)
    close_shared_decoders()


async def test_a_file_that_clamd_does_not_scan_is_refused_or_accepted_by_setting(clamd: dict[str, str]):
    large = [bytes(4 * 2**20)]  # above its StreamMaxLength
    with pytest.raises(Overloaded, match="The virus scanner does not respond"):
        await scanner(clamd["tcp"]).scan_all(large, [LABEL])
    await scanner(clamd["tcp"], on_failure="accept").scan_all(large, [LABEL])


@pytest.mark.parametrize("response", [b"", b"INSTREAM size limit exceeded. ERROR\0", b"stream: OK and more\0", None])
async def test_any_other_response_is_a_failure(false_clamd: Callable[..., object], response: bytes | None):
    address = await false_clamd(response)  # type: ignore[misc]
    meter = FakeMeter()
    with pytest.raises(Overloaded):
        await scanner(str(address), meter, timeout_s=0.2).scan_all([b"x"], [LABEL])
    await scanner(str(address), meter, timeout_s=0.2, on_failure="accept").scan_all([b"x"], [LABEL])
    assert meter.counts["glm_scans_total", "failed"] == 2


async def test_a_clamd_that_is_down_refuses_uploads():
    with pytest.raises(Overloaded):
        await scanner("tcp://127.0.0.1:1").scan_all([b"x"], [LABEL])


@pytest.mark.parametrize("address", ["clamav:3310", "http://clamav:3310", "tcp://clamav", "unix://clamd.ctl"])
def test_an_address_of_another_form_is_refused(address: str):
    with pytest.raises(ValueError, match="should match pattern"):
        ScanSettings(address=address)


async def test_a_response_in_two_pieces_is_read_to_its_end() -> None:
    """Half of it was a failed scan, after which `on_failure: accept` accepted malware."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"stream: Some-Malware FOU")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.write(b"ND\0")
        await writer.drain()
        await reader.read()  # the client closes the connection

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        scanner = Scanner(ScanSettings(address=address, on_failure="accept"), FakeMeter())
        with pytest.raises(ImageRejected, match="Some-Malware"):
            await scanner.scan_all([b"x"], [LABEL])
