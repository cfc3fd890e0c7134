"""The long run: `python -m tests.fuzz --minutes 10 pictures`; the last line on stdout is one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time

from tests.fuzz import corpus
from tests.fuzz.run import CASES, Figures, outcome, run
from tests.fuzz.service import FuzzedService

GROWTH_MIB = 48.0  # of one process after the warm-up: more than allocators need, far less than a leak in each case


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=CASES)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round (default: the time)")
    parser.add_argument("--keep", action="store_true", help="add the smallest case of each new outcome to the corpus")
    options = parser.parse_args()
    loop = asyncio.new_event_loop()
    service = loop.run_until_complete(_start())
    figures = run(options.kind, options.minutes * 60, options.seed, service, loop)
    if options.keep:
        keep(options.kind, figures, service, loop)
    loop.run_until_complete(service.close())
    for name, (case, cause) in figures.findings.items():
        print(f"FINDING {name}\n{case.path} {case.content_type!r} {base64.b85encode(case.body).decode()}\n{cause}\n")
    if figures.slowest is not None and figures.slowest_s > 2:
        print(f"SLOWEST {figures.slowest.path} {base64.b85encode(figures.slowest.body).decode()}")
    for case in figures.crashes[:10]:
        print(f"CRASH OF A DECODER {case.path} {base64.b85encode(case.body).decode()}")
    print(json.dumps({"kind": options.kind, "seed": options.seed, **figures.summary(options.minutes * 60)}))
    grown = [name for name, (before, after) in figures.memory_mib.items() if after - before > GROWTH_MIB]
    if figures.findings or grown:
        raise SystemExit(f"{len(figures.findings)} findings; memory grew in: {', '.join(grown) or 'no process'}.")


def keep(kind: str, figures: Figures, service: FuzzedService, loop: asyncio.AbstractEventLoop) -> None:
    """Adds the cases of outcomes that no case of the corpus has."""
    found = dict(figures.outcomes)
    for case in corpus.load(kind):
        found[outcome(kind, case, loop.run_until_complete(service.send(case)))] = case
    corpus.save(kind, [*found.values(), *(case for case, _ in figures.findings.values())])


async def _start() -> FuzzedService:
    return FuzzedService()


if __name__ == "__main__":
    main()
