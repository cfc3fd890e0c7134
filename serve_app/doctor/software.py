"""Checks Python, packages and bitsandbytes: versions, and whether quantized products are right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from packaging.specifiers import SpecifierSet

from serve_app.doctor.facts import Package, Software
from serve_app.doctor.report import Finding, ok, problem, warning

if TYPE_CHECKING:
    import torch

_SHOWN = ("torch", "transformers", "bitsandbytes", "ray")
_LARGEST_ERROR = 0.02  # relative; bfloat16 rounds at 0.004, a broken kernel is off by more than 1
_ROWS, _INPUTS, _OUTPUTS = 16, 256, 128

Format = Literal["nf4", "int8"]


def check_software(software: Software) -> Iterator[Finding]:
    """Compare versions with the installed metadata; torchvision is not needed, but a wrong one breaks imports."""
    if software.needs_python is None:
        yield ok("Python", software.python)
        yield warning(
            "packages",
            "This package is importable but not installed, so versions can't be compared.",
            "Install it into its own environment: pip install -e . (or make install).",
        )
    elif software.python in SpecifierSet(software.needs_python):
        yield ok("Python", software.python)
    else:
        yield problem(
            "Python",
            f"Python {software.python} is not supported; {software.needs_python} is.",
            "Create the virtual environment again with a supported Python.",
        )
    wrong = [package for package in software.packages if not _fits(package)]
    for package in wrong:
        needed = package.requirement
        extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
        found = f"{package.version} is installed" if package.version else "is not installed"
        yield problem(
            needed.name,
            f"{found}; {needed.specifier} is needed",
            f'pip install "{needed.name}{extras}{needed.specifier}"',
        )
    if software.packages and not wrong:
        versions = {package.requirement.name: package.version for package in software.packages}
        shown = ", ".join(f"{name} {versions[name]}" for name in _SHOWN if name in versions)
        yield ok("packages", f"{shown}; all {len(versions)} within their ranges")
    if software.torchvision is None:
        yield ok("torchvision", "not installed, and not needed")
    elif software.torchvision_error:
        yield problem(
            "torchvision",
            f"{software.torchvision} does not match torch, so no model can be imported: {software.torchvision_error}",
            "pip uninstall -y torchvision (nothing here needs it)",
        )
    else:
        yield ok("torchvision", f"{software.torchvision} matches torch; it is not needed")


def _fits(package: Package) -> bool:
    return package.version is not None and package.requirement.specifier.contains(package.version, prereleases=True)


@dataclass(frozen=True, slots=True)
class FormatTest:
    """The relative error of a small quantized product, or why it failed."""

    format: Format
    error: float = 0.0
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure and self.error <= _LARGEST_ERROR  # false for NaN


def check_bitsandbytes(tests: tuple[FormatTest, ...], wanted: str, where: str) -> Iterator[Finding]:
    """A failed format is a problem if it is `wanted` (a format, or none), else a warning."""
    if passed := [test for test in tests if test.passed]:
        figures = ", ".join(f"{test.format.upper()} {test.error:.2%}" for test in passed)
        yield ok("bitsandbytes", f"correct on {where}; relative error of a product: {figures}")
    for test in tests:
        if test.passed:
            continue
        seen = f"{test.format.upper()} on {where}: " + (
            test.failure or f"a product has a relative error of {test.error:.0%}"
        )
        if test.format == wanted:
            yield problem(
                "bitsandbytes",
                seen,
                "pip install --force-reinstall --no-deps bitsandbytes. If that does not help, run python -m"
                " bitsandbytes, or use --quantization none.",
            )
        else:
            yield warning("bitsandbytes", seen, f"Do not set model.quantization to {test.format} on this machine.")


def measure_formats(device: torch.device, dtype: torch.dtype) -> tuple[FormatTest, ...]:
    """Quantize a small layer in each format, and compare its product with that of the dequantized weights."""
    formats: tuple[Format, ...] = ("nf4", "int8")
    return tuple(_measure_format(quantization, device, dtype) for quantization in formats)


def _measure_format(quantization: Format, device: torch.device, dtype: torch.dtype) -> FormatTest:
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_OUTPUTS, _INPUTS, generator=generator).to(dtype) / _INPUTS**0.5
    inputs = torch.randn(_ROWS, _INPUTS, generator=generator).to(device, dtype)
    try:
        import bitsandbytes
        from bitsandbytes.functional import dequantize_4bit

        if quantization == "nf4":
            layer = bitsandbytes.nn.Linear4bit(_INPUTS, _OUTPUTS, bias=False, compute_dtype=dtype, quant_type="nf4")
            layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            layer = layer.to(device)
            # Before the first product, which repacks the weights in place on some CPUs.
            dequantized = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        else:
            layer = bitsandbytes.nn.Linear8bitLt(_INPUTS, _OUTPUTS, bias=False, has_fp16_weights=False, threshold=0.0)
            layer.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            layer = layer.to(device)
        with torch.inference_mode():
            product = torch.cat((layer(inputs), layer(inputs[:1])))  # many rows and one row use different kernels
        if quantization == "int8":
            dequantized = layer.state.CB * (layer.state.SCB[:, None] / 127)
        expected = torch.cat((inputs, inputs[:1])).float() @ dequantized.float().T
        error = float((product.float() - expected).norm() / expected.norm())
    except Exception as failure:  # any class: a library that does not support the device
        return FormatTest(quantization, failure=f"{type(failure).__name__}: {' '.join(str(failure).split())}")
    return FormatTest(quantization, error)
