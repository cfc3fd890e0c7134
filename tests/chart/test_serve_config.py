"""What the chart tells Ray Serve: a configuration that Serve and the builder take, and that means what values say."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from serve_app.app import bind, build
from serve_app.ingress.header_filter import allowed_hosts
from serve_app.logs import serve_logging
from serve_app.settings import LogSettings, Settings
from tests.chart.render import PROFILES, Object, every_value_set, of_kind, profile, rayservice, render

pytestmark = pytest.mark.chart
STAGES = ["ingress", "preprocess", "engine"]
VALUE_SETS = pytest.mark.parametrize("files", every_value_set())


def serve_config(objects: list[Object]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(rayservice(objects)["spec"]["serveConfigV2"])
    return config


def application(objects: list[Object]) -> dict[str, Any]:
    (only,) = serve_config(objects)["applications"]
    return dict(only)


def deployment(objects: list[Object], name: str) -> dict[str, Any]:
    (only,) = [each for each in application(objects)["deployments"] if each["name"] == name]
    return dict(only)


def autoscaling(objects: list[Object], name: str) -> dict[str, Any]:
    return dict(deployment(objects, name)["autoscaling_config"])


def unknown(data: dict[str, Any], model: type[BaseModel]) -> set[str]:
    """Names that the model would silently drop."""
    return set(data) - set(model.model_fields)


@VALUE_SETS
def test_serve_takes_the_configuration_and_drops_no_name(files: tuple[Any, ...]) -> None:
    config = serve_config(render(*files))
    ServeDeploySchema.model_validate(config)
    (app,) = config["applications"]
    assert not unknown(config, ServeDeploySchema)
    assert not unknown(config["http_options"], HTTPOptionsSchema)
    assert not unknown(config["logging_config"], LoggingConfig)
    assert not unknown(app, ServeApplicationSchema)
    for each in app["deployments"]:
        assert not unknown(each, DeploymentSchema)
        assert not unknown(each["ray_actor_options"], RayActorOptionsSchema)
        assert not unknown(each["autoscaling_config"], AutoscalingConfig)
        AutoscalingConfig.model_validate(each["autoscaling_config"])


@VALUE_SETS
def test_the_builder_takes_the_settings(files: tuple[Any, ...]) -> None:
    settings = Settings.model_validate(application(render(*files))["args"])
    assert settings.model.device in ("cuda", "cpu")


def test_the_chart_accepts_the_old_name_of_a_setting_until_0_2() -> None:
    objects = render(set={"settings.preprocess.max_answer_tokens": 8})
    assert Settings.model_validate(application(objects)["args"]).preprocess.default_max_tokens == 8


def test_the_application_is_the_package_s_own_graph() -> None:
    from serve_app.app import app

    graph = [app, *(part for part in app._bound_deployment.init_args if hasattr(part, "_bound_deployment"))]
    described = application(render())
    assert described["import_path"] == "serve_app.app:build"
    assert described["name"] == "glm"
    assert [each["name"] for each in described["deployments"]] == STAGES
    assert {part._bound_deployment.name for part in graph} == set(STAGES)


def test_the_bots_are_one_replica_in_a_pod_of_the_ingress() -> None:
    objects = render(set={"settings.bots": {"enabled": True}})
    (app,) = serve_config(objects)["applications"]
    ServeDeploySchema.model_validate(serve_config(objects))
    assert deployment(objects, "bots")["ray_actor_options"] == {"num_cpus": 0, "resources": {"ingress": 0.001}}
    settings = Settings.model_validate(app["args"])
    graph = build(settings)._bound_deployment.init_args
    assert [part._bound_deployment.name for part in graph if hasattr(part, "_bound_deployment")][-1] == "bots"


def test_options_of_the_graph_are_those_of_every_deployment() -> None:
    settings = Settings.model_validate({"bots": {"enabled": True}})
    graph = bind(settings, graceful_shutdown_wait_loop_s=0.2)._bound_deployment
    parts = [graph, *(part._bound_deployment for part in graph.init_args if hasattr(part, "_bound_deployment"))]
    assert {part.name for part in parts} == {*STAGES, "bots"}
    assert {part._deployment_config.graceful_shutdown_wait_loop_s for part in parts} == {0.2}


def test_what_the_builder_derives_from_settings_is_left_to_it() -> None:
    for name in STAGES:
        assert not {"max_queued_requests", "max_ongoing_requests", "num_replicas"} & set(deployment(render(), name))


@pytest.mark.parametrize("level", ["DEBUG", "WARNING"])
def test_the_log_is_the_one_of_glm_serve_up(level: str) -> None:
    config = serve_config(render(set={"settings.log.level": level}))
    assert config["logging_config"] == serve_logging(LogSettings(level=level))


def test_the_log_folder_is_the_one_of_the_settings() -> None:
    config = serve_config(render(set={"settings.log.folder": "/logs"}))
    assert config["logging_config"] == serve_logging(LogSettings(folder="/logs"))


def test_settings_go_to_the_builder_unchanged_and_without_defaults() -> None:
    objects = render(set={"settings.engine.max_slots": 4, "settings.http.max_body_bytes": 16_777_216})
    assert application(objects)["args"] == {
        "access": {"anonymous": "allow"},  # auth.anonymous
        "engine": {"max_slots": 4},
        "http": {"max_body_bytes": 16_777_216},
        "model": {"device": "cuda"},
    }


def test_given_host_names_are_complemented_by_those_of_the_release() -> None:
    names = {
        "settings.http.allowed_hosts": ["glm.example.org"],
        "ingress": {"enabled": True, "host": "glm.example.com"},
    }
    objects = render("ci/gateway-route-values.yaml", set={**names, "gateway.hostnames": ["glm.example.net"]})
    service = "glm-glm-vision-serve-serve-svc"
    assert application(objects)["args"]["http"]["allowed_hosts"] == [
        "glm.example.org",
        "glm.example.com",
        "glm.example.net",
        service,
        f"{service}.glm",
        f"{service}.glm.svc",
        f"{service}.glm.svc.cluster.local",
    ]
    values = {"settings.http.allowed_hosts": ["glm.example.org"]}
    (test,) = of_kind(render("ci/incremental-upgrade-values.yaml", set=values), "Pod")
    (url,) = [each["value"] for each in test["spec"]["containers"][0]["env"] if each["name"] == "URL"]
    args = application(render("ci/incremental-upgrade-values.yaml", set=values))["args"]
    assert urlsplit(url).hostname in args["http"]["allowed_hosts"]


def test_without_host_names_any_name_is_allowed_because_a_pod_listens_on_all_addresses() -> None:
    assert "http" not in application(render())["args"]
    host = serve_config(render())["http_options"]["host"]
    assert allowed_hosts(host, Settings().http.allowed_hosts) == ("*",)


def test_an_engine_without_a_gpu_runs_on_the_cpus_that_it_has() -> None:
    args = application(profile("cpu-demo"))["args"]
    assert args["model"]["device"] == "cpu"
    cpus = deployment(profile("cpu-demo"), "engine")["ray_actor_options"]["num_cpus"]
    assert args["engine"]["threads"] == math.ceil(cpus)


def test_the_number_of_threads_can_still_be_set() -> None:
    objects = render("values-cpu-demo.yaml", set={"settings.engine.threads": 3})
    assert application(objects)["args"]["engine"] == {"threads": 3}


def test_replicas_and_autoscaling_are_no_arguments_whose_change_would_restart_replicas() -> None:
    before, after = render(), render(set={"stages.preprocess.replicas.max": 3, "stages.engine.targetKvUse": 0.5})
    assert application(before)["args"] == application(after)["args"]
    assert application(before)["deployments"] != application(after)["deployments"]


@pytest.mark.parametrize("name", PROFILES)
def test_each_replica_asks_for_a_share_of_its_stage_and_a_group_that_names_the_stage_offers_it(name: str) -> None:
    objects = profile(name)
    groups = rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for stage in STAGES:
        asked = deployment(objects, stage)["ray_actor_options"]["resources"]
        assert asked == {stage: 0.001}
        assert any(float(group["resources"].get(stage, 0)) / asked[stage] >= 1_000_000 for group in groups)


def test_the_engine_takes_its_gpus_and_no_other_stage_one() -> None:
    asked = {name: deployment(render(), name)["ray_actor_options"].get("num_gpus", 0) for name in STAGES}
    assert asked == {"ingress": 0, "preprocess": 0, "engine": 1}


def test_engines_are_added_by_what_they_have_to_read_and_write() -> None:
    values = {"stages.engine.targetTokensInFlight": 5000, "stages.engine.targetKvUse": 0.6}
    policy = autoscaling(render(set=values), "engine")["policy"]
    assert policy["policy_function"] == "serve_app.engine.scaling:replicas_for_load"
    assert policy["policy_kwargs"] == {"target_tokens_in_flight": 5000, "target_kv_use": 0.6}


def test_the_other_stages_are_added_by_requests() -> None:
    assert autoscaling(render(), "ingress")["target_ongoing_requests"] == 100
    assert autoscaling(render(), "preprocess")["target_ongoing_requests"] == 4


def test_an_engine_that_may_go_to_zero_starts_once_and_waits_its_time() -> None:
    config = autoscaling(render("ci/scale-to-zero-values.yaml"), "engine")
    assert (config["min_replicas"], config["initial_replicas"]) == (0, 1)
    assert config["downscale_to_zero_delay_s"] == 900
    assert "downscale_to_zero_delay_s" not in autoscaling(render(), "engine")


@pytest.mark.parametrize("seconds", [30, 120.5, 900])
def test_every_time_out_leaves_room_for_the_longest_answer(seconds: float) -> None:
    objects = render("values-cluster.yaml", set={"settings.http.request_timeout_s": seconds})
    spec = rayservice(objects)["spec"]
    assert serve_config(objects)["http_options"]["request_timeout_s"] > seconds
    assert spec["rayClusterDeletionDelaySeconds"] > seconds
    for name in STAGES:
        assert deployment(objects, name)["graceful_shutdown_timeout_s"] >= seconds
    for group in spec["rayClusterConfig"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (command,) = [pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]]
        assert command[:3] == ["glm-serve", "drain", "--within"]
        assert seconds <= int(command[3]) < pod["terminationGracePeriodSeconds"]


def test_a_rolling_update_starts_the_new_replica_first_where_that_takes_no_gpu() -> None:
    surge = {name: deployment(render(), name).get("max_surge_percent", 0) > 0 for name in STAGES}
    assert surge == {"ingress": True, "preprocess": True, "engine": False}


def per_pod(objects: list[Object]) -> dict[str, int | None]:
    return {name: deployment(objects, name).get("max_replicas_per_node") for name in STAGES}


def two_pods(**replicas: Any) -> dict[str, Any]:
    """Two pods in each group, whatever the load, and these replicas."""
    pods = {f"workers.{group}.replicas": {"min": 2, "max": 2} for group in ("cpu", "gpu")}
    return pods | {f"stages.{stage}.replicas": count for stage, count in replicas.items()}


def test_with_as_many_pods_as_replicas_each_pod_has_one() -> None:
    """Else all replicas stay in the pod that was not evicted, the new pod never gets ready, and no other is evicted."""
    two = {"min": 2, "max": 2}
    objects = render(set=two_pods(ingress=two, preprocess=two, engine=two))
    assert per_pod(objects) == {"ingress": 1, "preprocess": 1, "engine": 1}
    assert all("max_surge_percent" not in deployment(objects, name) for name in STAGES), "there is no third pod for it"


def test_a_pod_holds_as_many_replicas_as_the_maximum_needs() -> None:
    assert per_pod(profile("cluster")) == {"ingress": 1, "preprocess": 3, "engine": 1}
    assert per_pod(render("ci/several-gpu-groups-values.yaml"))["engine"] == 2
    counts = {"ingress": {"min": 2, "max": 3}, "preprocess": {"min": 2, "max": 5}}
    assert per_pod(render(set=two_pods(**counts))) == {"ingress": 2, "preprocess": 3, "engine": None}


def test_one_replica_and_one_pod_have_nothing_to_spread() -> None:
    for objects in (render(), profile("cpu-demo"), profile("single-24g")):
        assert set(per_pod(objects).values()) == {None}


@VALUE_SETS
def test_the_pods_hold_all_replicas_that_the_values_allow(files: tuple[Any, ...]) -> None:
    objects = render(*files)
    groups = rayservice(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for name, limit in per_pod(objects).items():
        pods = sum(group["maxReplicas"] for group in groups if name in group["resources"])
        assert limit is None or limit * pods >= autoscaling(objects, name)["max_replicas"]


def test_no_stage_of_the_cluster_profile_can_be_in_one_pod() -> None:
    objects = profile("cluster")
    for name, limit in per_pod(objects).items():
        assert limit is not None
        assert limit < autoscaling(objects, name)["min_replicas"]


def test_the_proxy_listens_on_every_address_at_the_port_that_is_set() -> None:
    config = serve_config(render(set={"settings.http.port": 9000}))
    assert config["http_options"]["host"] == "0.0.0.0"
    assert config["http_options"]["port"] == 9000
    assert config["proxy_location"] == "EveryNode"
