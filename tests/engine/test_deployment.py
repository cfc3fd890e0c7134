"""What the engine's process has after it has received the deployment from the process that starts the service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ray import cloudpickle

from serve_app.engine.deployment import EngineDeployment

PROGRAM = """
import pickle, sys
sent = pickle.load(open(sys.argv[1], "rb"))
from ray.serve._private import replica
print(sent.__name__, replica.create_grpc_server_with_interceptors.__module__, "torch" in sys.modules)
"""


def test_a_replica_creates_its_server_for_large_messages(tmp_path: Path) -> None:
    """Ray sends the class by value; nothing imported its module, and messages kept gRPC's small window."""
    (tmp_path / "sent").write_bytes(cloudpickle.dumps(EngineDeployment.func_or_class))
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "sent")], check=True, capture_output=True, text=True
    )
    assert ended.stdout.split() == ["EngineDeployment", "serve_app.engine.deployment", "False"]
