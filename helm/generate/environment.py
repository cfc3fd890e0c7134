"""Ray's environment and the settings' defaults, as files that templates read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serve_app.ray_flags import CLUSTER
from serve_app.settings import Settings


def files() -> dict[Path, str]:
    """`ray-env.json`: name -> value. `settings.json`: the defaults of what can be set in the chart."""
    return {
        Path("files/ray-env.json"): json.dumps(dict(CLUSTER), indent=2) + "\n",
        Path("files/settings.json"): json.dumps(default_settings(), indent=2) + "\n",
    }


def default_settings() -> dict[str, dict[str, Any]]:
    """The package's tree without environment, and without what the chart decides: http.host and replicas."""
    defaults = {
        name: section.model_dump(mode="json")
        for name, field in Settings.model_fields.items()
        if (section := field.get_default(call_default_factory=True)) is not None
    }
    del defaults["http"]["host"], defaults["replicas"]
    return defaults
