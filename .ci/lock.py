#!/usr/bin/env python3
"""Writes the lock files: what pyproject.toml asks for, pinned, with the hashes of every file on the package index.

    make lock

* requirements.lock: everything that the service needs except torch.
* requirements-torch.lock: torch and the CUDA libraries that it asks for, as on PyPI. Only the gpu image checks these
  hashes: elsewhere torch may come from PyTorch's own CPU index or from a local build, whose files are others.
* requirements-dev.lock: what tests and checks need besides.

uv resolves for every Python and platform at once. Versions that a lock file already has are kept where they still fit;
delete the file to get the newest ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
TORCH = ("torch", "nvidia-", "triton", "cuda-")  # torch and the packages that it alone asks for
PLATFORMS = "sys_platform == 'win32'", "sys_platform == 'emscripten'"  # pins for these alone are left out


def resolved(kept: Iterable[Path], *options: str) -> dict[str, str]:
    """Name -> its pins with hashes, as lines of a requirements file."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *options]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-config", "--quiet"]
    command += ["--no-header", "--no-annotate", "--output-file", "/dev/stdout"]
    for file in kept:
        command += ["--constraint", str(file)] if file.exists() else []
    text = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    pins = re.findall(r"^(?:\S.*\\\n)(?:    .*\n)+", text, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for pin in pins:
        if not any(each in pin for each in PLATFORMS):
            name = pin.partition("==")[0]
            found[name] = found.get(name, "") + pin  # one pin for each range of Python versions where they differ
    return found


def write(file: str, what: str, pins: Iterable[str]) -> None:
    lines = list(pins)
    (ROOT / file).write_text(f"# {what}; written by `make lock` from pyproject.toml.\n" + "".join(lines))
    print(f"{file}: {len(lines)} packages")


def main() -> None:
    locks = [ROOT / f"requirements{name}.lock" for name in ("", "-torch", "-dev")]
    service = resolved(locks)
    everything = resolved(locks, "--group", "dev")
    is_torch = {name for name in service if name.startswith(TORCH)}
    write(
        "requirements.lock", "What the service needs, without torch", (service[n] for n in service if n not in is_torch)
    )
    write("requirements-torch.lock", "torch and its CUDA libraries, as on PyPI", (service[n] for n in sorted(is_torch)))
    development = (pin for name, pin in everything.items() if name not in service or name == "triton")
    write("requirements-dev.lock", "What tests and checks need besides requirements.lock", development)


if __name__ == "__main__":
    main()
