"""Boards, alerts and monitors of the chart: they ask for what there is, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import errors
from serve_app.ingress.request_log import POLLED
from serve_app.settings import Settings
from tests.chart.promql import (
    BOARDS,
    BUILT_IN,
    OF_KUBERNETES,
    OURS,
    alerts,
    asked,
    known_labels,
    labels_named,
    nodes,
    panel_queries,
    panels,
    parsed,
)
from tests.chart.render import CHART, NAMESPACE, RELEASE, ROOT, Object, binary, of_kind, rayservice, render

pytestmark = pytest.mark.chart

ON = {f"monitoring.{part}.enabled": True for part in ("podMonitor", "prometheusRule", "dashboards")}
ALERT_TESTS = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))
PAGE = ROOT / "docs/monitoring.md"

boards = pytest.mark.parametrize("board", [json.loads(path.read_text()) for path in BOARDS], ids=lambda b: b["uid"])
queries = pytest.mark.parametrize(
    "expression",
    [pytest.param(query["expr"], id=f"{board}-{panel}-{query['refId']}") for board, panel, query in panel_queries()],
)


def rules(**limits: Any) -> list[Object]:
    return alerts(render(set=ON | {f"monitoring.prometheusRule.{name}": value for name, value in limits.items()}))


# -- what expressions ask for


@queries
def test_a_panel_asks_for_metrics_and_labels_that_there_are(expression: str) -> None:
    check_names(expression)


def test_every_alert_asks_for_metrics_and_labels_that_there_are() -> None:
    for rule in rules():
        check_names(rule["expr"])


def check_names(expression: str) -> None:
    parsed(expression)
    selectors = asked(expression)
    for selector in selectors:
        known = OURS | BUILT_IN | OF_KUBERNETES
        assert selector.metric in known, f"nobody exports {selector.metric}"
        unknown = selector.matchers.keys() - known_labels({selector.metric})
        assert not unknown, f"{selector.metric} has no label {unknown}"
    unknown = labels_named(expression) - known_labels({selector.metric for selector in selectors})
    assert not unknown, f"no metric of {expression} has a label {unknown}"


def test_the_check_of_names_reports_a_metric_and_a_label_that_do_not_exist() -> None:
    for broken in ("sum(ray_glm_request_total)", 'ray_glm_slots{stage="x"}', "sum by (route) (ray_glm_slots)"):
        with pytest.raises(AssertionError):
            check_names(broken)
    with pytest.raises(ValueError, match="parenthesis"):
        check_names("sum(ray_glm_slots")


@queries
def test_a_panel_shows_one_release_over_grafanas_own_interval(expression: str) -> None:
    for selector in asked(expression):
        assert selector.matchers["namespace"] == ("Equal", "$namespace")
        assert selector.matchers["release"] == ("Equal", "$release")
        assert selector.matchers["ray_io_cluster"] == ("Re", "$cluster")
    assert set(re.findall(r"\[(.+?)\]", expression)) <= {"$__rate_interval"}


@queries
def test_no_panel_trusts_a_histograms_sum(expression: str) -> None:
    assert not any(selector.metric.endswith(("_sum", "_count")) for selector in asked(expression))
    assert ("histogram_quantile" in expression) == ("_bucket" in expression)


def test_counters_are_queried_for_their_rate_or_since_their_start() -> None:
    # a rate hides the first
    rare = {
        "ray_glm_out_of_memory_total",
        "ray_glm_limit_store_errors_total",
        "ray_glm_jwks_errors_total",
        "ray_serve_health_check_failures_total",
    }
    gauges = {"ray_node_mem_total"}
    for _, panel, query in panel_queries():
        rated = {
            argument.vector_selector.name
            for node in nodes(query["expr"])
            if type(node).__name__ == "Call" and node.func.name == "rate"
            for argument in node.args
        }
        for selector in asked(query["expr"]):
            counts = selector.metric.endswith(("_total", "_bucket")) and selector.metric not in rare | gauges
            assert (selector.metric in rated) == counts, f"{panel}: {selector.metric}"


def test_failures_are_the_errors_that_are_no_fault_of_the_caller() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)]
    failures = {kind.code for kind in kinds if kind.status >= 500}
    expressions = [query["expr"] for _, panel, query in panel_queries() if panel == "Failed requests"]
    expressions += [rule["expr"] for rule in rules() if rule["alert"] == "GlmErrors"]
    assert len(expressions) == 2
    for expression in expressions:
        for selector in asked(expression):
            if selector.metric == "ray_glm_rejections_total":
                assert set(selector.matchers["code"][1].split("|")) == failures
            else:
                assert set(selector.matchers["route"][1].split("|")) == {*POLLED, "/web/.*"}


# -- how boards look


@boards
def test_every_panel_has_a_title_a_unit_a_description_and_a_name_for_each_line(board: Object) -> None:
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith((".", "?")), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            top = parsed(target["expr"])
            kept = getattr(top, "modifier", None) if type(top).__name__ == "AggregateExpr" else None
            known = set(kept.labels) if kept else known_labels({each.metric for each in asked(target["expr"])})
            assert named <= known, f"{panel['title']}: {named - known}"


@boards
def test_no_two_panels_share_a_place_or_an_id_and_every_row_is_full(board: Object) -> None:
    everything = board["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert taken == {(x, y) for x in range(24) for y in range(max(y for _, y in taken) + 1)}


@boards
def test_every_variable_is_used_and_every_name_used_is_a_variable(board: Object) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    text = json.dumps(board["panels"])
    used = set(re.findall(r"\$\{?([a-z]\w*)", text)) - {"__rate_interval"}
    assert used == variables.keys()
    for variable in variables.values():
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            check_names(metric)
            assert label in known_labels({each.metric for each in asked(metric)})


def test_boards_have_ids_and_titles_of_their_own() -> None:
    loaded = [json.loads(path.read_text()) for path in BOARDS]
    assert {board["uid"] for board in loaded} == {path.stem for path in BOARDS} == {"glm-service", "glm-engine"}
    assert len({board["title"] for board in loaded}) == len(loaded)


def test_boards_are_what_their_code_writes() -> None:
    run = subprocess.run(
        [sys.executable, "helm/generate", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert not run.stderr
    assert "dashboards/" not in run.stdout


# -- what the chart makes of them


def test_each_board_is_a_configmap_that_grafanas_sidecar_finds() -> None:
    maps = dashboards_of(RELEASE)
    shown = {name: json.loads(text) for each in maps for name, text in each["data"].items()}
    for path in BOARDS:
        board = json.loads(path.read_text())
        own = {"uid": shown[path.name]["uid"], "title": f"{board['title']} ({NAMESPACE}/{RELEASE})"}
        assert shown[path.name] == board | own
    assert shown.keys() == {path.name for path in BOARDS}
    assert all(len(json.dumps(each)) < 2**20 for each in maps)


def dashboards_of(release: str) -> list[Object]:
    maps = of_kind(render(set=ON, release=release), "ConfigMap")
    return [each for each in maps if "grafana_dashboard" in each["metadata"]["labels"]]


def test_dashboards_of_two_releases_have_ids_and_titles_of_their_own() -> None:
    shown = [
        json.loads(text) for name in ("glm", "boards") for each in dashboards_of(name) for text in each["data"].values()
    ]
    assert len({board["uid"] for board in shown}) == len({board["title"] for board in shown}) == 4
    assert all(len(board["uid"]) <= 40 for board in shown)


def test_nothing_of_it_is_rendered_by_default() -> None:
    kinds = {each["kind"] for each in render(set=dict.fromkeys(ON, False))}
    assert not kinds & {"PodMonitor", "PrometheusRule"}
    assert not any("grafana_dashboard" in each["metadata"].get("labels", {}) for each in render())


@pytest.mark.parametrize("component", ["head", "worker"])
def test_a_monitor_selects_the_pods_of_its_component_and_ports_that_they_have(component: str) -> None:
    objects = render(set=ON)
    cluster = rayservice(objects)["spec"]["rayClusterConfig"]
    groups = {"head": [cluster["headGroupSpec"]], "worker": cluster["workerGroupSpecs"]}
    (monitor,) = [each for each in of_kind(objects, "PodMonitor") if each["metadata"]["name"].endswith(component)]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for other, templates in groups.items():
        for group in templates:
            pod = group["template"]
            assert (wanted <= pod["metadata"]["labels"].items()) == (other == component)
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for group in groups[component]:
        named = {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        assert ports <= named
    assert ports == ({"metrics", "as-metrics", "dash-metrics"} if component == "head" else {"metrics", "haproxy"})


def test_every_endpoint_gets_the_labels_that_boards_and_alerts_select_by() -> None:
    for monitor in of_kind(render(set=ON), "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"ray_io_cluster", "release"}


# -- the page


def blocks(language: str) -> list[str]:
    """The page's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.+?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_pages_prometheus_configuration_gives_the_labels_that_boards_select_by(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    path = tmp_path / "prometheus.yaml"
    path.write_text(block)
    promtool("check", "config", path)
    (job,) = yaml.safe_load(block)["scrape_configs"]
    (static,) = job["static_configs"]
    assert static["targets"] == [f"127.0.0.1:{Settings().metrics.port}"]
    assert static["labels"].keys() == {"namespace", "release", "ray_io_cluster", "pod", "endpoint"}


