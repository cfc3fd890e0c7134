"""Do replicas and nodes follow the work? Callers come and go on a Ray cluster whose autoscaler adds nodes.

The chart's own serve configuration on a real Ray with real autoscaling; only the GPUs are missing: a GPU node is a
process here and the demo model computes on the CPU, so all replicas share this machine's cores and three answer no
faster than one. What it can show is when replicas and nodes come and go, what for, and whether a request is lost.

Two policies meet the same callers: `tokens`, the one that is shipped, and `requests`, Serve's default. Both are set
for the same mix (`TARGETS`) and have the same shortened delays. Then the mix changes: the same number of callers with
short questions only and with long ones only. Whoever counts requests sees no difference between them.

    python -m benchmarks.autoscaling            both policies; result in benchmarks/results/, figure in docs/
    python -m benchmarks.autoscaling --policies tokens
    python -m benchmarks.autoscaling --draw benchmarks/results/autoscaling-2026-11-21.json

Needs root (network namespaces) and helm (`.ci/tools`). The last stdout line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.fake_nodes import cluster
from tests.cluster.load import Asked, Load, Seen, Watch
from tests.cluster.questions import chat_body, questions
from tests.cluster.rendered import Rendered, fitted, groups, rendered

ROOT = Path(__file__).parent.parent
FIGURE = ROOT / "docs" / "autoscaling.png"
MOST = 3
SLOTS = 16
SHORT_TOKENS, LONG_TOKENS = 48, (200, 600)  # short: a real answer, a dozen tokens; long: as many as are drawn
PICTURES_PER_JOB = 2  # few, so that their features are soon cached and the answers are what takes time
# Eight callers of the even mix have about 1,100 tokens in flight here: both policies want two replicas for them.
TARGETS = {"tokens": {"target_tokens_in_flight": 1000, "target_kv_use": 0.8}, "requests": 5}
DOWNSCALE_DELAY_S = 6
WINDOW_S = 4.0  # of the latencies over time


@dataclass(frozen=True)
class Phase:
    """So many callers for so long; `long_share` of their questions have long answers."""

    name: str
    callers: int
    seconds: float
    long_share: float = 0.5


PHASES = (
    Phase("1 caller", 1, 4),
    Phase("8, short answers", 8, 15, 0.0),
    Phase("8, long answers", 8, 32, 1.0),
    Phase("16, mixed", 16, 20),
    Phase("1 caller", 1, 24),
    Phase("nobody", 0, 14),
)


class Bodies:
    """Requests with pictures, streamed, one after the other; how many of them are long may change."""

    def __init__(self) -> None:
        self.long_share = 0.0
        self._pictures = itertools.cycle(questions(PICTURES_PER_JOB))
        self._owed = 0.0
        self._draw = random.Random(7)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        self._owed += self.long_share
        long = self._owed >= 1
        self._owed -= long
        tokens = self._draw.randint(*LONG_TOKENS) if long else SHORT_TOKENS
        more = {"max_tokens": tokens, "ignore_eos": long}
        return chat_body(next(self._pictures), stream=True, **more)


def serve_config(policy: str, chart: Rendered) -> dict[str, Any]:
    config = fitted(chart, least=0, most=MOST)
    (engine,) = [each for each in config["applications"][0]["deployments"] if each["name"] == "engine"]
    scaling = engine["autoscaling_config"]
    scaling.update(initial_replicas=1, downscale_delay_s=DOWNSCALE_DELAY_S)
    if policy == "requests":
        del scaling["policy"]
        scaling["target_ongoing_requests"] = TARGETS["requests"]
    else:
        scaling["policy"]["policy_kwargs"] = TARGETS["tokens"]
    return config


def measure(policy: str) -> dict[str, Any]:
    """One run of all phases under one policy, in a cluster of its own."""
    chart = rendered("values-cluster.yaml", slots=SLOTS)
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="nodes-") as folder,
        cluster(Path(folder), groups(chart, MOST)) as running,
    ):
        running.deploy(serve_config(policy, chart))
        running.until(lambda: running.application()["status"] == "RUNNING", "the application runs", limit_s=90)
        return asyncio.run(_phases(policy, running))


async def _phases(policy: str, running: Any) -> dict[str, Any]:
    bodies = Bodies()
    began: list[float] = []
    async with httpx.AsyncClient(transport=running.transport(), base_url="http://service", timeout=300) as client:
        await Load(client, bodies).ask(next(bodies))  # warm-up, not counted
        load = Load(client, bodies)
        watch = Watch(running, load)
        async with watch.open():
            for phase in PHASES:
                began.append(load.now_s())
                bodies.long_share = phase.long_share
                load.set(phase.callers)
                await asyncio.sleep(phase.seconds)
                print(f"{policy:9} {phase.name:18} {watch.seen[-1]}", flush=True)
            await load.all_answered()
            ended = load.now_s()
    return {
        "phases": [
            {"name": phase.name, **_summary(load.asked, watch.seen, start, end)}
            for phase, (start, end) in zip(PHASES, itertools.pairwise([*began, ended]), strict=True)
        ],
        "failures": sorted({asked.failure for asked in load.asked if asked.failure}),
        "requests": len(load.asked),
        "over_time": [_moment(seen, load.asked) for seen in watch.seen],
        "ended_s": round(ended, 1),
    }


def _summary(asked: list[Asked], seen: list[Seen], start: float, end: float) -> dict[str, Any]:
    """A phase in numbers. A request counts where it was asked; replicas and nodes are means over the phase."""
    asked = [each for each in asked if start <= each.at_s < end]
    seen = [each for each in seen if start <= each.at_s < end]
    first = [each.first_token_s for each in asked if not each.failure]
    return {
        "start_s": round(start, 1),
        "seconds": round(end - start, 1),
        "requests": len(asked),
        "failed": sum(bool(each.failure) for each in asked),
        "first_token_s_p50": _quantile(first, 50),
        "first_token_s_p95": _quantile(first, 95),
        "replicas_wanted_at_the_end": seen[-1].wanted,
        "replicas_at_the_end": seen[-1].replicas,
        "gpu_nodes_mean": round(statistics.fmean(each.nodes.get("gpu", 0) for each in seen), 2),
    }


def _moment(seen: Seen, asked: list[Asked]) -> dict[str, Any]:
    """One look at the cluster, with the first tokens of the requests asked around it."""
    near = [e.first_token_s for e in asked if abs(e.at_s - seen.at_s) <= WINDOW_S / 2 and not e.failure]
    return {
        "at_s": round(seen.at_s, 1),
        "callers": seen.callers,
        "in_flight": sum(each.at_s <= seen.at_s < each.at_s + each.whole_s for each in asked),
        "replicas": seen.replicas,
        "wanted": seen.wanted,
        "gpu_nodes": seen.nodes.get("gpu", 0),
        "first_token_s_p50": _quantile(near, 50),
        "first_token_s_p95": _quantile(near, 95),
        "failed": sum(bool(each.failure) and abs(each.at_s - seen.at_s) <= WINDOW_S / 2 for each in asked),
    }


def _quantile(values: list[float], percent: int) -> float | None:
    if not values:
        return None
    if len(values) == 1:
        return round(values[0], 2)
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 2)


def draw(report: dict[str, Any], file: Path) -> None:
    """The figure: a column for each policy; requests, replicas and nodes, first tokens over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = {
        "tokens": "shipped policy: tokens in flight and KV use",
        "requests": "Serve's default: ongoing requests",
    }
    policies = report["policies"]
    figure, rows = pyplot.subplots(
        3, len(policies), figsize=(6.5 * len(policies), 8), sharex=True, sharey="row", squeeze=False
    )
    for column, (policy, run) in enumerate(policies.items()):
        moments = run["over_time"]
        at = [moment["at_s"] for moment in moments]
        load, replicas, latency = (row[column] for row in rows)
        failed = sum(phase["failed"] for phase in run["phases"])
        load.set_title(f"{titles[policy]}\n{run['requests']} requests, {failed} failed")
        load.plot(at, [moment["in_flight"] for moment in moments], color="#444444")
        replicas.step(at, [m["gpu_nodes"] for m in moments], where="post", color="#bbbbbb", lw=6, label="GPU nodes")
        replicas.step(at, [m["wanted"] for m in moments], where="post", color="#d95f02", ls="--", label="wanted")
        replicas.step(at, [m["replicas"] for m in moments], where="post", color="#1b6ca8", lw=2, label="running")
        for percent, style in ((50, "-"), (95, ":")):
            key = f"first_token_s_p{percent}"
            told = [float("nan") if moment[key] is None else moment[key] for moment in moments]
            latency.plot(at, told, style, color="#1b6ca8", label=f"p{percent}")
        for phase in run["phases"]:
            for axis in (load, replicas, latency):
                axis.axvline(phase["start_s"], color="#dddddd", lw=1, zorder=0)
            load.annotate(
                phase["name"],
                (phase["start_s"], 17.5),
                (2, 0),
                textcoords="offset points",
                rotation=90,
                va="bottom",
                fontsize=7.5,
                color="#555555",
            )
        latency.set_xlabel("time (s)")
        replicas.set_yticks(range(MOST + 1))
        load.set_ylim(-1, 36)
        load.set_yticks(range(0, 17, 4))
        latency.set_yscale("log")
        latency.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        latency.minorticks_off()
    rows[0][0].set_ylabel("requests in flight")
    rows[1][0].set_ylabel("engine replicas, GPU nodes")
    rows[2][0].set_ylabel(f"first token (s),\nrequests of {WINDOW_S:g} s")
    rows[1][0].legend(loc="upper left", fontsize=8)
    rows[2][0].legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--draw", type=Path, metavar="RESULT", help="only draw the figure of a result")
    options = parser.parse_args()
    if options.draw:
        draw(json.loads(options.draw.read_text()), FIGURE)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    started = time.monotonic()
    report = {
        "benchmark": "autoscaling",
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")},
        "slots": SLOTS,
        "targets": TARGETS,
        "policies": {policy: measure(policy) for policy in options.policies},
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    if options.policies == list(TARGETS):
        result = ROOT / "benchmarks" / "results" / f"autoscaling-{report['date']}.json"
        result.write_text(json.dumps(report) + "\n")
        draw(report, FIGURE)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
