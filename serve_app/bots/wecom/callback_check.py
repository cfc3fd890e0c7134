"""Checks and decrypts a callback of WeCom: first signature, then time, then the message and its receiver."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serve_app.bots.callback_refusal import CallbackRefused
from serve_app.bots.wecom.crypto import Crypto, CryptoError


class CallbackCheck:
    """Opens the callbacks of one robot."""

    def __init__(self, crypto: Crypto, *, now: Callable[[], float], window_s: float) -> None:
        self.crypto = crypto
        self._now = now
        self._window_s = window_s

    def open(self, query: Mapping[str, str], encrypted: str) -> bytes:
        """The decrypted message. Raises CallbackRefused."""
        timestamp, nonce = query.get("timestamp", ""), query.get("nonce", "")
        try:
            self.crypto.verify(query.get("msg_signature", ""), timestamp, nonce, encrypted)
        except CryptoError as error:
            raise CallbackRefused("signature", str(error)) from error
        if not (timestamp.isascii() and timestamp.isdigit()):
            raise CallbackRefused("time", "The timestamp is not a number.")
        age_s = self._now() - int(timestamp[:16])
        if abs(age_s) > self._window_s:
            raise CallbackRefused(
                "time",
                f"The callback is {age_s:.0f} seconds old; the limit is {self._window_s:g} (wecom.replay_window_s)."
                " Check this machine's clock.",
            )
        try:
            return self.crypto.decrypt(encrypted)
        except CryptoError as error:
            raise CallbackRefused("decryption", str(error)) from error
