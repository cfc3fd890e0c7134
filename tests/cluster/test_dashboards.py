"""Every query of the dashboards and every alert runs on a real Prometheus over the service, and shows what happened.

Head and worker are started as KubeRay starts them (nodes.py), Serve gets the chart's own configuration, Prometheus the
chart's own PodMonitors and rules. So names, ports, labels and relabelings are those of a cluster.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import yaml
from ray.dashboard.consts import GPU_TAG_KEYS
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from tests.chart.promql import BOARDS, BUILT_IN, GPU_ONLY, OURS, alerts, panel_queries
from tests.chart.render import NAMESPACE, RELEASE, Object, of_kind, rayservice, render
from tests.cluster import nodes
from tests.cluster.questions import chat_body, questions

pytestmark = pytest.mark.cluster

VALUES = {
    **{f"monitoring.{part}.enabled": True for part in ("podMonitor", "prometheusRule", "dashboards")},
    "settings.engine.max_slots": 2,
    "settings.engine.max_waiting": 1,  # so that a burst is refused
    "settings.preprocess.decoded_cache_mib": 0,  # so that each picture is decoded and counted
}
PROMETHEUS = f"{nodes.SUBNET}.9"
SCRAPE_S = 2
REPORTED_S = 10  # Ray's period
WINDOW = "3m"  # longer than the whole test, so that a rate is over all of it
CHAT = "/v1/chat/completions"

NO_DATA = {
    **{title: "there is no GPU here" for title in ("GPU memory", "GPU utilization", "GPU power", "GPU temperature")},
    "Refused requests": "there is no authentication here, and no limits of callers",
}
NEVER_HERE = {
    "ray_glm_out_of_memory_total": "no GPU, no such error",
    "ray_glm_prefix_tokens_total": "on a CPU the cache has slots, no pages",
    "ray_glm_audit_lines_total": "the audit log is off",
    "ray_glm_audit_failures_total": "the audit log is off",
    "ray_glm_limit_store_down": "limits are counted in process",
    "ray_glm_limit_store_errors_total": "limits are counted in process",
    "ray_glm_jwks_errors_total": "no JSON Web Tokens",
    "ray_glm_scans_total": "no scan for malware",
    **{
        f"ray_glm_bot_{name}": "the bots are off"
        for name in ("messages_total", "answer_seconds_bucket", "waiting", "callbacks_refused_total", "sends_total")
    },
}
NO_STORE = {"Cache-Control": "no-store"}  # the model answers, not the answer cache


@dataclass
class Responses:
    """What the client got: how many responses of each kind, and their tokens."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    usage: Counter[str] = field(default_factory=Counter)

    def count(self, response: httpx.Response) -> None:
        self.statuses[response.status_code] += 1
        if response.status_code == 200:
            usage = response.json()["usage"]
            self.usage.update({name: usage[name] for name in ("prompt_tokens", "completion_tokens")})
        else:
            self.codes[response.json()["error"]["code"]] += 1


