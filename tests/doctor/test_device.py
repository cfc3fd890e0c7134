"""Driver, torch and card against each other, on described machines."""

from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.doctor.device import check_dtype, check_gpu, has_kernels
from serve_app.doctor.facts import Driver, GpuProcess, Torch, collect_driver, collect_torch
from serve_app.doctor.report import Status
from tests.doctor.conftest import named, the_one

GIB = 2**30
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
DRIVER = Driver("580.95.05", ("NVIDIA GeForce RTX 3090",))
TORCH = Torch("2.13.0+cu130", "13.0", ARCHITECTURES, 1, "NVIDIA GeForce RTX 3090", (8, 6), 23 * GIB, 24 * GIB)
BLIND = Torch("2.13.0+cu130", "13.0", error="Found no NVIDIA driver on your system.")
NONE = Driver()


def test_a_card_that_fits_driver_and_torch_is_fine():
    findings = list(check_gpu(DRIVER, TORCH, "auto"))
    assert {finding.status for finding in findings} == {Status.OK}
    assert named(findings, "driver").seen == "NVIDIA 580.95.05; torch 2.13.0+cu130 is built for CUDA 13.0"
    assert "compute capability 8.6, 24.0 GiB" in named(findings, "GPU").seen
    assert named(findings, "GPU memory").seen == "23.0 GiB of 24.0 GiB free"


def test_one_of_several_cards_is_used_and_that_is_said():
    assert "the first of 4" in named(check_gpu(DRIVER, replace(TORCH, gpus=4), "auto"), "GPU").seen


def test_a_machine_without_a_card_runs_the_model_on_the_cpu():
    assert the_one(check_gpu(NONE, BLIND, "auto")).status == Status.OK


def test_a_card_that_was_asked_for_and_is_not_there_is_a_problem():
    finding = the_one(check_gpu(NONE, BLIND, "cuda"))
    assert finding.status == Status.PROBLEM
    assert "Found no NVIDIA driver" in finding.seen


def test_a_torch_without_cuda_beside_a_card_is_a_problem_also_for_auto():
    """`up` asks Ray for cards, Ray finds one, and the engine then can't use it."""
    torch = Torch("2.13.0+cpu", None, error="Torch not compiled with CUDA enabled")
    finding = the_one(check_gpu(DRIVER, torch, "auto"))
    assert finding.status == Status.PROBLEM
    assert "torch 2.13.0+cpu is built without CUDA" in finding.seen


def test_a_driver_too_old_is_reported_with_the_one_that_is_needed():
    finding = the_one(check_gpu(replace(DRIVER, version="535.183.01"), BLIND, "auto"))
    assert finding.name == "driver"
    assert "NVIDIA 535.183.01 is too old for torch 2.13.0+cu130" in finding.seen
    assert "driver 580 or newer" in finding.remedy


def test_a_driver_of_the_same_cuda_is_not_called_old():
    finding = the_one(check_gpu(replace(DRIVER, version="550.54.15"), replace(BLIND, cuda="12.8"), "auto"))
    assert finding.name == "torch"
    assert "CUDA_VISIBLE_DEVICES" in finding.remedy


def test_a_container_without_the_machines_card_gets_advice():
    finding = the_one(check_gpu(Driver("580.95.05"), BLIND, "auto"))
    assert finding.status == Status.WARNING
    assert "--gpus all" in finding.remedy


def test_a_driver_that_hangs_is_not_waited_for():
    finding = the_one(check_gpu(Driver("580.95.05", hangs=True), BLIND, "auto"))
    assert finding.status == Status.PROBLEM
    assert "nvidia-smi does not respond" in finding.seen
    assert collect_torch(Driver(hangs=True)).error == "the driver does not respond"


def test_a_process_on_the_card_may_have_commas_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Such a name ended `glm-serve doctor` with a ValueError."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        """#!/bin/sh
case "$1" in
*compute-apps*) echo '71, /opt/train, v2/run, 512'; echo '72, [Not Found], [N/A]';;
*) echo '580.95.05, NVIDIA H200';;
esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    driver = collect_driver()
    assert (driver.version, driver.gpus) == ("580.95.05", ("NVIDIA H200",))
    assert driver.processes == (GpuProcess(71, "run", 512 * 2**20),)


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((8, 6), ("sm_80",), True),  # machine code runs on later minor versions
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80", "sm_86"), False),  # and not on the next major one
        ((9, 0), ("sm_80", "compute_80"), True),  # portable code does
        ((7, 0), ("compute_75",), False),
        ((9, 0), ("sm_90a",), True),  # for that card alone
        ((12, 1), ("sm_120",), True),
        ((10, 3), ("sm_100a",), False),
        ((6, 1), (), False),
    ],
)
def test_code_for_a_card_is_found_by_cudas_own_rules(
    capability: tuple[int, int], architectures: tuple[str, ...], fits: bool
):
    assert has_kernels(capability, architectures) is fits


@pytest.mark.parametrize(("capability", "advice"), [((6, 1), "an older CUDA"), ((13, 0), "a newer torch")])
def test_a_card_that_torch_has_no_code_for_is_a_problem(capability: tuple[int, int], advice: str):
    torch = replace(TORCH, capability=capability, architectures=ARCHITECTURES[:-1])
    finding = named(check_gpu(DRIVER, torch, "cuda"), "kernels")
    assert finding.status == Status.PROBLEM
    assert f"no code for compute capability {capability[0]}.{capability[1]}" in finding.seen
    assert advice in finding.remedy


def test_others_who_hold_the_cards_memory_are_named():
    others = (GpuProcess(1, "Xorg", GIB // 4), GpuProcess(4711, "python", 9 * GIB))
    finding = named(
        check_gpu(replace(DRIVER, processes=others), replace(TORCH, free_bytes=14 * GIB), "auto"), "GPU memory"
    )
    assert finding.status == Status.WARNING
    assert "python (process 4711) 9.0 GiB, Xorg (process 1) 256 MiB" in finding.seen


def test_memory_of_processes_that_are_not_visible_is_reported():
    finding = named(check_gpu(DRIVER, replace(TORCH, free_bytes=4 * GIB), "auto"), "GPU memory")
    assert finding.status == Status.WARNING
    assert "processes that are not visible here use 20.0 GiB" in finding.seen


def test_a_card_without_bfloat16_gets_float16_and_a_word_about_overflow():
    finding = check_dtype("float16", "bfloat16", "cuda", "auto")
    assert finding.status == Status.WARNING
    assert finding.seen == "float16 for a bfloat16 checkpoint, because this GPU has no bfloat16"
    assert "overflow" in finding.remedy
    assert "compute capability 8.0 or newer" in finding.remedy


def test_float16_that_was_set_is_doubted_too():
    finding = check_dtype("float16", "bfloat16", "cuda", "float16")
    assert finding.status == Status.WARNING
    assert finding.remedy.endswith("leave --dtype (GLM_MODEL__DTYPE) at auto.")


def test_a_dtype_of_the_checkpoint_or_the_cpu_needs_no_word():
    assert check_dtype("bfloat16", "bfloat16", "cuda", "auto").status == Status.OK
    assert check_dtype("float32", "bfloat16", "cpu", "auto").seen.startswith("float32, the default on a CPU")
    assert check_dtype("bfloat16", "float32", "cuda", "bfloat16").seen == "bfloat16, as set"


def test_this_machine_answers_for_itself():
    driver = collect_driver()
    torch = collect_torch(driver)
    assert bool(torch.gpus) != bool(torch.error)
