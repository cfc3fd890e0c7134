"""The refusal of a callback: counted, and logged without its content."""

from __future__ import annotations

import logging

from serve_app.callbacks import CallbackReply
from serve_app.metrics import BOT_CALLBACKS_REFUSED, Meter

_log = logging.getLogger("glm.bots")


class CallbackRefused(Exception):
    """A callback that is not accepted; `reason` is a metric label, the message is for the log."""

    def __init__(self, reason: str, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


def refuse(error: CallbackRefused, platform: str, meter: Meter) -> CallbackReply:
    """The response to a refused callback, which says nothing about the reason."""
    meter.count(BOT_CALLBACKS_REFUSED, platform=platform, reason=error.reason)
    _log.warning("A callback of %s was refused: %s", platform, error)
    return CallbackReply(b"refused", status=error.status)
