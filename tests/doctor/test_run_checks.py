"""All checks together: a model that can be served, and models that can't."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from serve_app.doctor.report import Finding, Report, Status
from serve_app.doctor.run_checks import run_checks
from serve_app.engine.model import kernels
from serve_app.engine.model.pages import pages_for
from serve_app.settings import Settings
from tests.doctor.conftest import change, named
from tests.engine.model.compressed_checkpoint import FP8_BLOCK, INT4, compress
from tests.engine.model.original_glm4v_9b import write_folder
from tests.test_standalone import free_ports


def examined(folder: Path | None = None, **model: Any) -> Report:
    path = {} if folder is None else {"path": str(folder)}
    return run_checks(Settings.model_validate({"model": {**path, "device": "cpu", **model}, **free_ports()}))


def problems(report: Report) -> list[Finding]:
    return [finding for group in report.groups for finding in group.findings if finding.status == Status.PROBLEM]


def findings(report: Report) -> list[Finding]:
    return [finding for group in report.groups for finding in group.findings]


def test_the_demo_model_can_be_served_here():
    report = examined()
    assert problems(report) == []
    assert named(findings(report), "GPU").seen == "not checked, because model.device is cpu"
    assert [group.title for group in report.groups] == ["Software", "Machine", "Device", "Model", "Memory"]
    assert report.fit is not None
    assert (report.fit.device, report.fit.dtype, report.fit.slots) == ("cpu", "float32", 16)
    assert report.verdict.startswith("Can serve glm-vision-demo: float32 on cpu, with 16 slots of 8192 tokens")


def test_the_context_is_cut_to_the_models():
    report = examined(context_tokens=100_000)
    assert report.fit is not None
    assert report.fit.context_tokens == 8192
    assert named(findings(report), "context").seen == "8,192 tokens, the model's most, instead of 100,000"


@pytest.mark.parametrize("family", ["transformers", "original"])
def test_memory_is_counted_in_pages_where_the_engines_kernels_run(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernels, "available", lambda _: True)
    folder = None if family == "transformers" else write_folder(tmp_path)
    report = examined(folder)
    assert report.fit is not None
    assert report.fit.pages == 16 * pages_for(report.fit.context_tokens) + 1
    assert " pages of 64 tokens " in named(findings(report), "memory").seen


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_demo_model_can_be_served_quantized(quantization: str):
    report = examined(quantization=quantization)
    assert problems(report) == []
    assert report.verdict.startswith(f"Can serve glm-vision-demo: {quantization}, float32 on cpu")


def test_a_folder_with_one_thing_wrong_has_one_problem(demo: Path):
    shard = demo / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    report = examined(demo)
    assert not report.can_serve
    assert [finding.name for finding in problems(report)] == ["weights"]


def test_git_lfs_pointers_are_the_only_problem_of_a_folder_that_has_them(demo: Path):
    for name in ("model-00001-of-00003.safetensors", "tokenizer.json", "config.json"):
        (demo / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976715224\n")
    assert [finding.name for finding in problems(examined(demo))] == ["Git LFS"]


def test_what_is_broken_does_not_keep_the_rest_from_being_examined(demo: Path):
    (demo / "chat_template.jinja").unlink()
    change(demo / "config.json", lambda config: config["text_config"].update(intermediate_size=1000))
    names = [finding.name for finding in problems(examined(demo))]
    assert names == ["shapes", "chat"]


def test_a_missing_picture_processor_is_reported_without_a_traceback(demo: Path):
    (demo / "preprocessor_config.json").unlink()
    shown = problems(examined(demo))
    assert [finding.name for finding in shown] == ["pictures", "chat"]
    assert all("no preprocessor_config.json" in finding.seen for finding in shown)


def test_a_model_of_a_strange_family_ends_with_that(demo: Path):
    change(demo / "config.json", lambda config: config.update(model_type="llama"))
    report = examined(demo)
    assert [finding.name for finding in problems(report)] == ["family"]
    assert report.fit is None


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path):
    report = examined(tmp_path / "nowhere")
    assert problems(report)[0].seen == f"The model folder {tmp_path / 'nowhere'} does not exist."


def test_a_model_that_is_still_to_be_downloaded_keeps_nobody_from_starting():
    report = examined(Path("nobody/no-such-model"))
    assert problems(report) == []
    assert report.verdict.startswith("Can serve, as far as can be checked without the model's files")


def test_settings_that_contradict_each_other_are_reported_once():
    report = examined(quantize_vision=True)
    assert [finding.seen for finding in problems(report)] == [
        "model.quantize_vision needs model.quantization to be fp8, nf4 or int8."
    ]


def test_fp8_without_a_gpu_is_a_problem():
    (finding,) = problems(examined(quantization="fp8"))
    assert finding.seen.startswith("The format fp8 needs a GPU, and this model runs on a CPU.")


def test_a_checkpoint_stored_quantized_is_not_to_be_quantized_again(demo: Path):
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    change(demo / "config.json", lambda config: config.update(quantization_config=stored))
    assert named(findings(examined(demo)), "quantization").status == Status.OK
    refused = named(problems(examined(demo, quantization="nf4")), "quantization")
    assert "Leave --quantization" in refused.remedy


def test_a_checkpoint_quantized_by_a_method_that_is_not_read_is_refused_once(demo: Path):
    change(demo / "config.json", lambda config: config.update(quantization_config={"quant_method": "gptq"}))
    (finding,) = problems(examined(demo))
    assert finding.name == "quantization"
    assert "quant_method 'gptq'" in finding.seen


@pytest.mark.parametrize("group", [FP8_BLOCK, INT4], ids=["fp8", "int4"])
def test_a_compressed_checkpoint_needs_the_memory_of_its_expanded_weights(demo: Path, tmp_path: Path, group: Any):
    compressed = Path(shutil.copytree(demo, tmp_path / "compressed"))
    compress(compressed, demo, group)
    for quantization in ("none", "nf4"):
        report, plain = (examined(folder, quantization=quantization) for folder in (compressed, demo))
        assert named(findings(report), "quantization").seen.startswith("stored quantized by compressed-tensors")
        assert [(one.name, one.status) for one in problems(report)] == []
        assert named(findings(report), "names").status == Status.OK
        assert report.fit is not None
        assert plain.fit is not None
        assert (report.fit.weight_bytes, report.fit.quantization) == (plain.fit.weight_bytes, quantization)


def test_a_missing_scale_of_a_compressed_checkpoint_is_named(demo: Path, tmp_path: Path):
    compressed = Path(shutil.copytree(demo, tmp_path / "compressed"))
    compress(compressed, demo, FP8_BLOCK)
    weights = load_file(compressed / "model.safetensors")
    scale = next(name for name in weights if name.endswith("down_proj.weight_scale"))
    del weights[scale]
    save_file(weights, compressed / "model.safetensors")
    (finding,) = problems(examined(compressed))
    assert f"are missing, {scale} first." in finding.seen


def test_the_original_9b_is_examined_like_any_other(tmp_path: Path):
    """Without its tokenizer, which the folder that the tests write lacks."""
    report = examined(write_folder(tmp_path))
    assert named(findings(report), "names").status == Status.OK
    assert named(findings(report), "memory").status != Status.PROBLEM
    assert "tokenizer.model" in named(problems(report), "chat").seen


def test_libraries_say_nothing_while_they_are_asked(capfd: pytest.CaptureFixture[str], demo: Path):
    change(demo / "config.json", lambda config: config["text_config"].update(intermediate_size=1000))
    examined(demo)
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_folder_is_run_or_changed(demo: Path, tmp_path: Path):
    (demo / "modeling_glm4v.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change(demo / "config.json", lambda config: config.update(auto_map={"AutoConfig": "modeling_glm4v.Config"}))
    before = {file: file.read_bytes() for file in demo.iterdir()}
    assert problems(examined(demo)) == []
    assert {file: file.read_bytes() for file in demo.iterdir()} == before
    assert not (tmp_path / "ran").exists()


def test_a_missing_library_is_a_finding_and_no_traceback(tmp_path: Path):
    """In a process of its own, where `transformers` can't be imported."""
    (tmp_path / "transformers.py").write_text("raise ImportError('operator torchvision::nms does not exist')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from serve_app.cli import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert "The check failed: ImportError: operator torchvision::nms does not exist" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_only_the_files_of_a_model_are_checked_if_that_is_asked_for(demo: Path):
    settings = Settings.model_validate({"model": {"path": str(demo), "device": "cuda"}})
    report = run_checks(settings, files_only=True)
    assert problems(report) == []
    assert [group.title for group in report.groups] == ["Model"]
    assert report.verdict == "The model's files that are here have no problem; this machine was not checked."
    (demo / "chat_template.jinja").unlink()
    assert [finding.name for finding in problems(run_checks(settings, files_only=True))] == ["chat"]
