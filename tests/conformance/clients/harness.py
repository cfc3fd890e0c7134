"""What the Python scripts share: the task they read, the checks they run, the JSON they print.

A script runs in its client's own environment, so this imports the standard library only. It reads the task
(see ../task.py) from its standard input, runs its checks, or those that the task names, each by itself, and prints one
line of JSON: check -> its result, or `{"raised": "..."}`. Only the tests know what is right.
"""

from __future__ import annotations

import base64
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASK: dict[str, Any] = json.load(sys.stdin)
MODEL: str = TASK["model"]
URL: str = TASK["base_url"] + "/v1"
CHECKS: dict[str, Callable[[], Any]] = {}


def check(function: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a function a check of its own name."""
    CHECKS[function.__name__] = function
    return function


def faulty_url(fault: str) -> str:
    """The service's address behind a proxy with this fault (see ../fault_proxy.py)."""
    return f"{TASK['fault_proxy']}/{fault}/{TASK['client']}/v1"


def picture_bytes(name: str) -> bytes:
    return Path(TASK["pictures"][name]).read_bytes()


def picture_base64(name: str) -> str:
    return base64.b64encode(picture_bytes(name)).decode()


def data_url(name: str) -> str:
    return f"data:image/jpeg;base64,{picture_base64(name)}"


def too_large_url() -> str:
    """A data URL that makes the body larger than the service takes."""
    return "data:image/jpeg;base64," + "A" * TASK["too_large_bytes"]


def refusal(call: Callable[[], Any]) -> dict[str, Any]:
    """The exception that a client raises for what the service refuses."""
    try:
        answer = call()
    except Exception as error:
        return {
            "error": type(error).__name__,
            "parents": [parent.__name__ for parent in type(error).__mro__],
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "message": str(error)[:2000],
        }
    return {"answer": str(answer)[:500]}


def main() -> None:
    got = {}
    for name in TASK["only"] or [name for name in CHECKS if name not in TASK["without"]]:
        try:
            got[name] = CHECKS[name]()
        except Exception as error:
            sys.stderr.write(f"{name}: {traceback.format_exc()}\n")
            got[name] = {"raised": f"{type(error).__name__}: {error}"[:2000]}
    sys.stdout.write("\n" + json.dumps(got, ensure_ascii=False) + "\n")
