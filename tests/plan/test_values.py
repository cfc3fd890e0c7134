"""The values file: valid, rendered by the chart, and clear about what is measured and what is estimated."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serve_app.plan.capacity_plan import plan_capacity
from serve_app.plan.cards import KNOWN, Card, card_named
from serve_app.plan.values import FULL_GPU_MEMORY, summary, values_file
from serve_app.settings import Settings
from tests.plan.conftest import CHECKPOINTS
from tests.plan.test_capacity_plan import load

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "helm" / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text())
RATES = (0.05, 3, 200)


def written(model: str, card: Card, rate: float, **other: object) -> str:
    return values_file(
        plan_capacity(CHECKPOINTS[model], card, load(rate, **other)), f"zai-org/{model}", "plan --model ..."
    )


@pytest.mark.parametrize("model", CHECKPOINTS)
@pytest.mark.parametrize("card", KNOWN, ids=lambda card: card.name)
def test_every_plan_is_valid_for_the_chart_and_for_the_service(card: Card, model: str):
    for rate in RATES:
        values = yaml.safe_load(written(model, card, rate))
        jsonschema.validate(over(DEFAULTS, values), SCHEMA)
        settings = Settings.model_validate(values["settings"])
        assert settings.model.path == f"zai-org/{model}"


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As helm lays one values file over another."""
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = over(below[key], above[key])
    return both


