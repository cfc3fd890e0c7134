"""The locks: exact, complete enough to install without resolving, and without torch."""

import json
import re
from pathlib import Path

import pytest

from tests.conformance.environments import LOCKS
from tests.conformance.lock import WANTED

PINNED = re.compile(r"[a-z0-9-]+==[^ ;]+")


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*/requirements.lock")), ids=lambda lock: lock.parent.name)
def test_a_lock_pins_every_package_and_none_is_torch(lock: Path) -> None:
    pins = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    assert pins
    for pin in pins:
        assert PINNED.fullmatch(pin)
        assert not pin.startswith(("torch", "triton", "cuda", "nvidia-c"))


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_is_of_the_package_that_is_wanted(name: str) -> None:
    packages = re.sub(r"\[.*?\]", "", WANTED[name].package).split()
    lines = (LOCKS / name / "requirements.lock").read_text().splitlines()
    assert set(packages) <= set(lines)
    assert not {line.partition("==")[0] for line in lines} & WANTED[name].without


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*/package-lock.json")), ids=lambda lock: lock.parent.name)
def test_a_node_lock_has_a_checksum_for_every_package_and_names_no_registry(lock: Path) -> None:
    packages = json.loads(lock.read_text())["packages"]
    asked = json.loads((lock.parent / "package.json").read_text())["dependencies"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in asked} == asked
    for name, package in packages.items():
        assert not name or package["integrity"].startswith("sha512-")
        assert "resolved" not in package
