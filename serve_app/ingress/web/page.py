"""The page's HTML in English and Chinese, with its style, its modules and the service's limits in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from serve_app.chinese.language import Language, language_of_header
from serve_app.ingress.web.static_files import REVALIDATED, StaticFile, read_static_files
from serve_app.settings import Settings

PAGE: Final = "page.html"
_STYLE: Final = "page.css"
_SCRIPT: Final = "page.js"
_ICON: Final = "icon.svg"
_TEXTS: Final = "language.js"
_IMPORT: Final = re.compile(r'^import [^"]*?"\./([^"]+)"', re.MULTILINE)
_LANGUAGES: Final[Mapping[Language, str]] = {"en": "en", "zh": "zh-CN"}  # the tags of the document

# No inline scripts, the one inline style by its digest, no other origins. Trusted Types: no script may turn a text into
# HTML or code.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'sha256-{}'; img-src 'self' blob: data:; media-src blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept, Accept-Encoding, Accept-Language",
}


class Page:
    """The page of one service. The first paint needs its HTML alone: the style is in it, and the caller's language."""

    def __init__(self, settings: Settings) -> None:
        static = read_static_files()
        style = static.files[_STYLE].content.decode()
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self._headers = {"Content-Security-Policy": _POLICY.format(digest), **_HEADERS}
        html = static.files[PAGE].content.decode()
        modules = " ".join(modules_of(_SCRIPT))
        icon = static.files[_ICON].content.decode()
        limits = escape(json.dumps(limits_of(settings)))
        values = {"MODULES": modules, "STYLE": style, "ICON": icon, "FILES": files_address(), "LIMITS": limits}
        for name, value in values.items():
            html = html.replace(f"%{name}%", value)
        self._files = {
            language: StaticFile.of(_in_language(html, language).encode(), "text/html") for language in _LANGUAGES
        }

    def response(self, request: Request) -> Response:
        language = language_of_header(request.headers.get("accept-language", ""))
        return self._files[language].response(request, REVALIDATED, self._headers)


def limits_of(settings: Settings) -> dict[str, int]:
    """What the page and the widget check before they send a question."""
    return {
        "maxImages": settings.preprocess.max_images,
        "maxImageBytes": settings.preprocess.max_image_bytes,
        "maxImageTokens": settings.preprocess.max_image_tokens,
        "maxBodyBytes": settings.http.max_body_bytes,
    }


def files_address() -> str:
    """The address of the static files, relative to the service's."""
    return f"web/{read_static_files().digest}"


def modules_of(name: str) -> list[str]:
    """The static modules that this one imports, directly or not; without those that are loaded when they are needed."""
    found: list[str] = []

    def visit(module: str) -> None:
        for imported in _IMPORT.findall(read_static_files().files[module].content.decode()):
            if imported not in found:
                found.append(imported)
                visit(imported)

    visit(name)
    return found


def _in_language(html: str, language: Language) -> str:
    """The document with the texts that `translate` of language.js would set, so that no other is painted before."""
    source = read_static_files().files[_TEXTS].content.decode()
    block = source.partition(f"\n  {language}: {{\n")[2].partition("\n  },\n")[0]
    texts = dict(re.findall(r'(\w+): "([^"\\]*)"', block))
    html = html.replace('<html lang="en">', f'<html lang="{_LANGUAGES[language]}">', 1)
    html = re.sub(r'(data-text="(\w+)"[^>]*>)[^<]*', lambda found: found[1] + escape(texts[found[2]]), html)
    return re.sub(
        r'(data-(?:label|placeholder)="(\w+)")((?: (?:aria-label|title|placeholder)="[^"]*")+)',
        lambda found: found[1] + re.sub('"[^"]*"', f'"{escape(texts[found[2]])}"', found[3]),
        html,
    )