@pytest.mark.chart
@pytest.mark.parametrize("model", CHECKPOINTS)
@pytest.mark.parametrize("card", KNOWN, ids=lambda card: card.name)
def test_every_plan_renders(card: Card, model: str, tmp_path: Path):
    for rate in RATES:
        file = tmp_path / f"{rate}.yaml"
        file.write_text(written(model, card, rate))
        rendered = helm("template", "glm", "helm", "--values", str(file))
        (service,) = [made for made in yaml.safe_load_all(rendered) if made and made["kind"] == "RayService"]
        groups = {group["groupName"]: group for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
        values = yaml.safe_load(file.read_text())
        assert groups["gpu"]["minReplicas"] == values["stages"]["engine"]["replicas"]["min"]
        assert groups["gpu"]["maxReplicas"] == values["stages"]["engine"]["replicas"]["max"]


def helm(*arguments: str) -> str:
    command = [str(ROOT / ".tools" / "bin" / "helm4"), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_card_that_was_not_measured_is_called_estimated():
    text = written("glm-4.6v-flash", card_named("L4"), 1)
    assert "Times are estimated: the engine was measured on H200" in text
    assert "NVIDIA L4 data sheet: 300 GB/s, 121 TFLOP/s" in text.replace("\n# ", " ")


def test_a_card_that_was_measured_is_called_so():
    text = written("glm-4.6v-flash", card_named("H200"), 1)
    assert "Times are calculated from measurements on this card" in text
    assert "stimated on" not in text


def test_glm_4v_9b_and_nf4_were_not_measured_over_http_and_are_called_estimated_on_the_same_card():
    assert "# Times are estimated: requests a second were measured on H200, but not" in written(
        "glm-4v-9b", card_named("H200"), 1
    )
    nf4 = plan_capacity(CHECKPOINTS["glm-4.6v-flash"], card_named("H200"), load(1), "nf4")
    assert "# Times are estimated: requests a second were measured on H200, but not" in values_file(nf4, "m", "plan")


def test_the_file_says_that_a_card_without_pages_is_assumed_to_take_twice_as_long():
    assert "twice as long is assumed" in written("glm-4.6v-flash", card_named("T4"), 0.1).replace("\n# ", " ")
    assert "twice as long" not in written("glm-4.6v-flash", card_named("L4"), 0.1).replace("\n# ", " ")


def test_the_file_says_that_a_card_has_no_bfloat16():
    assert "T4 has no bfloat16" in written("glm-4.6v-flash", card_named("T4"), 0.1)


def test_the_only_gpu_is_upgraded_in_place():
    assert yaml.safe_load(written("glm-4.6v-flash", card_named("RTX 4090"), 0.05))["upgrade"] == {"strategy": "None"}
    assert "upgrade" not in yaml.safe_load(written("glm-4.6v-flash", card_named("RTX 4090"), 3))


def test_a_plan_does_not_set_off_the_alert_on_gpu_memory():
    usual = DEFAULTS["monitoring"]["prometheusRule"]["vramFraction"]
    limits = set()
    for name in ("T4", "L4", "A10", "H200"):
        made = plan_capacity(CHECKPOINTS["glm-4.6v-flash"], card_named(name), load(0.1, pictures=((1654, 2339),)))
        rule = yaml.safe_load(values_file(made, "m", "plan")).get("monitoring", {}).get("prometheusRule", {})
        limit = rule.get("vramFraction", usual)
        assert made.memory.used(made.slots) / made.memory.card <= limit or limit == FULL_GPU_MEMORY
        limits.add(limit)
    assert limits == {usual, FULL_GPU_MEMORY}


def test_the_alert_on_the_first_token_has_the_target_that_was_given():
    made = plan_capacity(CHECKPOINTS["glm-4.6v-flash"], card_named("H200"), load(3), first_token_s=120)
    alerts = yaml.safe_load(values_file(made, "m", "plan"))["monitoring"]["prometheusRule"]
    assert alerts == {"firstTokenSeconds": 120, "waitingRequests": 128}
    slow = plan_capacity(CHECKPOINTS["glm-4.6v-flash"], card_named("T4"), load(0.1, pictures=((1654, 2339),)))
    assert yaml.safe_load(values_file(slow, "m", "plan"))["monitoring"]["prometheusRule"]["firstTokenSeconds"] > 5


def test_several_gpus_survive_the_loss_of_a_pod_and_many_have_a_larger_head_and_one_download():
    one = yaml.safe_load(written("glm-4.6v-flash", card_named("H200"), 1))
    assert not {"faultTolerance", "head", "modelStorage"} & one.keys()
    many = yaml.safe_load(written("glm-4.6v-flash", card_named("H200"), 40))
    assert many["faultTolerance"] == {"enabled": True}
    assert many["head"]["resources"]["requests"] == {"cpu": "4", "memory": "16Gi"}
    assert many["modelStorage"] == {"create": True}
    assert min(many["stages"][stage]["replicas"]["min"] for stage in ("ingress", "preprocess")) >= 2


def test_more_gpus_than_a_release_should_have_are_divided():
    assert "install 2 releases" in written("glm-4.6v-flash", card_named("L4"), 200).replace("\n# ", " ")


def test_pictures_that_would_not_fit_the_context_are_scaled_down():
    values = yaml.safe_load(written("glm-4.6v-flash", card_named("L4"), 0.1))
    context = values["settings"]["model"]["context_tokens"]
    assert values["settings"]["preprocess"]["max_image_tokens"] + 200 + 150 <= context


def test_glm_4v_9bs_pictures_can_not_be_scaled_and_no_limit_is_written():
    assert "preprocess" not in yaml.safe_load(written("glm-4v-9b", card_named("L4"), 0.1))["settings"]


def test_text_without_pictures_can_be_planned():
    text = written("glm-4.6v-flash", card_named("L4"), 1, pictures=())
    assert "A request: 0 pictures; 200 tokens of text" in text


def test_no_line_is_longer_than_the_projects():
    assert max(len(line) for line in written("glm-4.6v-flash", card_named("RTX 6000 Ada"), 1).splitlines()) <= 120


def test_the_summary_is_one_line():
    made = plan_capacity(CHECKPOINTS["glm-4.6v-flash"], card_named("L4"), load(1))
    line = summary(made, "GLM-4.6V-Flash")
    assert line.startswith(f"GLM-4.6V-Flash: {made.replicas} L4, {made.replicas_at_peak} at peak; fp8 weights, ")
    assert line.endswith("(estimated)")
