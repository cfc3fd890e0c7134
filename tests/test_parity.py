"""The parity benchmark: it says ok of a faithful model of any size, and of nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import serve_app
from benchmarks.parity import TOLERANCE, compare, load_original, main, read_expected
from serve_app.contracts import Prompt
from serve_app.engine.model.families.glm4v_9b import Glm4v9bAdapter
from tests.engine.model.original_glm4v_9b import SMALL, Original, changed, write_expected, write_folder

OTHER_SIZES = {
    "small": SMALL,
    "wide heads, three groups, another theta": changed(
        SMALL,
        num_layers=3,
        padded_vocab_size=300,
        hidden_size=72,
        ffn_hidden_size=80,
        kv_channels=24,
        num_attention_heads=6,
        multi_query_group_num=3,
        rope_ratio=50,
        layernorm_epsilon=1e-5,
        vision={"num_hidden_layers": 3, "hidden_size": 48, "num_heads": 3, "image_size": 84, "num_positions": 37},
    ),
    "no groups, no bias, an odd grid": changed(
        SMALL,
        num_layers=1,
        multi_query_attention=None,
        multi_query_group_num=None,
        add_qkv_bias=None,
        layernorm_epsilon=None,
        vision={"image_size": 70, "num_positions": 26, "scaling_factor": 3, "layer_norm_eps": 1e-3},
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_expected(write_folder(tmp_path))
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Any, dict[str, Any]]:
    """Exit status, and the JSON object of the last line."""
    with pytest.raises(SystemExit) as ended:
        main([str(folder)])
    return ended.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("config", OTHER_SIZES.values(), ids=OTHER_SIZES.keys())
def test_a_faithful_model_of_any_size_is_ok(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_expected(write_folder(tmp_path, config))
    status, report = run(tmp_path, capsys)
    assert (status, report["greedy_equal"], report["ok"]) == (0, True, True)
    assert list(report) == [
        "vision_max_abs_diff",
        "logits_max_abs_diff",
        "text_only_logits_max_abs_diff",
        "greedy_equal",
        "ok",
    ]
    assert max(list(report.values())[:3]) < TOLERANCE


def test_an_answer_that_runs_past_a_stop_token_is_compared_to_its_end(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = int(load_file(folder / "expected.safetensors")["greedy_ids"][2])
    (folder / "config.json").write_text(json.dumps(changed(SMALL, eos_token_id=[third])))
    assert run(folder, capsys)[0] == 0


class SequentialPositions(Glm4v9bAdapter):
    """Every patch at a position of its own, as vLLM has it (issue 14790)."""

    def positions(self, prompt: Prompt) -> tuple[NDArray[np.int64], int]:
        return np.arange(len(prompt.token_ids), dtype=np.int64)[None], 0


def test_sequential_positions_are_not_ok(folder: Path) -> None:
    faithful = load_original(folder)
    wrong = SequentialPositions(faithful.model, SMALL, faithful.dtype)
    report = compare(wrong, read_expected(folder))
    assert report["logits_max_abs_diff"] > 100 * TOLERANCE
    assert report["vision_max_abs_diff"] < TOLERANCE
    assert report["text_only_logits_max_abs_diff"] < TOLERANCE
    assert not report["ok"]
    assert compare(faithful, read_expected(folder))["ok"]


@pytest.mark.parametrize("name", ["vision_features", "logits", "text_only_logits", "greedy_logits"])
def test_one_number_that_is_off_is_not_ok(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load_file(folder / "expected.safetensors")
    expected[name].flatten()[-1] += 1e-3
    save_file(expected, folder / "expected.safetensors")
    status, report = run(folder, capsys)
    assert (status, report["greedy_equal"], report["ok"]) == (1, True, False)


def test_one_token_that_is_off_is_not_ok(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load_file(folder / "expected.safetensors")
    expected["greedy_ids"][5] += 1
    save_file(expected, folder / "expected.safetensors")
    status, report = run(folder, capsys)
    assert (status, report["greedy_equal"], report["ok"]) == (1, False, False)


def test_a_model_without_numbers_is_not_ok(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.vision.boi"][:] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(SystemExit, match=r"not numbers|infinite or NaN"):
        main([str(folder)])


def test_a_broken_folder_says_what_is_wrong(folder: Path) -> None:
    with pytest.raises(SystemExit, match=r"config\.json .* could not be read"):
        main([str(folder / "nowhere")])
    expected = load_file(folder / "expected.safetensors")
    save_file({name: expected[name] for name in expected if name != "logits"}, folder / "expected.safetensors")
    with pytest.raises(SystemExit, match=r"expected\.safetensors lacks logits"):
        main([str(folder)])
    save_file(expected | {"logits": expected["logits"][:, 1:].contiguous()}, folder / "expected.safetensors")
    with pytest.raises(SystemExit, match=r"logits in expected\.safetensors has the shape"):
        main([str(folder)])
    (folder / "expected.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"expected\.safetensors could not be read"):
        main([str(folder)])


def test_the_reference_draws_other_tokens_for_other_pictures(folder: Path) -> None:
    """Else equal tokens would prove nothing of the picture."""
    original, expected = Original(folder), load_file(folder / "expected.safetensors")
    features = original.features(-expected["pixel_values"])[0]
    drawn, _ = original.greedy(expected["input_ids"][0].tolist(), features, 12)
    assert drawn != expected["greedy_ids"].tolist()


def test_a_model_of_another_family_is_refused_by_its_type() -> None:
    demo = Path(serve_app.__file__).parent / "demo/model"
    with pytest.raises(SystemExit, match=r"holds a model of type glm4v, not a GLM-4V-9B\."):
        main([str(demo)])