@dataclass
class Observed:
    """A cluster with its client and its Prometheus."""

    cluster: nodes.Cluster
    worker: nodes.Node
    responses: Responses = field(default_factory=Responses)  # since the start
    later: Responses = field(default_factory=Responses)  # since `settle` was first called
    before: dict[str, float] = field(default_factory=dict)  # counters as they were then

    # -- the client

    def client(self) -> httpx.Client:
        """For the worker's port; to be used inside the cluster's network."""
        return httpx.Client(base_url=f"http://{self.worker.address}:8000", timeout=60, trust_env=False)

    def ask(self, *bodies: dict[str, Any], at_once: int = 1, headers: dict[str, str] = NO_STORE) -> None:
        """Ask these questions, up to this many at a time, and count the responses."""

        def work() -> list[httpx.Response]:
            with self.client() as client, ThreadPoolExecutor(at_once, initializer=self.cluster.enter) as threads:
                return list(threads.map(lambda body: client.post(CHAT, json=body, headers=headers), bodies))

        for response in self.cluster.call(work, 120):
            self.responses.count(response)
            self.later.count(response)

    def leave_early(self, body: dict[str, Any]) -> None:
        """Ask for a stream and hang up after its first piece."""

        def work() -> None:
            with self.client() as client, client.stream("POST", CHAT, json={**body, "stream": True}) as response:
                next(response.iter_lines())

        self.cluster.call(work, 60)

    # -- Prometheus

    def api(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus' HTTP API."""
        response = self.cluster.call(
            lambda: httpx.get(f"http://{PROMETHEUS}:9090/api/v1/{path}", params=parameters, timeout=30, trust_env=False)
        )
        answer = response.json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def values(self, expression: str, window: str = WINDOW) -> dict[str, float]:
        """The finite values of an expression now, by their labels as JSON."""
        found = self.api("query", query=filled(expression, window))["result"]
        values = {json.dumps(each["metric"], sort_keys=True): float(each["value"][1]) for each in found}
        return {labels: value for labels, value in values.items() if math.isfinite(value)}

    def value(self, expression: str) -> float:
        """The one value of an expression; 0 where there is none."""
        return sum(self.values(expression).values())

    def by(self, label: str, expression: str) -> dict[str, float]:
        return {json.loads(labels)[label]: value for labels, value in self.values(expression).items()}

    def panel(self, board: str, title: str, number: int = 0, window: str = WINDOW) -> dict[str, float]:
        """What a query of a panel shows now."""
        found = [query for name, panel, query in panel_queries() if (name, panel) == (board, title)]
        return self.values(found[number]["expr"], window)

    def settle(self) -> None:
        """Wait until Prometheus has all that happened: a whole period of the processes' reports adds nothing."""
        names = ("output_tokens", "prompt_tokens", "image_tokens", "pictures")
        seen: list[float] = []
        for _ in range(6):
            time.sleep(REPORTED_S + 2 * SCRAPE_S)
            before, seen = seen, [self.value(f"sum(ray_glm_{name}_total)") for name in names]
            if before == seen:
                break
        answered = sum(self.responses.statuses.values())
        self.cluster.until(
            lambda: self.value(f'sum(ray_glm_requests_total{{route="{CHAT}", status!="499"}})') >= answered,
            f"{answered} requests in Prometheus",
        )

    def begin_again(self) -> None:
        """Responses and counters from now on are `later`."""
        self.later, self.later_began = Responses(), time.monotonic()
        counters = ("glm_output_tokens", "glm_prompt_tokens", "glm_image_tokens", "glm_pictures")
        self.before = {name: self.value(f"sum(ray_{name}_total)") for name in counters}

    def since(self, name: str) -> float:
        return self.value(f"sum(ray_{name}_total)") - self.before[name]


def names_only(expression: str, metrics: Container[str]) -> bool:
    """Whether an expression has metrics of the service, and all of them are among these."""
    names = re.findall(r"ray_glm_\w+", expression)
    return bool(names) and all(name in metrics for name in names)


def filled(expression: str, window: str = WINDOW) -> str:
    """A panel's expression as Grafana sends it."""
    variables = {"namespace": NAMESPACE, "release": RELEASE, "cluster": ".+", "deployment": ".+", "replica": ".+"}
    expression = expression.replace("$__rate_interval", window)
    return re.sub(r"\$(\w+)", lambda match: variables[match[1]], expression)


def prometheus_config(objects: list[Object], pods: list[nodes.Node]) -> dict[str, Any]:
    """The PodMonitors as the Prometheus operator would write them, for these pods."""
    jobs = []
    for monitor in of_kind(objects, "PodMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        for node in pods:
            labels = node.pod["metadata"]["labels"]
            if not wanted <= labels.items():
                continue
            container = node.pod["spec"]["containers"][0]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                discovered = {
                    **{f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', k)}": v for k, v in labels.items()},
                    "namespace": NAMESPACE,
                    "pod": node.name,
                    "container": container["name"],
                    "endpoint": endpoint["port"],
                }
                target = f"{node.address}:{ports[endpoint['port']]}"
                jobs.append(
                    {
                        "job_name": f"{monitor['metadata']['name']}/{node.name}/{endpoint['port']}",
                        "static_configs": [{"targets": [target], "labels": discovered}],
                        "relabel_configs": [_snake(rule) for rule in endpoint["relabelings"]],
                        "metric_relabel_configs": [_snake(rule) for rule in endpoint["metricRelabelings"]],
                    }
                )
    times = {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s", "evaluation_interval": "5s"}
    return {"global": times, "rule_files": ["/tmp/rules.yaml"], "scrape_configs": jobs}


def _snake(rule: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name): value for name, value in rule.items()}


@pytest.fixture(scope="module")
def chart() -> list[Object]:
    return render("values-cpu-demo.yaml", set=VALUES)


@pytest.fixture(scope="module")
def observed(chart: list[Object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """The service after two rounds of questions with everything in them that boards ask about."""
    folder = tmp_path_factory.mktemp("observed")
    with nodes.running(folder) as cluster:
        cluster.install(rayservice(chart))
        (worker,) = [node for node in cluster.nodes.values() if node.serves]
        start_prometheus(cluster, chart)
        cluster.wait_until_running()
        crash(cluster, worker, "preprocess")
        service = Observed(cluster, worker)

        first, second = questions(per_job=2)[:2]
        service.ask(chat_body(first), chat_body(second), chat_body(first))  # the last one's picture is known already
        service.ask(chat_body(second), headers={})  # looked up in the answer cache
        service.leave_early(chat_body(first, max_tokens=400, ignore_eos=True))
        service.ask(*errors_and_burst(first), at_once=12)
        service.settle()
        service.ask(chat_body(second), headers={})  # another lookup: a rate needs two samples

        service.begin_again()
        service.ask(*[chat_body(question) for question in questions(per_job=4)])
        service.ask(*errors_and_burst(second), at_once=12)
        service.settle()
        yield service


def errors_and_burst(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Three invalid requests, and more long answers at once than there are slots."""
    return [{"messages": []}] * 3 + [chat_body(question, max_tokens=120, ignore_eos=True)] * 9


def crash(cluster: nodes.Cluster, worker: nodes.Node, deployment: str) -> None:
    """The process of the deployment's only replica dies; returns when Serve has replaced it."""
    (replica,) = cluster.replicas(deployment)
    killed = cluster.execute(worker, ["kill", "-9", str(replica["pid"])], 10)
    assert killed.returncode == 0, killed.stderr
    cluster.until(
        lambda: [each["pid"] for each in cluster.replicas(deployment)] not in ([], [replica["pid"]]),
        f"another replica of {deployment}",
    )


def start_prometheus(cluster: nodes.Cluster, objects: list[Object]) -> None:
    """A pod with the Prometheus that scrapes the pods that are there now."""
    (rules,) = of_kind(objects, "PrometheusRule")
    config = prometheus_config(objects, list(cluster.nodes.values()))
    files = {"rules.yaml": yaml.safe_dump(rules["spec"]), "prometheus.yaml": yaml.safe_dump(config)}
    options = "--config.file=/tmp/prometheus.yaml --storage.tsdb.path=/tmp/data --web.listen-address=0.0.0.0:9090"
    container = {"name": "prometheus", "args": [f"exec prometheus {options}"], "env": []}
    pod = {"metadata": {"labels": {}}, "spec": {"containers": [container]}}
    node = cluster.start("prometheus", pod, PROMETHEUS, files)

    def ready() -> bool:
        url = f"http://{PROMETHEUS}:9090/-/ready"
        return cluster.call(lambda: httpx.get(url, timeout=5, trust_env=False)).status_code == 200

    cluster.until(ready, "Prometheus", node)


def test_prometheus_reaches_every_port_of_the_monitors(observed: Observed) -> None:
    targets = observed.api("targets")["activeTargets"]
    ports = Counter(target["labels"]["endpoint"] for target in targets)
    assert ports == {"metrics": 2, "as-metrics": 1, "dash-metrics": 1, "haproxy": 1}
    for target in targets:
        assert target["health"] == "up", target["lastError"]
        assert target["labels"]["release"] == RELEASE
        assert target["labels"]["ray_io_cluster"]


def test_every_query_of_every_panel_runs_and_shows_something(observed: Observed) -> None:
    empty = [
        (board, panel, query["expr"])
        for board, panel, query in panel_queries()
        if not observed.values(query["expr"]) and panel not in NO_DATA and not names_only(query["expr"], NEVER_HERE)
    ]
    assert not empty


def test_panels_that_can_not_show_anything_here_are_those_of_a_gpu_and_of_authentication(observed: Observed) -> None:
    shown = {panel for _, panel, query in panel_queries() if panel in NO_DATA and observed.values(query["expr"])}
    assert not shown
    for name, labels in GPU_ONLY.items():
        assert name.removeprefix("ray_") in METRICS_GAUGES
        assert labels == set(GPU_TAG_KEYS) - {"Version", "SessionName"}


def test_every_variable_offers_its_values(observed: Observed) -> None:
    offered = {}
    for path in BOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
                series = observed.api("series", **{"match[]": filled(metric)})
                offered[variable["name"]] = {each[label] for each in series}
    assert offered["namespace"] == {NAMESPACE}
    assert offered["release"] == {RELEASE}
    assert offered["cluster"] == {observed.worker.pod["metadata"]["labels"]["ray.io/cluster"]}
    assert offered["deployment"] == {"ingress", "preprocess", "engine"}
    assert len(offered["replica"]) == 1


def test_every_metric_that_boards_and_alerts_may_name_is_there_with_its_labels(observed: Observed) -> None:
    for name, labels in (OURS | BUILT_IN).items():
        if name in GPU_ONLY or name in NEVER_HERE:
            continue
        series = observed.api("series", **{"match[]": name})
        assert series, f"{name} is not exported"
        assert labels <= set().union(*series), name


def test_prometheus_evaluates_every_alert(observed: Observed, chart: list[Object]) -> None:
    groups = observed.api("rules")["groups"]
    evaluated = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert evaluated.keys() == {rule["alert"] for rule in alerts(chart)}
    for name, rule in evaluated.items():
        assert rule["health"] == "ok", (name, rule.get("lastError"))
        assert rule["state"] != "firing", name
    for rule in alerts(chart):
        observed.values(rule["expr"])


# -- what the panels show is what happened


def test_requests_and_errors_are_those_that_the_client_saw(observed: Observed) -> None:
    statuses = observed.by("status", f'sum by (status) (ray_glm_requests_total{{route="{CHAT}"}})')
    assert statuses.pop("499") == 1
    assert statuses == {str(status): number for status, number in observed.responses.statuses.items()}
    assert set(statuses) == {"200", "400", "503"}
    assert observed.by("code", "sum by (code) (ray_glm_rejections_total)") == observed.responses.codes
    assert observed.value("sum(ray_glm_cancellations_total)") == 1


def test_the_share_of_failures_is_that_of_the_second_round(observed: Observed) -> None:
    # Over the whole test, a rate would also see what of the first round came after a series' first sample.
    window = f"{time.monotonic() - observed.later_began + SCRAPE_S:.0f}s"
    expected = observed.later.statuses[503] / sum(observed.later.statuses.values())
    (shown,) = observed.panel("Service", "Failed requests", window=window).values()
    assert shown == pytest.approx(expected, rel=0.2)


def test_haproxy_counts_the_same_failures(observed: Observed) -> None:
    classes = observed.by("code", 'sum by (code) (haproxy_frontend_http_responses_total{proxy="http_frontend"})')
    assert classes["5xx"] == observed.responses.statuses[503]
    assert classes["2xx"] >= observed.responses.statuses[200]


def test_tokens_are_those_that_answers_and_questions_had(observed: Observed) -> None:
    assert observed.since("glm_output_tokens") == observed.later.usage["completion_tokens"]
    assert observed.since("glm_prompt_tokens") == observed.later.usage["prompt_tokens"]
    assert 0 < observed.since("glm_image_tokens") < observed.since("glm_prompt_tokens")


def test_pictures_are_those_that_were_decoded(observed: Observed) -> None:
    answered, refused = observed.later.statuses[200], observed.later.statuses[503]  # before or after decoding
    assert answered <= observed.since("glm_pictures") <= answered + refused
    assert observed.by("format", "sum by (format) (ray_glm_pictures_total)").keys() == {"jpeg"}


def test_the_batch_is_never_larger_than_the_slots(observed: Observed) -> None:
    assert list(observed.panel("Engine", "Slots", 1).values()) == [2]
    (p95,) = observed.panel("Engine", "Batch size", 1).values()
    assert 1 < p95 <= 2


def test_each_stage_has_the_replicas_that_are_wanted_and_the_crash_is_seen(observed: Observed) -> None:
    ready, wanted = (observed.panel("Service", "Ready and wanted replicas", number) for number in (0, 1))
    assert set(ready.values()) == set(wanted.values()) == {1}
    assert len(ready) == len(wanted) == 3
    assert list(observed.panel("Service", "Replicas missing").values()) == [0]
    failures = observed.by("deployment", "sum by (deployment) (ray_serve_health_check_failures_total)")
    assert failures == {"preprocess": 1}


def test_times_lie_within_what_the_client_waited(observed: Observed) -> None:
    (first_token,) = observed.panel("Service", "Time to first token", 1).values()
    (total,) = observed.panel("Service", "Request latency", 1).values()
    assert 0 < first_token <= total < 60
    stages = set(observed.by("stage", "sum by (stage) (ray_glm_stage_seconds_bucket)"))
    assert stages == {"queue", "encode", "prefill", "decode_step", "fetch", "decode", "resize", "tokenize"}
