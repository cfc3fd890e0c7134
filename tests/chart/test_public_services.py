"""Ingress and HTTPRoute: how proxies before the service are configured for bodies, time-outs and streams."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serve_app.ingress.app import create_app
from serve_app.metrics import SilentMeter
from serve_app.settings import Settings
from tests.chart.render import Object, of_kind, render

pytestmark = pytest.mark.chart
NGINX = "nginx.ingress.kubernetes.io/"


# Every path of the service is one or the other; a new route has to be added here.
PUBLIC = {
    "/",
    "/healthz",
    "/v1/ask",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/feedback",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/{model}",
    "/v1/responses",
    "/v1/usage",
    "/v1/widget/tokens",
}
WEB = "/web/{path}"  # the page's files
PUBLIC |= {WEB}
API_REFERENCE = {"/docs", "/openapi.json"}
INSIDE = {"/health", "/metrics", "/readyz", "/tokenize"}


def ingress(objects: list[Object]) -> Any:
    (only,) = of_kind(objects, "Ingress")
    return only


def nginx(objects: list[Object]) -> dict[str, str]:
    """The annotations of ingress-nginx by their short names."""
    annotations = ingress(objects)["metadata"].get("annotations", {})
    return {name.removeprefix(NGINX): value for name, value in annotations.items() if name.startswith(NGINX)}


def route(objects: list[Object]) -> Any:
    (only,) = of_kind(objects, "HTTPRoute")
    return only["spec"]


def published(objects: list[Object], paths: set[str]) -> set[str]:
    """Those of `paths` that the Ingress or HTTPRoute matches: exactly, or by a prefix of complete segments."""
    matches: list[tuple[str, str]] = []
    for each in of_kind(objects, "Ingress"):
        (rule,) = each["spec"]["rules"]
        matches += [(path["pathType"], path["path"]) for path in rule["http"]["paths"]]
    for each in of_kind(objects, "HTTPRoute"):
        (rule,) = each["spec"]["rules"]
        matches += [(m["path"]["type"].removeprefix("Path"), m["path"]["value"]) for m in rule["matches"]]
    assert {kind for kind, _ in matches} == {"Exact", "Prefix"}
    return {
        path
        for path in paths
        for kind, value in matches
        if path == value or (kind == "Prefix" and path.startswith(value.rstrip("/") + "/"))
    }


@pytest.mark.parametrize(
    "values",
    [{"ingress.enabled": True}, {"gateway.enabled": True, "gateway.parentRefs": [{"name": "public"}]}],
    ids=["ingress", "gateway"],
)
def test_only_the_api_and_the_page_are_published(values: dict[str, Any]) -> None:
    paths = PUBLIC | API_REFERENCE | INSIDE | {"/-/routes", "/-/healthz", "/v10"}
    assert published(render(set=values), paths) == PUBLIC
    assert published(render(set={**values, "publish.apiReference": True}), paths) == PUBLIC | API_REFERENCE


def test_callbacks_of_chat_platforms_are_published_where_the_bots_are_on() -> None:
    callbacks = {"/bots/wecom/bot", "/bots/wecom/app", "/bots/dingtalk/bot", "/bots/feishu/bot"}
    assert published(render(set={"ingress.enabled": True}), callbacks) == set()
    assert published(render(set={"ingress.enabled": True, "settings.bots": {"enabled": True}}), callbacks) == callbacks


def test_each_path_of_the_service_is_published_or_stays_inside() -> None:
    async def nothing(*_: Any) -> Any:
        raise NotImplementedError

    app = create_app(Settings(), nothing, nothing, nothing, SilentMeter())
    assert app.openapi()["paths"].keys() | {"/", WEB, *API_REFERENCE} == PUBLIC | API_REFERENCE | INSIDE


def test_there_is_no_ingress_and_no_route_by_default() -> None:
    assert not of_kind(render(), "Ingress")
    assert not of_kind(render(), "HTTPRoute")


def test_nginx_lets_the_largest_body_through_and_waits_for_the_longest_answer() -> None:
    values = {"ingress.enabled": True, "settings.http": {"max_body_bytes": 1_000_000, "request_timeout_s": 42.5}}
    annotations = nginx(render(set=values))
    assert annotations["proxy-body-size"] == "1000000"
    assert int(annotations["proxy-read-timeout"]) > 42.5
    assert int(annotations["proxy-send-timeout"]) > 42.5


def test_nginx_buffers_uploads_and_does_not_buffer_streams() -> None:
    annotations = nginx(render(set={"ingress.enabled": True}))
    assert annotations["proxy-buffering"] == "off"
    assert annotations["proxy-request-buffering"] == "on"


def test_nginx_limits_an_address_only_where_it_is_set() -> None:
    assert not [name for name in nginx(render(set={"ingress.enabled": True})) if name.startswith("limit-")]
    limits = {k: v for k, v in nginx(render("ci/nginx-limits-values.yaml")).items() if k.startswith("limit-")}
    assert limits == {"limit-rps": "10", "limit-burst-multiplier": "3", "limit-connections": "20"}


def test_every_annotation_is_text() -> None:
    annotations = ingress(render("ci/nginx-limits-values.yaml"))["metadata"]["annotations"]
    assert all(isinstance(value, str) for value in annotations.values())


def test_a_user_s_annotation_wins() -> None:
    assert nginx(render("ci/nginx-limits-values.yaml"))["proxy-request-buffering"] == "off"


def test_another_controller_gets_no_annotations_of_nginx() -> None:
    values = {
        "ingress.enabled": True,
        "ingress.nginx.enabled": False,
        "ingress.annotations": {"alb/scheme": "internal"},
    }
    assert ingress(render(set=values))["metadata"]["annotations"] == {"alb/scheme": "internal"}


def test_the_ingress_points_at_kuberay_s_service() -> None:
    spec = ingress(render("ci/nginx-limits-values.yaml"))["spec"]
    assert spec["ingressClassName"] == "nginx"
    assert spec["tls"] == [{"secretName": "glm-tls", "hosts": ["glm.example.com"]}]
    (rule,) = spec["rules"]
    assert rule["host"] == "glm.example.com"
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"] == {"name": "glm-glm-vision-serve-serve-svc", "port": {"number": 8000}}


def test_an_ingress_without_a_host_accepts_every_name() -> None:
    (rule,) = ingress(render(set={"ingress.enabled": True}))["spec"]["rules"]
    assert "host" not in rule


@pytest.mark.parametrize("seconds", [0.5, 300, 86_400])
def test_a_gateway_waits_for_the_longest_answer(seconds: float) -> None:
    values = {
        "gateway.enabled": True,
        "gateway.parentRefs": [{"name": "public"}],
        "settings.http.request_timeout_s": seconds,
    }
    (rule,) = route(render(set=values))["rules"]
    times = rule["timeouts"]
    # The Gateway API's form of a duration, and its rule that the backend's part is not longer than the whole.
    assert all(re.fullmatch(r"([0-9]{1,5}(h|m|s|ms)){1,4}", time) for time in times.values())
    assert seconds < int(times["backendRequest"][:-1]) <= int(times["request"][:-1])


def test_a_route_joins_the_gateways_that_are_named() -> None:
    spec = route(render("ci/gateway-route-values.yaml"))
    assert spec["parentRefs"] == [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    assert spec["hostnames"] == ["glm.example.com"]


def test_a_host_that_is_named_twice_is_there_once() -> None:
    values = {"ingress": {"enabled": True, "host": "a.example.com", "extraHosts": ["a.example.com", "b.example.com"]}}
    (ingress,) = of_kind(render(set=values), "Ingress")
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["a.example.com", "b.example.com"]
