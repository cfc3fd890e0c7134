"""Python, packages and bitsandbytes: are they the versions this distribution asks for, do they work."""

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
    """Python, every package that the installed metadata names, and torchvision, which it does not."""
    if software.needs_python is None:
        yield ok("Python", software.python)
        yield warning(
            "packages",
            "this package is not installed, only importable, so versions can't be compared",
            "Install it into its own environment: pip install -e . (or make install).",
        )
    elif software.python in SpecifierSet(software.needs_python):
        yield ok("Python", software.python)
    else:
        yield problem(
            "Python",
            f"{software.python} is not served; {software.needs_python} is",
            "Make the virtual environment anew with such a Python.",
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
            f"{software.torchvision} does not match torch, every model's import fails: {software.torchvision_error}",
            "pip uninstall -y torchvision (nothing here needs it)",
        )
    else:
        yield ok("torchvision", f"{software.torchvision} matches torch; it is not needed")


def _fits(package: Package) -> bool:
    return package.version is not None and package.requirement.specifier.contains(package.version, prereleases=True)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a small quantized product came out as: its relative error, or why there is none."""

    format: Format
    error: float = 0.0
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure and self.error <= _LARGEST_ERROR  # false for NaN


def check_bitsandbytes(trials: tuple[Trial, ...], wanted: str, where: str) -> Iterator[Finding]:
    """A failed format is a problem only for those who want it; `wanted` is a format or none."""
    if passed := [trial for trial in trials if trial.passed]:
        figures = ", ".join(f"{trial.format.upper()} {trial.error:.2%}" for trial in passed)
        yield ok("bitsandbytes", f"multiplies right on {where}; off from the dequantized product by: {figures}")
    for trial in trials:
        if trial.passed:
            continue
        seen = f"{trial.format.upper()} on {where}: " + (
            trial.failure or f"a product is off by {trial.error:.0%} from the dequantized weights'"
        )
        if trial.format == wanted:
            yield problem(
                "bitsandbytes",
                seen,
                "pip install --force-reinstall --no-deps bitsandbytes; if it stays so, python -m bitsandbytes tells"
                " more, and --quantization none does without it.",
            )
        else:
            yield warning("bitsandbytes", seen, f"Don't set model.quantization to {trial.format} here.")


def try_bitsandbytes(device: torch.device, dtype: torch.dtype) -> tuple[Trial, ...]:
    """Quantize a small layer each way, multiply, and compare with the product of the dequantized weights."""
    formats: tuple[Format, ...] = ("nf4", "int8")
    return tuple(_try(quantization, device, dtype) for quantization in formats)


def _try(quantization: Format, device: torch.device, dtype: torch.dtype) -> Trial:
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
            # Before the first product: on some CPUs that repacks the weights in place.
            whole = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        else:
            layer = bitsandbytes.nn.Linear8bitLt(_INPUTS, _OUTPUTS, bias=False, has_fp16_weights=False, threshold=0.0)
            layer.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            layer = layer.to(device)
        with torch.inference_mode():
            found = torch.cat((layer(inputs), layer(inputs[:1])))  # many rows and one go different ways
        if quantization == "int8":
            whole = layer.state.CB * (layer.state.SCB[:, None] / 127)
        right = torch.cat((inputs, inputs[:1])).float() @ whole.float().T
        error = float((found.float() - right).norm() / right.norm())
    except Exception as failure:  # whatever a library that does not fit its device raises
        return Trial(quantization, failure=f"{type(failure).__name__}: {' '.join(str(failure).split())}")
    return Trial(quantization, error)
