"""The signature of DingTalk's callbacks: base64 of HMAC-SHA256 over time and secret, in the headers.

Source: open.dingtalk.com, "receive messages". The body is not signed, so callbacks need HTTPS; Stream mode does not
have this weakness.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping

from serve_app.bots.callback_refusal import CallbackRefused


def sign(timestamp: str, secret: str) -> str:
    """The signature of a time, in milliseconds since 1970, by the app's secret."""
    digest = hmac.digest(secret.encode(), f"{timestamp}\n{secret}".encode("utf-8", "surrogateescape"), hashlib.sha256)
    return base64.b64encode(digest).decode()


def check_signature(headers: Mapping[str, str], secret: str, *, now: Callable[[], float], window_s: float) -> None:
    """Raises CallbackRefused if the signature is wrong, or its time differs too much from this machine's."""
    timestamp, signature = headers.get("timestamp", ""), headers.get("sign", "")
    if not hmac.compare_digest(sign(timestamp, secret).encode(), signature.encode("utf-8", "surrogateescape")):
        raise CallbackRefused("signature", "The signature is wrong. Check dingtalk.client_secret_file.")
    age_s = now() - int(timestamp[:20]) / 1000 if timestamp.isascii() and timestamp.isdigit() else float("inf")
    if abs(age_s) > window_s:
        raise CallbackRefused(
            "time",
            f"The callback is {age_s:.0f} seconds old; the limit is {window_s:g} (dingtalk.replay_window_s)."
            " Check this machine's clock.",
        )
