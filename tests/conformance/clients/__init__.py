"""The clients under test: where their scripts and environments are, and how a script is run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.conformance import environments

SCRIPTS = Path(__file__).parent
SCRIPT_LIMIT_S = 240

Result: TypeAlias = Callable[[str, str], dict[str, Any]]  # client, check -> its result


@dataclass(frozen=True)
class Client:
    """A script; Python's environment has the client's name, and so has Node's project."""

    script: str

    def command(self, name: str) -> list[str]:
        """What runs the script in the client's environment, which is made first if it is not there."""
        if self.script.endswith(".py"):
            return [str(environments.python_environment(name) / "python"), str(SCRIPTS / self.script)]
        project = environments.node_project(name)  # Node looks for packages beside the script
        for file in ("harness.mjs", self.script):
            shutil.copy(SCRIPTS / file, project)
        return [str(environments.node()), str(project / self.script)]


CLIENTS = {
    "openai-3": Client("openai_python.py"),
    "openai-2": Client("openai_python.py"),
    "openai-node": Client("openai_node.mjs"),
    "ai-sdk": Client("ai_sdk.mjs"),
    "langchain": Client("langchain_client.py"),
    "llama-index": Client("llama_index_client.py"),
    "litellm": Client("litellm_client.py"),
}
GENERAL = tuple(CLIENTS)  # these are asked to do everything
OPENAIS = tuple(name for name in CLIENTS if name.startswith("openai"))
ZAIS = ("zai", "zhipuai")
CLIENTS |= {name: Client("zai_client.py") for name in ZAIS}
CLIENTS["gradio"] = Client("gradio_chat.py")
CLIENTS["anthropic"] = Client("anthropic_client.py")


def for_clients(*names: str) -> pytest.MarkDecorator:
    """The test is run for these clients; for all general ones without names."""
    assert set(names) <= set(CLIENTS)
    return pytest.mark.parametrize("client", names or GENERAL)


def for_clients_except(*names: str) -> pytest.MarkDecorator:
    """The test is run for all general clients but these, which can't do what it asks for."""
    assert set(names) <= set(GENERAL)
    return pytest.mark.parametrize("client", [name for name in GENERAL if name not in names])


def run(name: str, task: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """check -> what the client got, of all checks of its script that the task asks for.

    Raises RuntimeError if the environment can't be made or the script does not come to its end.
    """
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "true", "GRADIO_ANALYTICS_ENABLED": "False"}  # they would call home
    try:
        ended = subprocess.run(
            CLIENTS[name].command(name),
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=SCRIPT_LIMIT_S,
            cwd=folder,
            env=environments.client_variables(PYTHONIOENCODING="utf-8", **offline),
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{name} did not end within {SCRIPT_LIMIT_S} s; its stderr: {error.stderr!r}") from error
    if ended.returncode or not ended.stdout.strip():
        raise RuntimeError(f"{name} ended with status {ended.returncode}:\n{ended.stderr[-4000:]}")
    answers: dict[str, dict[str, Any]] = json.loads(ended.stdout.rstrip().splitlines()[-1])
    return answers
