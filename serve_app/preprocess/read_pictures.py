"""Reads the pictures of a request: headers and small pictures first; known ones come from the cache"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.contracts import ImagePart, Picture, PictureSource, UnsentPixels
from serve_app.errors import ImageRejected
from serve_app.preprocess.decode import Header
from serve_app.preprocess.decoded_cache import DecodedCache, page_key, picture_key
from serve_app.preprocess.decoder_pool import DecodedPicture, DecoderPool, ReadPicture
from serve_app.preprocess.documents import PDF, POINTS_PER_INCH, is_pdf
from serve_app.preprocess.family_processor import FamilyProcessor
from serve_app.preprocess.memory_budget import Reservation
from serve_app.preprocess.picture_limits import (
    ImageLabel,
    PictureLimits,
    check_bytes,
    check_number,
    check_pixels,
    check_request_pixels,
    label_of,
)
from serve_app.preprocess.stage_times import timed
from serve_app.settings import PreprocessSettings


@dataclass(frozen=True, slots=True)
class Decoding:
    """How pictures are decoded: whose they are, what counts their bytes, and whether known ones keep their pixels."""

    held: Reservation
    tenant: str
    unsent: bool = False  # pictures that the cache knows get `UnsentPixels`


@dataclass(frozen=True, slots=True)
class MeasuredPicture:
    """A picture's file and the sizes that follow from its header."""

    file: bytes
    label: ImageLabel
    header: Header
    size: tuple[int, int]  # (width, height) to which it is resized
    tokens: int
    source: PictureSource
    key: bytes  # of the cache; empty: none
    decoded: DecodedPicture | ImageRejected | None = None  # of a small or known picture


