"""The fingerprint of what is served: code, checkpoint, weight format and dtype."""

from __future__ import annotations

import hashlib

from serve_app import __version__
from serve_app.settings import ModelSettings


def system_fingerprint(model: ModelSettings) -> str:
    """Same fingerprint: same code, checkpoint, weight format and dtype."""
    weights = f"{model.quantization} {model.quantize_vision}"
    identity = "\n".join((__version__, model.source, model.revision or "", weights, model.dtype))
    return f"fp_{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
