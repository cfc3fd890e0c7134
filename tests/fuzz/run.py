"""Runs new cases against the service for some time: counts, finds, measures memory, collects a corpus."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz import bodies, forms, pictures
from tests.fuzz.service import Case, FuzzedService, Reply, check
from tests.fuzz.structure import format_of

CASES: Final[dict[str, Callable[[], st.SearchStrategy[Case]]]] = {
    "pictures": pictures.cases,
    "forms": forms.cases,
    "bodies": bodies.cases,
}
ROUND: Final = 500  # cases; what hypothesis remembers of them is released after each round
WARM_UP: Final = 0.3  # share of the time after which memory is compared
KEPT_BYTES: Final = 3000  # of a case in the corpus
KEPT_OF_COMMON: Final = 8


@dataclass
class Figures:
    """What a run found."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    findings: dict[str, tuple[Case, str]] = field(default_factory=dict)  # by their first line
    outcomes: dict[tuple[str, ...], Case] = field(default_factory=dict)  # the smallest case of each
    slowest_s: float = 0.0
    slowest: Case | None = None
    crashes: list[Case] = field(default_factory=list)  # of a decoder; the picture was decoded again or refused
    memory_mib: dict[str, list[float]] = field(default_factory=dict)  # after the warm-up and at the end

    def summary(self, seconds: float) -> dict[str, object]:
        return {
            "cases": self.cases,
            "cases_per_s": round(self.cases / seconds, 1),
            "statuses": dict(sorted(self.statuses.items())),
            "outcomes": len(self.outcomes),
            "findings": sorted(self.findings),
            "slowest_s": round(self.slowest_s, 2),
            "crashes": len(self.crashes),
            "memory_mib": self.memory_mib,
        }


def run(kind: str, seconds: float, first_seed: int, service: FuzzedService, loop: asyncio.AbstractEventLoop) -> Figures:
    """New cases of a kind for `seconds`; a failure is shrunk, recorded once, and the run goes on."""
    figures, errors = Figures(), _Errors()
    logging.getLogger().addHandler(errors)
    began = time.monotonic()
    warm = False
    number = first_seed
    while time.monotonic() < began + seconds:
        _round(kind, number, began + seconds, figures, errors, service, loop)
        number += 1
        if not warm and time.monotonic() > began + WARM_UP * seconds:
            warm = True
            _remember_memory(figures, service)
    _remember_memory(figures, service)
    logging.getLogger().removeHandler(errors)
    return figures


def _round(
    kind: str,
    number: int,
    ends: float,
    figures: Figures,
    errors: _Errors,
    service: FuzzedService,
    loop: asyncio.AbstractEventLoop,
) -> None:
    failed: list[tuple[str, Case, str]] = []

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(CASES[kind]())
    def one(case: Case) -> None:
        if time.monotonic() > ends:
            return
        errors.last, errors.crash = "", False
        began = time.monotonic()
        try:
            reply = loop.run_until_complete(service.send(case))
            check(reply)
        except Exception as error:
            cause = errors.last or repr(error)
            name = _plain(f"{type(error).__name__} {error}"[:120] + " | " + cause.strip().splitlines()[-1][:120])
            if name in figures.findings:
                return
            failed.append((name, case, cause))
            raise
        finally:
            spent = time.monotonic() - began
            figures.cases += 1
            if errors.crash:
                figures.crashes.append(case)
            if spent > figures.slowest_s:
                figures.slowest_s, figures.slowest = spent, case
        figures.statuses[reply.status] += 1
        key = outcome(kind, case, reply)
        if len(case.body) <= KEPT_BYTES and len(case.body) < len(figures.outcomes.get(key, _ANY).body):
            figures.outcomes[key] = case

    try:
        one()
    except Exception:
        if not failed:  # of the strategy itself
            raise
        name, case, cause = failed[-1]  # the last is the smallest
        figures.findings[name] = (case, cause)


_ANY: Final = Case("", b" " * (KEPT_BYTES + 1))


def outcome(kind: str, case: Case, reply: Reply) -> tuple[str, ...]:
    """Cases of one outcome are answered alike; the corpus has the smallest of each.

    Of the many ways to damage a picture, or to get an answer, it has several.
    """
    of = format_of(case.body.partition(b'filename="a"\r\n\r\n')[2]) if kind == "pictures" else case.path
    common = reply.status == 200 or "is a damaged" in reply.message
    which = zlib.crc32(case.body) % KEPT_OF_COMMON if common else 0
    return kind, of, str(reply.status), _plain(reply.message)[:70], str(which)


def _plain(message: str) -> str:
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "Q", message))


class _Errors(logging.Handler):
    """Keeps the last error of the service's log, and whether a decoder crashed."""

    last = ""
    crash = False

    def emit(self, record: logging.LogRecord) -> None:
        self.crash = self.crash or record.name == "glm.preprocess"
        if record.levelno >= logging.ERROR:
            self.last = logging.Formatter().format(record)


def _remember_memory(figures: Figures, service: FuzzedService) -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    figures.memory_mib.setdefault("service", []).append(_resident_mib("self"))
    decoders = max((_resident_mib(str(pid)) for pid in service.decoders.process_ids), default=0.0)
    figures.memory_mib.setdefault("largest decoder", []).append(decoders)


def _resident_mib(process: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return round(int(found[1]) / 1024, 1) if found else 0.0
