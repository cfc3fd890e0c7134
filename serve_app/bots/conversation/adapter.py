"""A platform's adapter as the conversation sees it: fetches files and delivers answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from serve_app.bots.conversation.message import FileRef
from serve_app.bots.conversation.streams import Stream
from serve_app.callbacks import RespondToCallback

Reason: TypeAlias = Literal["expired", "not_downloaded", "wrong_key", "too_large", "refused_host", "not_kept"]


class FetchFailed(Exception):
    """A picture or file could not be had; `reason` names the sentence for the user, the message is for the log."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Adapter(Protocol):
    """One robot of one platform.

    Parsing is the adapter's own: its callback or connection makes an `Inbound` of each message, with `platform` as
    its name, and calls `Conversation.receive(message, adapter)`.
    """

    platform: str

    async def fetch(self, file: FileRef) -> bytes:
        """The plain bytes of a picture or file. Raises FetchFailed."""

    async def deliver(self, stream: Stream) -> None:
        """Sends the answer as it grows and returns when nothing is left to send.

        A platform that asks for the answer itself (polls) only sends what its polls could not get.
        """


@dataclass(slots=True)
class Robots:
    """The robots of one platform."""

    adapters: dict[str, Adapter] = field(default_factory=dict)  # by name of the platform
    callbacks: dict[str, RespondToCallback] = field(default_factory=dict)  # by path below /bots/
    connections: list[Callable[[], Awaitable[None]]] = field(default_factory=list)  # run as long as the process
    copies: list[Callable[[Stream], Awaitable[object]]] = field(default_factory=list)  # get every answered question
