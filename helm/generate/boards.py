"""The Grafana boards of the chart, written from code: one JSON file a board."""

from __future__ import annotations

from pathlib import Path

from boards_engine import engine
from boards_service import service


def files() -> dict[Path, str]:
    """Path within the chart -> the board's JSON, for import by hand or by Grafana's sidecar."""
    return {
        Path("dashboards/glm-service.json"): service(),
        Path("dashboards/glm-engine.json"): engine(),
    }
