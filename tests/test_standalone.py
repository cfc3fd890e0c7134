"""What `glm-serve up` decides before Ray starts, and what it says when something is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from serve_app.settings import Settings
from serve_app.standalone.deploy import StartFailed, failure_reason, is_ready, require_gpus
from serve_app.standalone.exposure import exposure_warning
from serve_app.standalone.private_ray import UNUSED_PROCESSES, ray_environment
from serve_app.standalone.replicas import with_replicas
from serve_app.standalone.up import up
from tests.ports import free_port

TRACEBACK = """A replica failed to start with exception. Retrying 1 more time(s). Error:
ray::ServeReplica:glm:engine.initialize_and_get_metadata() (pid=371, ip=127.0.0.1)
  File "replica.py", line 3521, in initialize_and_get_metadata
    await self._replica_impl.initialize(deployment_config, rank, gang_context)
RuntimeError: Traceback (most recent call last):
  File "weights.py", line 26, in load
    raise InvalidRequest("the model folder /x has no config.json", param="model.path")
serve_app.errors.InvalidRequest: the model folder /x has no config.json"""


def test_the_reason_of_a_failed_start_is_its_last_sentence():
    assert failure_reason(TRACEBACK) == "the model folder /x has no config.json"


def test_a_reason_without_a_traceback_is_returned_unchanged():
    assert failure_reason("The replica's node has no GPU left.") == "The replica's node has no GPU left."
    assert failure_reason("") == "No reason was given."


def test_errors_of_other_libraries_keep_their_name():
    assert failure_reason("Error:\n  File x\nValueError: two\nlines") == "ValueError: two lines"


def test_each_run_has_its_own_token():
    first, second = ray_environment(Settings()), ray_environment(Settings())
    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


def test_ray_has_the_processes_that_are_left_out():
    """Methods of Ray's private Node: an upgrade that renames one would start its process again."""
    from ray._private.node import Node

    assert [name for name in UNUSED_PROCESSES if not callable(getattr(Node, name, None))] == []


