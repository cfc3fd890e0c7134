"""deploy/: the systemd unit, the settings and the compose files agree with each other and with the package."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import serve_app
from serve_app.settings import Settings
from tests.deploy.proxy import DEPLOY, NAME

UNIT = (DEPLOY / "glm-serve.service").read_text()
MOST_EXPOSED = 40  # of systemd's score in tenths: what a GPU and a compiler leave


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service: dict[str, Any] = loaded["services"]["glm-serve"]
    return service


def environment(commented: bool = False) -> dict[str, str]:
    """The variables of glm-serve.env, as Docker and systemd read them."""
    pattern = r"^#?([A-Z_]+)=(.*)$" if commented else r"^([A-Z_]+)=(.*)$"
    return dict(re.findall(pattern, (DEPLOY / "glm-serve.env").read_text(), re.MULTILINE))


def in_unit(name: str) -> str:
    return " ".join(re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE))


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists, so that systemd checks everything else."""
    file = tmp_path / "glm-serve.service"
    file.write_text(UNIT.replace("/opt/glm-serve/current/bin/glm-serve", "/bin/true"))
    return file


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.fail("no systemd-analyze here: run .ci/tools")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_accepts_the_unit_without_a_warning(unit: Path) -> None:
    verified = systemd_analyze("verify", "--man=no", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")


def test_systemd_finds_the_unit_confined(unit: Path) -> None:
    scored = systemd_analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(unit))
    assert scored.returncode == 0, scored.stdout


def test_the_settings_are_known_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.http.allowed_hosts == (NAME,)
    assert settings.http.host == "127.0.0.1"
    assert settings.access.keys_file == "/etc/glm-serve/keys.json"
    assert settings.model.is_demo
    for name in environment(commented=True):
        assert name == "HF_ENDPOINT" or "GLM_" + "__".join(name.split("__")[:2])[4:] in known_variables()


def known_variables() -> set[str]:
    return {
        f"GLM_{section}__{name}".upper()
        for section, field in Settings.model_fields.items()
        for name in field.annotation.model_fields  # type: ignore[union-attr]
    }


def test_a_misspelt_setting_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_LIMITS__CONCURRENT_REQUEST", "8")
    with pytest.raises(ValidationError):
        Settings()


def test_what_is_written_stays_where_the_unit_may_write() -> None:
    assert in_unit("StateDirectory") == in_unit("LogsDirectory") == "glm-serve"
    own = dict(pair.split("=", 1) for pair in in_unit("Environment").split())
    assert own["GLM_LOG__FOLDER"].startswith("/var/log/glm-serve")
    for folder in (own["HOME"], own["HF_HOME"], environment()["GLM_AUDIT__FOLDER"], in_unit("WorkingDirectory")):
        assert folder.startswith("/var/lib/glm-serve")
    assert environment()["GLM_ACCESS__KEYS_FILE"].startswith("/etc/glm-serve/")
    assert in_unit("EnvironmentFile") == "/etc/glm-serve/glm-serve.env"


def test_running_answers_may_finish_before_anything_is_killed() -> None:
    from serve_app.standalone.shutdown import DRAIN_S, EXIT_S

    assert in_unit("KillMode") == "mixed"
    assert float(in_unit("TimeoutStopSec")) > DRAIN_S + EXIT_S
    assert float(compose()["stop_grace_period"].removesuffix("s")) > DRAIN_S + EXIT_S


def test_wrong_settings_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app import cli

    monkeypatch.setenv("GLM_HTTP__PORT", "no")
    assert in_unit("Restart") == "on-failure"
    assert in_unit("RestartPreventExitStatus") == str(cli.main(["up"]))


def test_the_container_listens_on_loopback_and_keeps_logs_models_and_audit_lines_on_the_host() -> None:
    service = compose()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    mounts = dict(volume.split(":", 1) for volume in service["volumes"])
    assert set(mounts) == {"./access", "./models", "./logs", "./audit"}
    assert mounts["./logs"] == service["environment"]["GLM_LOG__FOLDER"]
    assert mounts["./audit"] == environment()["GLM_AUDIT__FOLDER"]
    assert mounts["./access"] == f"{Path(environment()['GLM_ACCESS__KEYS_FILE']).parent}:ro"
    assert f"{mounts['./models']}/" in "/models/"


@pytest.mark.parametrize(("file", "target"), [("compose.yaml", "cpu"), ("compose.gpu.yaml", "gpu")])
def test_the_images_are_those_of_this_version(file: str, target: str) -> None:
    service = yaml.safe_load((DEPLOY / file).read_text())["services"]["glm-serve"]
    assert service["image"] == f"${{GLM_IMAGE:-glm-vision-serve:{serve_app.__version__}-{target}}}"