def test_the_pages_command_writes_rules_for_that_configuration(tmp_path: Path) -> None:
    (command,) = [block for block in blocks("sh") if "--show-only" in block]
    (tmp_path / "helm").symlink_to(CHART)
    helm = f'helm() {{ {binary("helm4")} "$@"; }}; python3() {{ {sys.executable} "$@"; }}; '
    subprocess.run(["bash", "-ec", helm + command], cwd=tmp_path, timeout=60, check=True)
    promtool("check", "rules", tmp_path / "rules.yaml")
    assert 'namespace="local", release="glm"' in (tmp_path / "rules.yaml").read_text()


def test_the_page_names_settings_values_and_panels_that_there_are() -> None:
    page = PAGE.read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    settings = {f"{section}.{name}" for section, field in Settings() for name in type(field).model_fields}
    sections = {name.partition(".")[0] for name in settings} | values.keys()
    named = {name for name in re.findall(r"`([a-z]\w*(?:\.[\w<>]+)+)`", page) if name.partition(".")[0] in sections}
    assert len(named) > 10
    for name in named - settings:
        found = values
        for key in name.replace("<group>", "cpu").split("."):
            assert key in found, name
            found = found[key]
    titles = {panel["title"] for path in BOARDS for panel in panels(json.loads(path.read_text()))}
    assert set(re.findall(r'"([A-Z][\w, ]+)"', page.partition("## Alerts")[2])) <= titles | {"Time by stage"}