def test_the_process_that_starts_the_service_imports_no_stage():
    """It imported PyTorch and transformers, three of the seconds until Serve's replicas could start."""
    code = (
        "import sys, serve_app.app; print(sorted({'torch', 'transformers', 'PIL', 'tokenizers'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"


def test_the_ingress_listens_on_the_port_of_the_api():
    environment = ray_environment(Settings.model_validate({"http": {"port": 9000}}))
    assert environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == "9000"
    assert environment["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] == "9001"


@pytest.mark.parametrize(("section", "flag"), [("http", "--port"), ("metrics", "--metrics-port")])
def test_a_port_in_use_is_reported_at_once(section: str, flag: str):
    said: list[str] = []
    with socket.socket() as taken, socket.socket() as other:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other.bind(("127.0.0.1", 0))
        ports = {"http": other.getsockname()[1], "metrics": other.getsockname()[1]}
        other.close()
        ports[section] = taken.getsockname()[1]
        settings = Settings.model_validate({name: {"port": port} for name, port in ports.items()})
        assert up(settings, said.append) == 1
    assert len(said) == 1
    assert f"127.0.0.1:{ports[section]} (Address already in use)" in said[0]
    assert flag in said[0]


def test_a_missing_model_is_reported_before_ray_starts(tmp_path: Path):
    said: list[str] = []
    settings = Settings.model_validate({"model": {"path": str(tmp_path / "nowhere")}, **free_ports()})
    assert up(settings, said.append) == 1
    assert said[-1] == f"glm-serve: The model folder {tmp_path / 'nowhere'} does not exist."


def test_a_hub_that_can_not_be_reached_is_reported_with_what_to_do(tmp_path: Path):
    """`HF_ENDPOINT` names a port that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ended = subprocess.run(
            [sys.executable, "-m", "serve_app", "up", "--model", "zai-org/GLM-4.6V-Flash"],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}",
                "HF_HOME": str(tmp_path),
                **{f"GLM_{name.upper()}__PORT": str(section["port"]) for name, section in free_ports().items()},
            },
        )
    assert ended.returncode == 1
    last = ended.stdout.splitlines()[-1]
    assert "set HF_ENDPOINT to a mirror of it" in last
    assert "from ModelScope, and pass its folder" in last


def free_ports() -> dict[str, dict[str, int]]:
    return {"http": {"port": free_port()}, "metrics": {"port": free_port()}}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_service_that_other_machines_reach_does_not_start_without_authentication(host: str):
    said: list[str] = []
    assert up(Settings.model_validate({"http": {"host": host}}), said.append) == 1
    assert said == [
        f"glm-serve: {host} can be reached from other machines, and there is no authentication: everybody on the"
        " network could use the service. Make a key with `glm-serve keys add NAME --file keys.json` and start with"
        " --keys keys.json, or allow it with --anonymous allow (access.anonymous)."
    ]


def test_a_service_that_accepts_everybody_warns_and_one_with_keys_does_not():
    open_to_all = {"http": {"host": "0.0.0.0"}, "access": {"anonymous": "allow"}}
    warning = exposure_warning(Settings.model_validate(open_to_all))
    assert warning is not None
    assert "0.0.0.0:8000 and accepts requests without a key" in warning
    with_keys = {"http": {"host": "0.0.0.0"}, "access": {"keys_file": "keys.json"}}
    assert exposure_warning(Settings.model_validate(with_keys)) is None
    assert exposure_warning(Settings()) is None


def test_a_missing_file_of_keys_is_reported_before_ray_starts(tmp_path: Path):
    said: list[str] = []
    file = tmp_path / "keys.json"
    assert up(Settings.model_validate({"access": {"keys_file": str(file)}, **free_ports()}), said.append) == 1
    assert said == [
        f"glm-serve: The file of keys {file} does not exist. Make it with `glm-serve keys add NAME --file {file}`."
    ]


def numbers(cores: int = 16, **sections: Any) -> tuple[int, int, int]:
    """Engine, preprocess and ingress replicas."""
    settings, _ = with_replicas(Settings.model_validate(sections), cores)
    return settings.replicas.engine, settings.replicas.preprocess, settings.replicas.ingress


def test_one_engine_replica_has_one_of_the_other_stages_on_any_machine():
    assert numbers(cores=2) == numbers(cores=128) == (1, 1, 1)


def test_several_engine_replicas_have_others_to_match():
    assert numbers(replicas={"engine": 2}) == (2, 4, 2)
    assert numbers(replicas={"engine": 8}, cores=128) == (8, 16, 8)
    assert numbers(replicas={"engine": 2}, cores=2) == (2, 2, 2)
    assert numbers(replicas={"engine": 2, "preprocess": 3, "ingress": 1}) == (2, 3, 1)


def test_cpu_threads_are_divided_among_engine_replicas():
    for given, threads in ((0, 8), (3, 3)):
        settings = Settings.model_validate({"replicas": {"engine": 2}, "engine": {"threads": given}})
        assert with_replicas(settings, 16)[0].engine.threads == threads


@pytest.mark.parametrize(
    "counted", [{"limits": {"requests_per_second": 2}}, {"access": {"keys_file": "keys.json"}}, {"jwt": {"keys": "k"}}]
)
def test_where_callers_are_counted_in_memory_there_is_one_ingress_and_a_warning(counted: dict[str, Any]):
    several = {"replicas": {"engine": 4}, **counted}
    settings, warning = with_replicas(Settings.model_validate(several), 16)
    assert settings.replicas.ingress == 1
    assert "limits.redis_url" in warning
    given = {"replicas": {"engine": 4, "ingress": 3}, **counted}
    settings, warning = with_replicas(Settings.model_validate(given), 16)
    assert settings.replicas.ingress == 3
    assert "3 times" in warning
    redis = {**several, "limits": {**counted.get("limits", {}), "redis_url": "redis://one:6379/0"}}
    settings, warning = with_replicas(Settings.model_validate(redis), 16)
    assert (settings.replicas.ingress, warning) == (4, "")


def test_serve_can_count_a_port_for_each_ingress_replica():
    settings, _ = with_replicas(Settings.model_validate({"http": {"port": 9000}, "replicas": {"engine": 4}}), 16)
    environment = ray_environment(settings)
    assert environment["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == "9000"
    assert environment["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] == "9004"


def test_more_engine_replicas_than_gpus_are_refused_before_serve_waits_for_them():
    settings = Settings.model_validate({"model": {"device": "cuda"}, "replicas": {"engine": 4}})
    require_gpus(settings, 4)
    with pytest.raises(StartFailed, match="4 GPUs, and 2 can be used here"):
        require_gpus(settings, 2)


def test_a_start_on_the_gpu_of_a_machine_without_one_is_refused_and_one_on_the_cpu_is_not():
    """Zero GPUs were not counted as too few, and Serve waited for one without an end."""
    with pytest.raises(StartFailed, match=r"model\.device is cuda, and Ray finds no GPU .* --device cpu"):
        require_gpus(Settings.model_validate({"model": {"device": "cuda"}}), 0)
    require_gpus(Settings.model_validate({"model": {"device": "cpu"}, "replicas": {"engine": 4}}), 0)


@pytest.mark.parametrize("host", ["nosuch.invalid", "a..b"])
def test_an_address_that_is_not_found_is_reported_before_ray_starts(host: str):
    said: list[str] = []
    settings = {"http": {"host": host}, "access": {"anonymous": "allow"}}
    assert up(Settings.model_validate(settings), said.append) == 1
    assert said[-1].startswith(f"glm-serve: The address {host} is not found (")
    assert "Give --host (http.host) an address of this machine." in said[-1]


def test_the_service_is_asked_whether_it_is_ready_without_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With http_proxy and without no_proxy, `glm-serve up` asked the proxy and was never ready."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert is_ready(Settings.model_validate({"http": {"port": server.server_port}}))
        thread.join()
