"""The benchmarks' scripts: each starts and is in benchmarks/README.md; those that need no service run."""

import functools
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import decoders, request_path
from benchmarks.photograph import photograph

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(
    ".".join(file.relative_to(FOLDER.parent).with_suffix("").parts)
    for file in FOLDER.rglob("*.py")
    if '\nif __name__ == "__main__":\n' in file.read_text(encoding="utf-8")
)


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    """`main` of a script, in this process."""
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    importlib.import_module(script).main()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_its_help(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, script, "--help")
    assert ended.value.code == 0
    first_line = str(importlib.import_module(script).__doc__).splitlines()[0]
    assert first_line in capsys.readouterr().out


def test_every_script_is_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    names = [script.removeprefix("benchmarks.") for script in SCRIPTS if not script.startswith("benchmarks.peers.")]
    assert [name for name in names if f"benchmarks.{name}" not in readme and f"`{name}.py`" not in readme] == []


async def test_decoders_decodes_its_pictures_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of decoded pictures would make every round but the first one a measurement of that cache."""
    decoded: list[tuple[int, int]] = []
    decode = decoders._decoded

    def counted(*arguments: Any) -> Any:
        decoded.append(arguments[2])
        return decode(*arguments)

    monkeypatch.setattr(decoders, "_decoded", counted)
    monkeypatch.setattr(decoders, "pictures", lambda: {"small": photograph(200, 150)})
    found = await decoders.run(2)
    assert len(decoded) == 2 + decoders.WARM_UP
    assert found["small"].keys() == {"thread_ms", "pool_ms", "added_ms"}


def test_new_sizes_measures_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "benchmarks.random_model", str(tmp_path), "--tiny", "--device", "cpu")
    few = ("--device", "cpu", "--sizes", "2", "--longest", "40", "--most", "4")
    run(monkeypatch, "benchmarks.new_sizes", str(tmp_path), *few)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["benchmark"], report["device"]) == ("new_sizes", "cpu")
    for kind in ("lengths", "pictures"):
        assert report[kind]["sizes"] == 2
        assert report[kind]["first_token_ms"] > 0


def test_every_function_that_request_path_times_exists() -> None:
    probe = importlib.util.spec_from_file_location("path_probe", request_path.PROBE / "sitecustomize.py")
    assert probe is not None
    assert probe.loader is not None
    module = importlib.util.module_from_spec(probe)
    probe.loader.exec_module(module)  # without its folder in the environment it replaces nothing
    for name, functions in module.TRACE_POINTS.items():
        for function in functions:
            assert callable(functools.reduce(getattr, function.split("."), importlib.import_module(name)))


def test_the_path_of_a_request_is_the_median_time_at_each_trace_point_in_order() -> None:
    questions = [(0.0, 10.0, {}), (100.0, 112.0, {}), (200.0, 210.0, {})]
    records = [
        *((start + 1.0, "body") for start in (0.0, 100.0, 200.0)),
        *((start + after, "dispatched") for start in (0.0, 100.0, 200.0) for after in (3.0, 6.0, 9.0)),
        *((start + 7.0, "text sent") for start in (0.0, 100.0, 200.0)),
        (5.0, "seen once"),
        (50.0, "between questions"),
    ]
    assert request_path.path(questions, sorted(records)) == {
        "body": 1.0,
        "dispatched": 6.0,
        "text sent": 7.0,
        "first text": 10.0,
    }
