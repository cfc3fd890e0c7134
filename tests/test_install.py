"""`.ci/install` (make install) with a Python that only records what pip is called with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# `-c` and `-m venv` succeed; `-m pip install` is written to calls.log.
PYTHON = """#!/bin/bash
case "$1 $2" in
  "-m venv") [[ -z $VENV_ERROR ]] || { mkdir -p "$3"; echo "$VENV_ERROR" >&2; exit 1; }
             mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip")  echo "${*:4}" >>calls.log; echo "Collecting ray==1"; echo "  Downloading ray-1.whl (79.2 MB)"
             [[ -z $PIP_FAILS || $* != *$PIP_FAILS* ]] || { echo "ERROR: The connection failed." >&2; exit 1; } ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that the script reads, and the recording Python."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "install", tmp_path / ".ci" / "install")
    for name in ("requirements.lock", "requirements-torch.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def install(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONS": str(checkout / "python"), **variables}
    return subprocess.run([checkout / ".ci" / "install"], capture_output=True, text=True, env=environment, timeout=60)


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls.log").read_text().splitlines()


def torch() -> str:
    (line,) = [
        line for line in (ROOT / "requirements-torch.lock").read_text().splitlines() if line.startswith("torch=")
    ]
    return line.split()[0]


without_gpu = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="a machine with a GPU gets torch with CUDA")


@without_gpu
def test_a_machine_without_a_gpu_gets_the_cpu_build_of_torch(checkout: Path):
    ended = install(checkout, PIP_ARGS="--index-url https://mirror.example/simple")
    assert ended.returncode == 0, ended.stderr
    packages, cpu, own = calls(checkout)
    assert packages.endswith("--require-hashes --no-deps -r requirements.lock")
    assert cpu.endswith(f"--extra-index-url https://download.pytorch.org/whl/cpu {torch()}+cpu")
    assert own.endswith("--editable .")
    assert all("--index-url https://mirror.example/simple" in call for call in calls(checkout))
    assert "0.4 GB to download" in ended.stdout
    assert "ray-1.whl (79.2 MB)" in ended.stdout


@without_gpu
def test_without_pytorchs_index_the_build_of_pips_own_index_is_installed(checkout: Path):
    ended = install(checkout, PIP_FAILS="+cpu")
    assert ended.returncode == 0, ended.stderr
    assert calls(checkout)[2].endswith(f" {torch()}")
    assert "PyTorch's CPU build was not found at https://download.pytorch.org/whl/cpu (TORCH_INDEX)" in ended.stdout


def test_an_empty_torch_index_means_pips_own(checkout: Path):
    assert install(checkout, TORCH_INDEX="").returncode == 0
    assert calls(checkout)[1].endswith(f" {torch()}")


def test_a_failed_download_names_a_mirror(checkout: Path):
    ended = install(checkout, PIP_FAILS="requirements.lock")
    assert ended.returncode == 1
    assert "ERROR: The connection failed.\n" in ended.stderr
    assert "make install PIP_ARGS='--index-url https://" in ended.stderr


def test_a_full_disk_while_the_environment_is_created_is_reported_and_leaves_nothing(checkout: Path):
    """`make` once took the half of an environment that was left for a complete one."""
    ended = install(checkout, VENV_ERROR="Error: [Errno 28] No space left on device: '/x/.venv/bin/python'")
    assert ended.returncode == 1
    assert "Can't create .venv: Error: [Errno 28] No space left on device" in ended.stderr
    assert not (checkout / ".venv").exists()


@pytest.fixture
def nearly_full_disk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH with a `df` that reports 300 MiB."""
    programs = tmp_path_factory.mktemp("bin")
    (programs / "df").write_text("#!/bin/sh\necho head\necho /dev/sda1 9000 8700 300 97% /\n")
    (programs / "df").chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"


def test_too_little_space_is_reported_before_anything_is_downloaded(checkout: Path, nearly_full_disk: str):
    ended = install(checkout, PATH=nearly_full_disk)
    assert ended.returncode == 1
    assert f"The disk of {checkout} has 300 MiB free; the packages need 2000 MiB." in ended.stderr
    assert not (checkout / "calls.log").exists()


def test_a_disk_that_is_full_while_pip_installs_is_reported(checkout: Path, nearly_full_disk: str):
    assert install(checkout).returncode == 0
    ended = install(checkout, PATH=nearly_full_disk, PIP_FAILS="requirements.lock")
    assert f"pip has failed; its message is above. The disk of {checkout} has only 300 MiB free." in ended.stderr


def test_a_missing_python_is_reported_with_where_to_get_one(checkout: Path):
    ended = install(checkout, PYTHONS="/bin/false")
    assert ended.returncode == 1
    assert "No Python 3.11, 3.12 or 3.13 was found; python3 is Python 3." in ended.stderr
    assert "apt install python3 python3-venv" in ended.stderr
    assert "uv python install 3.12" in ended.stderr
