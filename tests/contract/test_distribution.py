"""The wheel and the sdist, as a release would build them: licence, version, demo model, and no tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import serve_app

ROOT = Path(__file__).parents[2]
LICENCE = (ROOT / "LICENSE").read_bytes()
BUILD = "import sys; from setuptools import build_meta as b; to = sys.argv[1]; b.build_wheel(to); b.build_sdist(to)"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy, so that the repository stays as it is."""
    copy, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy / name)
    shutil.copytree(ROOT / "serve_app", copy / "serve_app", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", BUILD, str(dist)]
    ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, env={"SOURCE_DATE_EPOCH": "1577836800"})
    assert ended.returncode == 0, ended.stderr
    return dist


def test_the_wheel_contains_the_licence_and_the_demo_model(built: Path):
    (file,) = built.glob("*.whl")
    info = f"glm_vision_serve-{serve_app.__version__}.dist-info"
    with zipfile.ZipFile(file) as wheel:
        assert wheel.read(f"{info}/licenses/LICENSE") == LICENCE
        metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
        names = wheel.namelist()
    assert (metadata["Version"], metadata["License-Expression"]) == (serve_app.__version__, "Apache-2.0")
    assert metadata["License-File"] == "LICENSE"
    assert "serve_app/demo/model/config.json" in names
    assert {name.partition("/")[0] for name in names} == {"serve_app", info}


def test_the_sdist_contains_the_licence(built: Path):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as sdist:
        licence = sdist.extractfile(f"glm_vision_serve-{serve_app.__version__}/LICENSE")
        assert licence is not None
        assert licence.read() == LICENCE
