"""An answer's events on their way out: written in the record, gathered into one text."""

from __future__ import annotations

from contextlib import aclosing

from serve_app.contracts import Delta, Events, Finished, Started
from serve_app.errors import EngineFailed
from serve_app.ingress.record import Record


async def noted(events: Events, record: Record) -> Events:
    """The events, written into the record on their way; closed when their reader stops."""
    async with aclosing(events):
        async for event in events:
            record.note(event)
            yield event
    if record.finished is None:
        raise EngineFailed("The answer broke off before its end.")


async def whole(events: Events) -> tuple[str, Finished]:
    """The answer's text and its terminal event."""
    texts = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    pass
                case Delta():
                    texts.append(event.text)
                case Finished():
                    finished = event
    return "".join(texts), finished
