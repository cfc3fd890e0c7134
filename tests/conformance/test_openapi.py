"""The service follows its own OpenAPI document, whatever schemathesis sends."""

import subprocess
from pathlib import Path

import pytest

from tests.conformance.environments import client_variables, python_environment

pytestmark = pytest.mark.conformance

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
EXAMPLES = 30  # of each route, in the fuzzing phase
LIMIT_S = 900  # 190 s on two idle cores


def test_every_response_to_schemathesis_follows_the_document(base_url: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            str(python_environment("schemathesis") / "schemathesis"), "run", f"{base_url}/openapi.json",
            "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing,stateful",
            "--max-examples", str(EXAMPLES), "--seed", "7", "--request-timeout", "60", "--workers", "4", "--no-color",
        ],
        cwd=tmp_path,
        env=client_variables(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
