"""Pages of a PDF as pictures, by PDFium; runs in the decoder processes only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pypdfium2
from PIL import Image

from serve_app.contracts import Pages
from serve_app.errors import ServiceError
from serve_app.preprocess.picture_limits import ImageLabel

_ENCRYPTED = b"/Encrypt"  # in the trailer, which is never compressed


def page_sizes(data: bytes, pages: Pages | None, max_pages: int, label: ImageLabel) -> list[tuple[int, float, float]]:
    """(page from 1, width, height in points) of `pages` in their order, each once, or of all.

    Raises ImageRejected for a file that cannot be opened, for pages that it lacks and for more than `max_pages`.
    """
    with _opened(data, label) as pdf:
        total = len(pdf)
        if total == 0:
            raise label.rejected("is a PDF without pages")
        numbers = range(1, total + 1) if pages is None else _numbers(pages, total, label)
        if len(numbers) > max_pages:
            raise label.rejected(f"gives {len(numbers)} pages; the limit is {max_pages}. Send fewer of them")
        return [(number, *pdf.get_page_size(number - 1)) for number in numbers]


def _numbers(pages: Pages, total: int, label: ImageLabel) -> Sequence[int]:
    """The numbers of the pages, each once; raises ImageRejected that names the field of the pages."""
    numbers: dict[int, None] = {}
    for first, end in pages.ranges:
        last = total if end is None else end
        if not 1 <= first <= last <= total:
            asked = f"page {first}" if first == end else f"pages {first} to {'the end' if end is None else end}"
            only = "1 page" if total == 1 else f"{total} pages"
            raise replace(label, param=pages.param).rejected(f"has {only}; '{pages.param}' asks for {asked}")
        numbers.update(dict.fromkeys(range(first, last + 1)))
    return tuple(numbers)


def render_page(data: bytes, page: int, width: int, height: int, label: ImageLabel) -> Image.Image:
    """A page (from 1) with its annotations and form fields on white, RGB, at least `width` x `height` pixels."""
    with _opened(data, label) as pdf:
        if pdf.get_formtype():
            pdf.init_forms()
        sheet = pdf[page - 1]
        scale = max(width / sheet.get_width(), height / sheet.get_height())
        image: Image.Image = sheet.render(scale=scale, rev_byteorder=True).to_pil()
        return image.convert("RGB")


@contextmanager
def _opened(data: bytes, label: ImageLabel) -> Iterator[pypdfium2.PdfDocument]:
    try:
        pdf = pypdfium2.PdfDocument(data)
        try:
            yield pdf
        finally:
            pdf.close()
    except ServiceError:
        raise
    except Exception as error:
        # A file that says nothing of encryption gets the reason of an earlier one: PDFium does not always set its own.
        reason = str(error).lower() if _ENCRYPTED in data else ""
        if "password" in reason:
            raise label.rejected("is a PDF that needs a password. Send it without one") from error
        if "security" in reason:
            raise label.rejected("is a protected PDF that this service can't open. Remove the protection") from error
        raise label.rejected("is a damaged or incomplete PDF. Send the complete file") from error
