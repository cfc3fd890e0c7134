"""The page's HTML and static files over HTTP: who gets them, their headers, and what a browser may keep."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from serve_app.ingress.web.page import modules_of
from serve_app.ingress.web.static_files import FOLDER, read_static_files
from tests.ingress.client import MakeClient

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_browser_gets_the_page_and_a_program_the_list_of_routes(make_client: MakeClient) -> None:
    client = make_client()
    page = await client.get("/", headers=HTML)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "GLM Vision Serve" in page.text
    for accept in ("*/*", "application/json"):
        response = await client.get("/", headers={"Accept": accept})
        assert response.json()["service"] == "GLM Vision Serve"
        assert "accept" in re.split(r",\s*", response.headers["vary"].lower())
    assert (await client.head("/", headers=HTML)).headers["content-type"] == page.headers["content-type"]


async def test_the_page_can_be_switched_off(make_client: MakeClient) -> None:
    client = make_client(settings={"web_page": False})
    assert (await client.get("/", headers=HTML)).json()["service"] == "GLM Vision Serve"
    assert (await client.get("/web/page.js")).status_code == 404


async def test_the_page_has_the_limits_of_the_service(make_client: MakeClient) -> None:
    client = make_client(preprocess={"max_images": 3})
    text = (await client.get("/", headers=HTML)).text
    assert 'data-limits="{&quot;maxImages&quot;: 3,' in text
    assert not re.search(r"%[A-Z_]+%", text)


async def test_the_widget_reads_the_limits_of_the_service_from_any_site(make_client: MakeClient) -> None:
    client = make_client(preprocess={"max_images": 3}, settings={"max_body_bytes": 2**20})
    response = await client.get("/web/limits.json", headers={"Origin": "https://shop.example"})
    limits = response.json()
    assert (limits["maxImages"], limits["maxBodyBytes"]) == (3, 2**20)
    assert (response.headers["access-control-allow-origin"], response.headers["cache-control"]) == ("*", "no-cache")


async def test_the_policy_of_the_page_allows_no_inline_code_and_no_other_origin(make_client: MakeClient) -> None:
    page = await make_client().get("/", headers=HTML)
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'self'; style-src 'sha256-{digest}';")
    assert not re.search(r"<script(?![^>]* src=)|<style.*<style| style=| on\w+=", page.text, re.DOTALL)


async def test_the_first_paint_needs_no_file_besides_the_html(make_client: MakeClient) -> None:
    """Style sheets are waited for; modules were compiled before the first paint, which doubled its time."""
    text = (await make_client().get("/", headers=HTML)).text
    assert not re.search(r"stylesheet|preload|<img", text)
    assert re.findall(r"<script[^>]*>", text) == [
        f'<script type="module" src="web/{read_static_files().digest}/start.js">'
    ]


def test_the_page_names_all_modules_that_its_script_imports_at_its_start() -> None:
    modules = set(modules_of("page.js"))
    others = {"page.js", "start.js", "try_it.js", "widget.js", "widget_chat.js", "widget_token.js"}
    assert modules == {path.name for path in FOLDER.glob("*.js")} - others | {"vendor/marked.js"}


@pytest.mark.parametrize(
    ("accepted", "tag", "title", "placeholder"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN", "对图片提问", "输入关于图片的问题"),
        ("en-US,en;q=0.9", "en", "Ask about a picture", "Ask about the picture"),
        ("de", "en", "Ask about a picture", "Ask about the picture"),
    ],
)
async def test_the_html_is_in_the_language_of_the_browser(
    make_client: MakeClient, accepted: str, tag: str, title: str, placeholder: str
) -> None:
    """It was English until the modules had run."""
    response = await make_client().get("/", headers={**HTML, "Accept-Language": accepted})
    assert f'<html lang="{tag}">' in response.text
    assert f'data-text="welcome">{title}</h2>' in response.text
    assert f' placeholder="{placeholder}' in response.text
    assert "accept-language" in response.headers["vary"].lower()


async def test_files_under_the_digest_never_change_and_others_are_checked_again(make_client: MakeClient) -> None:
    client, digest = make_client(), read_static_files().digest
    assert f"web/{digest}/start.js" in (await client.get("/", headers=HTML)).text
    for path, cached in (
        (f"/web/{digest}/page.js", "public, max-age=31536000, immutable"),
        ("/web/0123456789abcdef/page.js", "no-cache"),  # of another version, during an upgrade
        ("/web/page.js", "no-cache"),
    ):
        response = await client.get(path)
        assert (response.status_code, response.headers["cache-control"]) == (200, cached)
        assert response.headers["content-type"] == "text/javascript; charset=utf-8"
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/web/page.css"])
async def test_a_file_that_the_browser_has_is_not_sent_again(make_client: MakeClient, path: str) -> None:
    client = make_client()
    first = await client.get(path, headers=HTML)
    again = await client.get(path, headers={**HTML, "If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_texts_are_compressed_and_pictures_are_not(make_client: MakeClient) -> None:
    client = make_client()
    for path, encoding in (("/web/page.css", "gzip"), ("/web/samples/label.jpg", None)):
        response = await client.get(path, headers={"Accept-Encoding": "gzip"})
        name = path.removeprefix("/web/")
        assert response.headers.get("content-encoding") == encoding
        assert response.content == (FOLDER / name).read_bytes()
        for refusing in ("identity", "gzip;q=0", "br, gzip; q=0.000", ""):
            plain = await client.get(path, headers={"Accept-Encoding": refusing})
            assert plain.content == response.content
            assert "content-encoding" not in plain.headers
        for accepting in ("br, gzip;q=0.5", "GZIP", "gzip; q=1.0"):
            chosen = await client.get(path, headers={"Accept-Encoding": accepting})
            assert chosen.headers.get("content-encoding") == encoding


@pytest.mark.parametrize("path", ["", "nothing.js", "../routes.py", "%2e%2e/routes.py", "page.html", "samples"])
async def test_nothing_but_the_files_is_served(make_client: MakeClient, path: str) -> None:
    assert (await make_client().get(f"/web/{path}")).status_code == 404


async def test_files_and_page_need_no_key(make_client: MakeClient) -> None:
    client = make_client(access={"keys_file": "keys.json"})
    assert (await client.get("/", headers=HTML)).status_code == 200
    assert (await client.get("/web/page.js")).status_code == 200
    assert (await client.get("/v1/models")).status_code == 401


def test_the_page_with_formulas_is_smaller_than_250_kilobytes() -> None:
    sizes = {name: len(file.gzipped or file.content) for name, file in read_static_files().files.items()}
    assert sum(sizes.values()) < 250_000, sizes


def test_samples_are_evaluation_pictures_of_the_demo_model() -> None:
    evaluation = {file.read_bytes() for file in (FOLDER.parents[3] / "benchmarks/evaluation").glob("*.jpg")}
    samples = [file.read_bytes() for file in (FOLDER / "samples").iterdir()]
    assert len(samples) == 3
    assert set(samples) <= evaluation


def test_no_module_writes_html_or_names_another_host() -> None:
    for file in FOLDER.glob("*.js"):
        source = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source), (
            file
        )
        assert not re.search(r"[\"'`]https?://", source), file