# -- alerts


def test_every_alert_is_complete_and_concerns_this_release_alone() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert "${" not in json.dumps(rule), rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        for selector in asked(rule["expr"]):
            assert selector.matchers["namespace"] == ("Equal", NAMESPACE)
            if selector.metric in OF_KUBERNETES:
                (name,) = selector.matchers.keys() - {"namespace", "condition"}
                assert all(RELEASE in each for each in selector.matchers[name][1].split("|"))
            else:
                assert selector.matchers["release"] == ("Equal", RELEASE)


def test_alerts_take_a_team_s_labels_another_duration_and_a_switch() -> None:
    changes = {"GlmQueue": {"for": "15m", "labels": {"severity": "critical"}}, "GlmOutOfMemory": {"enabled": False}}
    before = {rule["alert"]: rule for rule in rules()}
    after = {rule["alert"]: rule for rule in rules(alertLabels={"team": "vision"}, alerts=changes)}
    assert before.keys() - after.keys() == {"GlmOutOfMemory"}
    assert after["GlmQueue"]["for"] == "15m"
    assert after["GlmQueue"]["labels"] == {"severity": "critical", "team": "vision"}
    for name, rule in after.items():
        assert rule["labels"]["team"] == "vision"
        if name != "GlmQueue":
            assert rule == {**before[name], "labels": {**before[name]["labels"], "team": "vision"}}


