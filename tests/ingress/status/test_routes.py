"""Alive, ready, models and metrics."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from serve_app.errors import EngineFailed
from serve_app.ingress.status.response import ModelList
from serve_app.replies import ModelCard
from tests.fakes import CARD, FakeDescribe
from tests.ingress.client import MakeClient

DEAD = FakeDescribe(error=EngineFailed("The replica died."))
SILENT = FakeDescribe(silent=True)


class ScaledToZero:
    """An engine that scales to zero: it describes itself while it runs, and counts the calls."""

    def __init__(self) -> None:
        self.running = True
        self.calls = 0

    async def __call__(self) -> ModelCard:
        self.calls += 1
        return await (FakeDescribe() if self.running else SILENT)()


async def test_the_app_is_alive_whatever_the_engine_does(make_client: MakeClient) -> None:
    response = await make_client(describe=DEAD).get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/readyz", "/health"])
async def test_the_service_is_ready_when_a_replica_answers(make_client: MakeClient, path: str) -> None:
    response = await make_client().get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("describe", [DEAD, SILENT], ids=["dead", "silent"])
@pytest.mark.parametrize("path", ["/readyz", "/health", "/v1/models", "/v1/models/glm-vision-demo"])
async def test_without_a_replica_the_service_is_not_ready_and_has_a_reason(
    make_client: MakeClient, describe: FakeDescribe, path: str
) -> None:
    response = await make_client(describe=describe, ready_within_s=0.05).get(path)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    error = response.json()["error"]
    assert error["code"] == "overloaded"
    assert error["message"] == ("A stage has no replica that responds within 0.05 s; the model may still be loading.")


async def test_models_lists_the_served_model_with_its_context(make_client: MakeClient) -> None:
    client = make_client()
    models = (await client.get("/v1/models")).json()
    TypeAdapter(ModelList).validate_python(models, strict=True)
    (model,) = models["data"]
    assert model["id"] == CARD.name
    assert model["created"] == 1_700_000_000
    assert model["description"].startswith("A demo model of 16 million parameters, not a GLM release")
    assert model["max_model_len"] == model["context_length"] == 2048
    assert model["abilities"] == ["chat", "vision", "thinking", "tools"]
    assert (await client.get(f"/v1/models/{CARD.name}")).json() == model


async def test_known_models_are_listed_without_starting_the_engine(make_client: MakeClient) -> None:
    engine = ScaledToZero()
    client = make_client(describe=engine, ready_within_s=0.05)
    models = (await client.get("/v1/models")).json()
    engine.running = False
    for _ in range(3):
        assert (await client.get("/v1/models")).json() == models
        assert (await client.get(f"/v1/models/{CARD.name}")).json() == models["data"][0]
        assert (await client.get("/v1/models/another")).status_code == 404
    assert engine.calls == 1


async def test_any_route_that_describes_the_models_makes_them_known(make_client: MakeClient) -> None:
    engine = ScaledToZero()
    client = make_client(describe=engine, ready_within_s=0.05)
    await client.get("/readyz")
    engine.running = False
    assert (await client.get("/v1/models")).status_code == 200


async def test_models_that_are_not_known_yet_are_requested_each_time(make_client: MakeClient) -> None:
    engine = ScaledToZero()
    engine.running = False
    client = make_client(describe=engine, ready_within_s=0.05)
    assert (await client.get("/v1/models")).status_code == 503
    engine.running = True
    assert (await client.get("/v1/models")).status_code == 200


async def test_readiness_is_checked_each_time(make_client: MakeClient) -> None:
    engine = ScaledToZero()
    client = make_client(describe=engine, ready_within_s=0.05)
    assert [(await client.get("/readyz")).status_code for _ in range(3)] == [200] * 3
    engine.running = False
    assert (await client.get("/readyz")).status_code == 503
    assert engine.calls == 4


async def test_no_other_route_calls_the_engine(make_client: MakeClient) -> None:
    engine = ScaledToZero()
    client = make_client(describe=engine)
    for path in ("/", "/healthz", "/docs", "/openapi.json", "/metrics"):
        await client.get(path)
    await client.post("/tokenize", json={"prompt": "a"})
    assert engine.calls == 0


@pytest.mark.parametrize("name", ["gpt-4o", "zai-org/GLM-4.6V-Flash"])
async def test_another_model_is_a_404(make_client: MakeClient, name: str) -> None:
    response = await make_client().get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert f"'{name}'" in response.json()["error"]["message"]


async def test_metrics_gives_the_nodes_page_as_it_is(make_client: MakeClient) -> None:
    async def page() -> bytes:
        return b"ray_glm_requests_total 3\n"

    response = await make_client(metrics_page=page).get("/metrics")
    assert response.content == b"ray_glm_requests_total 3\n"
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_metrics_that_cannot_be_read_are_a_503(make_client: MakeClient) -> None:
    async def page() -> bytes:
        raise OSError("refused")

    response = await make_client(metrics_page=page).get("/metrics")
    assert response.status_code == 503
    assert "metrics endpoint" in response.json()["error"]["message"]


async def test_the_root_lists_every_documented_route(make_client: MakeClient) -> None:
    client = make_client()
    root = (await client.get("/")).json()
    paths = (await client.get(root["openapi"])).json()["paths"]
    assert set(root["routes"]) == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert root["routes"]["POST /v1/ask"] == "Ask a question about uploaded pictures and documents"
    assert (await client.get(root["docs"])).status_code == 200