class PictureReader:
    """Measures and decodes pictures for one checkpoint."""

    def __init__(self, processor: FamilyProcessor, settings: PreprocessSettings, decoders: DecoderPool) -> None:
        self._processor = processor
        self._settings = settings
        self._decoders = decoders
        self._limits = PictureLimits.of_settings(settings)
        self._cache = DecodedCache(settings.decoded_cache_mib * 2**20)

    async def measure(
        self, files: Sequence[bytes], parts: Sequence[ImagePart], decoding: Decoding | None
    ) -> list[MeasuredPicture]:
        """The pictures in their order; with `decoding`, small ones are decoded and known ones are looked up."""
        measured: list[MeasuredPicture] = []
        pixels = 0
        for index, (file, part) in enumerate(zip(files, parts, strict=True)):
            label = label_of(part, index)
            for read in await self._read(file, part, label, decoding, self._cpu_left_s(measured)):
                header = read.header
                label = replace(label, page=header.page)
                pixels += header.width * header.height
                check_request_pixels(pixels, self._settings.max_request_pixels, label)
                size = self._processor.target_size(header.width, header.height, part.detail, label)
                tokens = self._processor.picture_tokens(*size)
                source = PictureSource(index, header.page)
                measured.append(MeasuredPicture(file, label, header, size, tokens, source, read.key, read.decoded))
            shown = [parts[picture.source.upload] for picture in measured]
            check_number(shown, self._processor.max_pictures, self._settings.max_images)
        return measured

    async def decode(self, measured: Sequence[MeasuredPicture], stages_ms: dict[str, float]) -> tuple[Picture, ...]:
        """The pictures, those that are not small decoded one after the other: a request has one job in the queue.

        Adds its milliseconds to `stages_ms`: `decode`, with the time in the queue, and `resize`.
        """
        pictures: list[Picture] = []
        cpu_left_s = self._cpu_left_s(measured)
        for picture in measured:
            header, label, decoded = picture.header, picture.label, picture.decoded
            if isinstance(decoded, ImageRejected):
                raise decoded
            if decoded is None:
                if cpu_left_s <= 0:
                    raise label.rejected(
                        f"is not decoded: the pictures before it took the {self._settings.max_decode_cpu_s:g} seconds"
                        " of CPU time of a request. Send fewer or smaller pictures"
                    )
                with timed(stages_ms, "decode"):
                    decoded = await self._decoders.decode(
                        picture.file, header, picture.size, label, self._limits, max_cpu_s=cpu_left_s
                    )
                cpu_left_s -= decoded.cpu_s
                self._cache.put(picture.key, ReadPicture(header, decoded, picture.key))
            stages_ms["resize"] += decoded.resize_ms
            stages_ms["decode"] -= decoded.resize_ms
            original_size = (header.width, header.height)
            file_format = header.format.lower()
            pictures.append(
                Picture(decoded.pixels, decoded.digest, picture.tokens, original_size, picture.source, file_format)
            )
        return _with_equal_pixels(pictures)

    async def _read(
        self, file: bytes, part: ImagePart, label: ImageLabel, decoding: Decoding | None, max_cpu_s: float
    ) -> list[ReadPicture]:
        """A picture, decoded if it is small or known; or the header of each page of a document, decoded if known."""
        if is_pdf(file):
            return await self._read_pages(file, part, label, decoding)
        if part.pages is not None:
            reason = "is no PDF, and only a PDF has pages. Leave them out"
            raise replace(label, param=part.pages.param).rejected(reason)
        if decoding is None:
            return [ReadPicture(await self._decoders.measure(file, label, self._limits))]
        rule = self._processor.size_rule(part.detail)
        key = picture_key(decoding.tenant, file, rule)
        if (known := self._known(key, decoding)) is not None:
            return [known]
        if max_cpu_s <= 0:
            return [ReadPicture(await self._decoders.measure(file, label, self._limits))]
        read = await self._decoders.read(file, rule, label, self._limits, decoding.held, max_cpu_s)
        read = replace(read, key=key)
        self._cache.put(key, read)
        return [read]

    async def _read_pages(
        self, file: bytes, part: ImagePart, label: ImageLabel, decoding: Decoding | None
    ) -> list[ReadPicture]:
        check_bytes(len(file), self._limits.max_bytes, label)
        most = self._settings.max_pdf_pages
        pages = await self._decoders.measure_pages(file, part.pages, most, label, self._limits)
        scale = self._settings.pdf_dpi / POINTS_PER_INCH
        headers = [
            Header(PDF, max(1, round(width * scale)), max(1, round(height * scale)), orientation=1, page=page)
            for page, width, height in pages
        ]
        for header in headers:
            check_pixels(header.width, header.height, self._limits.max_pixels, replace(label, page=header.page))
        if decoding is None:
            return [ReadPicture(header) for header in headers]
        document = picture_key(decoding.tenant, file, self._processor.size_rule(part.detail))
        keys = [page_key(document, page) for page, _, _ in pages]
        return [
            self._known(key, decoding) or ReadPicture(header, key=key)
            for key, header in zip(keys, headers, strict=True)
        ]

    def _known(self, key: bytes, decoding: Decoding) -> ReadPicture | None:
        known = self._cache.get(key, with_pixels=not decoding.unsent)
        if known is not None and isinstance(known.decoded, DecodedPicture):
            pixels = known.decoded.pixels
            if not isinstance(pixels, UnsentPixels):
                decoding.held.add(pixels.nbytes)
        return known

    def _cpu_left_s(self, pictures: Sequence[MeasuredPicture]) -> float:
        decoded = (picture.decoded for picture in pictures)
        return self._settings.max_decode_cpu_s - sum(
            picture.cpu_s for picture in decoded if isinstance(picture, DecodedPicture)
        )


def _with_equal_pixels(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """The pictures; one that a request shows twice has its pixels in both places or in none."""
    sent = {picture.digest: picture.pixels for picture in pictures if picture.is_sent}
    return tuple(replace(picture, pixels=sent.get(picture.digest, picture.pixels)) for picture in pictures)
