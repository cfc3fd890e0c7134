"""Python and packages against the installed metadata; bitsandbytes really multiplies."""

import pytest
import torch
from packaging.requirements import Requirement

from serve_app.doctor.facts import Package, Software, collect_software, import_error
from serve_app.doctor.report import Status
from serve_app.doctor.software import FormatTest, check_bitsandbytes, check_software, measure_formats
from tests.doctor.conftest import named, the_one

CPU = torch.device("cpu")


def software(
    python: str = "3.12.1", torchvision: str | None = None, error: str = "", **versions: str | None
) -> Software:
    asked = {"torch": "torch>=2.11,<2.14", "ray": "ray[serve]==2.60.0"}
    found = {"torch": "2.13.0+cpu", "ray": "2.60.0", **versions}
    packages = tuple(Package(Requirement(line), found[name]) for name, line in asked.items())
    return Software(python, ">=3.11,<3.14", packages, torchvision, error)


def test_versions_within_their_ranges_are_fine():
    findings = list(check_software(software()))
    assert {finding.status for finding in findings} == {Status.OK}
    assert "torch 2.13.0+cpu, ray 2.60.0; all 2" in named(findings, "packages").seen


@pytest.mark.parametrize(("version", "seen"), [("2.14.0", "2.14.0 is installed"), (None, "is not installed")])
def test_a_package_out_of_its_range_comes_with_the_command_that_mends_it(version: str | None, seen: str):
    finding = named(check_software(software(torch=version)), "torch")
    assert finding.status == Status.PROBLEM
    assert finding.seen == f"{seen}; <2.14,>=2.11 is needed"
    assert finding.remedy == 'pip install "torch<2.14,>=2.11"'


def test_the_extras_of_a_package_are_installed_with_it():
    assert named(check_software(software(ray="2.48.0")), "ray").remedy == 'pip install "ray[serve]==2.60.0"'


def test_a_python_that_is_not_supported_is_a_problem():
    finding = named(check_software(software(python="3.14.0")), "Python")
    assert finding.status == Status.PROBLEM
    assert "Python 3.14.0 is not supported; >=3.11,<3.14 is." in finding.seen


def test_a_package_that_is_only_importable_has_nothing_to_be_compared_with():
    findings = list(check_software(Software("3.12.1", None, (), None)))
    assert named(findings, "packages").status == Status.WARNING


def test_a_torchvision_that_does_not_match_torch_is_to_be_removed():
    broken = software(torchvision="0.29.2", error="RuntimeError: operator torchvision::nms does not exist")
    finding = named(check_software(broken), "torchvision")
    assert finding.status == Status.PROBLEM
    assert "operator torchvision::nms does not exist" in finding.seen
    assert finding.remedy.startswith("pip uninstall -y torchvision")


def test_a_torchvision_that_matches_is_left_alone():
    assert named(check_software(software(torchvision="0.28.0")), "torchvision").status == Status.OK


def test_this_environment_is_within_the_ranges_of_the_installed_metadata():
    findings = list(check_software(collect_software()))
    assert not [finding for finding in findings if finding.status == Status.PROBLEM]


def test_an_import_is_tried_in_a_process_of_its_own():
    assert import_error("json") == ""
    assert import_error("serve_app.nowhere") == "ModuleNotFoundError: No module named 'serve_app.nowhere'"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bitsandbytes_multiplies_right_on_this_cpu(dtype: torch.dtype):
    tests = measure_formats(CPU, dtype)
    assert [test.format for test in tests] == ["nf4", "int8"]
    assert all(test.passed for test in tests), tests


def test_a_device_that_bitsandbytes_can_not_use_is_reported_with_its_error():
    failed = measure_formats(torch.device("meta"), torch.float32)[0]
    assert not failed.passed
    assert failed.failure


def test_a_wrong_product_is_a_problem_for_those_who_want_it():
    finding = the_one(check_bitsandbytes((FormatTest("nf4", 1.4),), "nf4", "the GPU"))
    assert finding.status == Status.PROBLEM
    assert "a relative error of 140%" in finding.seen


def test_a_product_that_is_no_number_has_not_passed():
    assert not FormatTest("int8", float("nan")).passed


def test_a_format_nobody_asked_for_may_fail():
    tests = (FormatTest("nf4", 0.001), FormatTest("int8", failure="RuntimeError: no kernel image"))
    works, fails = check_bitsandbytes(tests, "nf4", "the GPU")
    assert works.status == Status.OK
    assert fails.status == Status.WARNING
    assert fails.remedy == "Do not set model.quantization to int8 on this machine."
