"""What the pages say is what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from serve_app import errors, metrics
from serve_app.errors import ServiceError

ROOT = Path(__file__).parent.parent.parent


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_what_the_code_says(name: str):
    assert (ROOT / name).read_text() == generate.PAGES[name](), f"{name} is old; run `make docs`"


def test_every_setting_is_described():
    undescribed = [line for line in generate.settings_page().splitlines() if line.startswith("| `") and "|  |" in line]
    assert undescribed == []


def test_the_errors_drawn_are_the_errors_there_are():
    assert errors.__doc__ is not None
    drawn = {
        (name, int(status), code)
        for name, status, code in re.findall(r"^[│├└─ ]*(\w+) +(\d{3})  (\w+)", errors.__doc__, re.MULTILINE)
    }
    assert drawn == {(error.__name__, error.status, error.code) for error in generate.error_classes()}


def test_error_codes_are_unique():
    codes = [error.code for error in generate.error_classes()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", generate.error_classes(), ids=lambda error: error.__name__)
def test_an_error_survives_the_way_between_processes(error: type[ServiceError]):
    import pickle

    arrived = pickle.loads(pickle.dumps(error("image 2 is broken", param="messages[0]")))
    assert (type(arrived), arrived.message, arrived.param) == (error, "image 2 is broken", "messages[0]")


@pytest.mark.parametrize("metric", metrics.DECLARED, ids=lambda metric: metric.name)
def test_a_metric_is_named_by_the_rule(metric: metrics.Metric):
    assert re.fullmatch(r"glm_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert metric.description.endswith(".")
    assert not {"deployment", "replica", "application"} & set(metric.tags), "Ray's own tags"


def test_metric_names_are_unique():
    names = [metric.name for metric in metrics.DECLARED]
    assert len(names) == len(set(names))
