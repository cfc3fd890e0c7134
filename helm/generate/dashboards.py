"""The Grafana dashboards of the chart, one JSON file each."""

from __future__ import annotations

from pathlib import Path

from dashboards_engine import engine
from dashboards_service import service


def files() -> dict[Path, str]:
    """Path within the chart -> the dashboard's JSON, for import by hand or by Grafana's sidecar."""
    return {
        Path("dashboards/glm-service.json"): service(),
        Path("dashboards/glm-engine.json"): engine(),
    }
