"""The settings tree: where values come from, and names that changed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_app import cli
from serve_app.errors import InvalidRequest
from serve_app.settings import DEMO_MODEL, ModelSettings, Settings


def test_arguments_win_over_the_environment_and_leave_the_rest_of_a_section_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLM_ENGINE__MAX_SLOTS", "3")
    monkeypatch.setenv("GLM_ENGINE__MAX_WAITING", "7")
    engine = Settings.model_validate({"engine": {"max_slots": 5}}).engine
    assert (engine.max_slots, engine.max_waiting, engine.prefill_tokens) == (5, 7, 1024)


def test_the_old_name_of_a_setting_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.model_validate({"preprocess": {"max_answer_tokens": 8}})
    assert settings.preprocess.default_max_tokens == 8
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("glm.settings", "WARNING")
    assert "max_answer_tokens is now called default_max_tokens" in record.message


def test_the_old_name_of_a_setting_is_accepted_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_PREPROCESS__MAX_ANSWER_TOKENS", "8")
    assert Settings().preprocess.default_max_tokens == 8


def test_the_new_name_wins_over_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_PREPROCESS__MAX_ANSWER_TOKENS", "8")
    monkeypatch.setenv("GLM_PREPROCESS__DEFAULT_MAX_TOKENS", "16")
    assert Settings().preprocess.default_max_tokens == 16


def test_current_names_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    Settings.model_validate({"preprocess": {"default_max_tokens": 8}})
    assert not caplog.records


def test_the_demo_model_is_recognised_by_its_folder() -> None:
    assert ModelSettings().is_demo
    assert ModelSettings(path=str(DEMO_MODEL), name="another name").is_demo
    assert not ModelSettings(path="zai-org/GLM-4.6V-Flash").is_demo


def test_a_variable_that_is_no_setting_is_refused_in_a_cluster_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve_app.app import build

    monkeypatch.setenv("GLM_ENGNE__MAX_SLOTS", "4")
    with pytest.raises(InvalidRequest, match=r"not settings \(docs/settings.md\): GLM_ENGNE__MAX_SLOTS\."):
        build(Settings())


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("name", ["requests_per_second", "tenant_requests_per_second"])
def test_a_limit_is_a_finite_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    """An infinite limit was accepted, and then every POST was a 500."""
    monkeypatch.setenv(f"GLM_LIMITS__{name.upper()}", value)
    assert cli.main(["up"]) == 2
    said = capsys.readouterr().err
    assert said == f"glm-serve: The setting limits.{name} is '{value}'. Input should be a finite number.\n"


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_setting_is_infinite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Settings.model_validate({"http": {"keep_alive_s": value}})