def test_no_text_of_a_value_changes_the_structure_of_the_rules() -> None:
    for runbook in ("see: the wiki", "https://wiki/x: [a] {b} # c", '"quoted"', "a\nb", "${release}"):
        found = rules(runbook=runbook)
        assert len(found) == len(rules())
        assert all(rule["annotations"]["runbook_url"].startswith(runbook[:3]) for rule in found)


def test_google_s_prometheus_gets_its_own_kinds_with_the_same_labels_and_alerts() -> None:
    objects = render("ci/google-cloud-values.yaml")
    (written,) = of_kind(objects, "Rules")
    names = [rule["alert"] for group in written["spec"]["groups"] for rule in group["rules"]]
    assert names == [rule["alert"] for rule in rules() if rule["alert"] != "GlmTargetDown"]
    for monitor in of_kind(objects, "PodMonitoring"):
        assert {each["to"] for each in monitor["spec"]["targetLabels"]["fromPod"]} == {"ray_io_cluster", "release"}


def test_azure_s_prometheus_gets_the_same_monitors_under_its_own_api() -> None:
    values = {"monitoring.podMonitor.enabled": True}
    ours = of_kind(render(set=values), "PodMonitor")
    theirs = of_kind(render(set=values | {"monitoring.api": "azmonitoring.coreos.com"}), "PodMonitor")
    assert theirs == [{**each, "apiVersion": "azmonitoring.coreos.com/v1"} for each in ours]


def test_limits_come_from_the_values() -> None:
    limits = {
        "firstTokenSeconds": (7.25, "> 7.25", "GlmFirstTokenLate"),
        "waitingRequests": (1234567, "> 1234567", "GlmQueue"),
        "vramFraction": (0.5, "> 0.5", "GlmGpuMemoryHigh"),
        "errorFraction": (0.125, "> 0.125", "GlmErrors"),
    }
    changed = {rule["alert"]: rule for rule in rules(**{name: value for name, (value, _, _) in limits.items()})}
    for name, (_, text, alert) in limits.items():
        assert text in changed[alert]["expr"], name
    assert {
        rule["for"] for rule in rules(startMinutes=45) if rule["alert"] in ("GlmNoReadyReplica", "GlmReplicasMissing")
    } == {"45m"}
    (at_max,) = [rule for rule in alerts(render("values-cluster.yaml", set=ON)) if rule["alert"] == "GlmAtMaxReplicas"]
    assert ">= 8" in at_max["expr"]


def test_every_alert_has_its_paragraph_in_the_runbook() -> None:
    headings = set(re.findall(r"^### (\w+)$", PAGE.read_text(), re.MULTILINE))
    assert headings == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{rule['alert'].lower()}"


def test_every_alert_is_tested_firing_and_quiet() -> None:
    names = [test["name"] for path in ALERT_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    for rule in rules():
        assert any(name.startswith(f"{rule['alert']} fires") for name in names), rule["alert"]
        assert any(name.startswith(f"{rule['alert']} is quiet") for name in names), rule["alert"]


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    (rendered,) = of_kind(render(set=ON), "PrometheusRule")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rendered["spec"]))
    return path


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_takes_the_rules(rules_file: Path) -> None:
    promtool("check", "rules", "--lint-fatal", rules_file)


@pytest.mark.parametrize("path", ALERT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(rules_file: Path, path: Path) -> None:
    test = rules_file.with_name(path.name)
    test.write_text(path.read_text())
    promtool("test", "rules", test)
