"""Scan of uploads by ClamAV's clamd, with its command INSTREAM over TCP or a Unix socket (clamd(8)).

A file is sent in chunks, each after its length as four bytes, big-endian; a length of 0 ends it. clamd responds with
`stream: OK`, `stream: NAME FOUND` or an error, such as a file above its StreamMaxLength.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from serve_app.errors import Overloaded
from serve_app.metrics import SCANS, Meter
from serve_app.preprocess.picture_limits import ImageLabel
from serve_app.settings_scan import ScanSettings

CHUNK_BYTES: Final = 256 * 1024
MAX_RESPONSE_BYTES: Final = 4096
CONNECTIONS: Final = 8  # at the same time; clamd has 10 threads by default

_log = logging.getLogger("glm.preprocess")


class ScanFailed(Exception):
    """clamd did not scan a file."""


class Scanner:
    """Scans files at one clamd."""

    def __init__(self, settings: ScanSettings, meter: Meter) -> None:
        self._settings = settings
        self._meter = meter
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def scan_all(self, files: Sequence[bytes], labels: Sequence[ImageLabel]) -> None:
        """Raises ImageRejected for a file with malware, Overloaded if one could not be scanned and has to be."""
        tasks = [asyncio.ensure_future(self._scan(*each)) for each in zip(files, labels, strict=True)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _scan(self, file: bytes, label: ImageLabel) -> None:
        try:
            async with self._connections, asyncio.timeout(self._settings.timeout_s):
                found = await self._malware(file)
        except (OSError, TimeoutError, ScanFailed, asyncio.IncompleteReadError) as error:
            self._meter.count(SCANS, result="failed")
            _log.warning("An upload was not scanned: %s.", str(error).rstrip(".") or type(error).__name__)
            if self._settings.on_failure == "refuse":
                raise Overloaded(
                    "The virus scanner does not respond, so uploads are refused. Try again later."
                ) from error
            return
        self._meter.count(SCANS, result="found" if found else "clean")
        if found:
            _log.warning("Malware in an upload: %s.", found)
            raise label.rejected(f"is refused: the virus scanner found {found} in it")

    async def _malware(self, file: bytes) -> str:
        """The name of the malware in a file; empty if there is none. Raises ScanFailed."""
        reader, writer = await self._connect()
        try:
            writer.write(b"zINSTREAM\0")
            for start in range(0, len(file), CHUNK_BYTES):
                chunk = file[start : start + CHUNK_BYTES]
                writer.write(struct.pack(">I", len(chunk)) + chunk)
                await writer.drain()
            writer.write(struct.pack(">I", 0))
            await writer.drain()
            response = await _response(reader)
        finally:
            writer.close()
        if response == "stream: OK":
            return ""
        if response.startswith("stream: ") and response.endswith(" FOUND"):
            return response.removeprefix("stream: ").removesuffix(" FOUND")
        raise ScanFailed(f"clamd responded {response!r}" if response else "clamd closed the connection")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = urlsplit(self._settings.address)
        if address.scheme == "unix":
            return await asyncio.open_unix_connection(address.path)
        return await asyncio.open_connection(address.hostname, address.port)


async def _response(reader: asyncio.StreamReader) -> str:
    """All of clamd's response, which ends with a zero byte or the connection."""
    response = b""
    while not response.endswith(b"\0") and len(response) < MAX_RESPONSE_BYTES:
        piece = await reader.read(MAX_RESPONSE_BYTES)
        if not piece:
            break
        response += piece
    return response.rstrip(b"\0\n").decode("utf-8", "replace")
