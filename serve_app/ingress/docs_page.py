"""GET /docs: the OpenAPI document as one HTML page, complete without scripts; nothing from other hosts.

FastAPI's own page loads Swagger UI from a CDN: it stays empty without internet, and otherwise runs a third
party's script. The one package that contains Swagger UI has had no release since 2023. One script of ours, `try_it.js`,
adds fields to each example that send it with the caller's key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
pre { background: #8882; border-radius: 6px; max-height: 30rem; overflow: auto; padding: .8rem; }
pre, code { font-family: ui-monospace, monospace; font-size: .85em; }
summary { cursor: pointer; padding: .2rem 0; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
h2 code { font-size: 1em; }
:root { color-scheme: light dark; }
.try { display: grid; gap: .5rem; margin: .5rem 0; }
.try input, .try textarea, button { font: inherit; padding: .3rem .6rem; }
button { justify-self: start; }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; script-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
}


def docs_routes(document: Callable[[], dict[str, Any]], files: str | None) -> APIRouter:
    """`files`: the address of the page's static files; None: they are not served, and the page has no script."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse("".join(render(document(), files)), headers=_HEADERS)

    return router


def render(document: dict[str, Any], files: str | None = None) -> Iterator[str]:
    """The document as pieces of HTML."""
    title = escape(document["info"]["title"])
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
    yield f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style>"
    if files is not None:
        yield f"<script type='module' src='{escape(files)}/try_it.js'></script>"
    yield f"<h1>{title} {escape(document['info']['version'])}</h1>{_prose(document['info']['description'])}"
    yield "<p>As JSON: <a href='/openapi.json'>openapi.json</a>.</p>"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield from _operation(path, method, operation)


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p><b>{escape(operation['summary'])}</b></p>"
    yield _prose(operation.get("description", ""))
    if method == "get":
        values = {each["name"]: each.get("example", "") for each in operation.get("parameters", ())}
        yield f"<div data-method='GET' data-path='{escape(path.format(**values))}'></div>"
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        for example in body.get("examples", {}).values():
            yield f"<details><summary>{escape(example['summary'])}</summary>"
            yield _curl(path, kind, example["value"])
            value = escape(json.dumps(example["value"], ensure_ascii=False, indent=2))
            yield f"<div data-method='POST' data-path='{escape(path)}' data-kind='{kind}' data-body='{value}'></div>"
            yield "</details>"
    yield "<details><summary>Responses</summary><table>"
    for status, response in operation["responses"].items():
        yield f"<tr><td><code>{escape(status)}</code><td>{escape(response['description'])}"
    yield "</table></details>"


def _curl(path: str, kind: str, value: dict[str, Any]) -> str:
    """The example as a shell command."""
    if kind == "application/json":
        body = json.dumps(value, ensure_ascii=False, indent=2).replace("'", "'\\''")
        options = f" -H 'Content-Type: application/json' -d '{body}'"
    else:
        options = "".join(f" -F {name}='{field}'" for name, field in value.items())
    return f"<pre tabindex='0'>curl -sN $URL{escape(path)}{escape(options)}</pre>"


def _prose(text: str) -> str:
    """Paragraphs; text between backticks as code."""
    paragraphs = escape(text.strip()).split("\n\n")
    return "".join("<p>" + re.sub(r"`([^`]+)`", r"<code>\1</code>", each) + "</p>" for each in paragraphs if each)
