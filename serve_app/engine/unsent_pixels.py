"""Finds the features of pictures whose pixels were not sent, or asks for their pixels.

What counts is `find_unsent`, in the loop's thread, when a sequence has just been admitted: its pages are its own by
then, and features that are found are kept in the sequence, so nothing can be evicted between the check and their use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from serve_app import metrics
from serve_app.contracts import Picture
from serve_app.engine.model.feature_cache import FeatureCache
from serve_app.engine.scheduler import Scheduler
from serve_app.engine.sequence import Sequence
from serve_app.replies import PixelsNeeded


def find_unsent(
    sequence: Sequence, features: FeatureCache, others: Iterable[Sequence], meter: metrics.Meter
) -> PixelsNeeded | None:
    """Find what replaces the pixels that were not sent with an admitted sequence; returns which have to be sent.

    A picture needs none if pages hold all its tokens, if the cache has its features, or if another sequence in the
    engine came with the same picture's pixels.
    """
    if sequence.prompt.has_all_pixels:
        return None
    unsent = _unsent(sequence)
    sent: dict[str, Picture] | None = None
    missing: list[str] = []
    for digest in dict.fromkeys(picture.digest for picture in sequence.needed if not picture.is_sent):
        found = features.get(digest)
        if found is not None:
            sequence.encoded[digest] = found
            continue
        if sent is None:
            sent = {p.digest: p for s in (sequence, *others) for p in s.prompt.pictures if p.is_sent}
        if digest in sent:
            _take_pixels(sequence, sent[digest])
        else:
            missing.append(digest)
    return _reply(unsent, missing, meter)


def surely_missing(
    sequence: Sequence, features: FeatureCache, scheduler: Scheduler, others: Iterable[Sequence], meter: metrics.Meter
) -> PixelsNeeded | None:
    """Which pixels have to be sent, as far as it can be seen from any thread, without a wait for the loop's next step.

    None if the first page of the prompt is there: the others may be too.
    """
    if sequence.prompt.has_all_pixels or scheduler.knows_page(sequence.page_keys):
        return None
    unsent = _unsent(sequence)
    sent = {p.digest for s in (sequence, *others) for p in s.prompt.pictures if p.is_sent}
    missing = [digest for digest in dict.fromkeys(unsent) if digest not in features and digest not in sent]
    return _reply(unsent, missing, meter) if missing else None  # else `find_unsent` counts them


def ask_for_pixels(sequence: Sequence, meter: metrics.Meter) -> PixelsNeeded | None:
    """The reply to a sequence that has to wait: what replaces its pixels could be evicted meanwhile."""
    unsent = _unsent(sequence)
    return _reply(unsent, list(dict.fromkeys(unsent)), meter)


def _unsent(sequence: Sequence) -> list[str]:
    """Digests of the pictures whose pixels were not sent."""
    return [picture.digest for picture in sequence.prompt.pictures if not picture.is_sent]


def _reply(unsent: list[str], missing: list[str], meter: metrics.Meter) -> PixelsNeeded | None:
    """Count the pictures that came without pixels, and ask for the missing ones; None if none are missing."""
    for digest in unsent:
        meter.count(metrics.PICTURES_WITHOUT_PIXELS, result="needed" if digest in missing else "known")
    return PixelsNeeded(tuple(missing)) if missing else None


def _take_pixels(sequence: Sequence, sent: Picture) -> None:
    """Use the pixels of another prompt's picture with the same digest, which covers its pixels and their size."""
    pictures = tuple(
        replace(picture, pixels=sent.pixels) if picture.digest == sent.digest else picture
        for picture in sequence.prompt.pictures
    )
    sequence.prompt = replace(sequence.prompt, pictures=pictures)
