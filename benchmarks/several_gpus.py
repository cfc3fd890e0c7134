"""The parts of `benchmarks.capacity --gpus`: load, follow-ups in conversations, a replica that is killed under load."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.load_clients import (
    LoadClients,
    Outcome,
    Questions,
    Work,
    clients,
    closed_loop,
    conversations,
    picture_file,
    until_stopped,
)
from benchmarks.peers import server as peers
from benchmarks.photograph import photograph
from benchmarks.report import percentile
from benchmarks.service_processes import CpuTimes, counters, engines, replicas

PARTS: Final = ("load", "follow-ups", "kill")
WAYS: Final = ("direct", "haproxy")
QUESTION: Final = "What is written on this label, and who is it for? "
TURNS: Final = 6
EXPORT_LIMIT_S: Final = 40.0  # for counters; Ray exports them every few seconds
METRICS_MS: Final = "2000"
KILL_AFTER_S: Final = 12.0
AFTER_RESTART_S: Final = 15.0
RESTART_LIMIT_S: Final = 180.0
KILL_PICTURES: Final = 600  # of each GPU; the load goes through them again if it takes longer
PREFIX, PROMPT = "glm_prefix_tokens_total", "glm_prompt_tokens_total"
FOUND, ENCODED = "glm_feature_cache_hits_total", "glm_feature_cache_misses_total"


def measure(options: argparse.Namespace, settings: dict[str, str]) -> dict[str, Any]:
    """All parts for each number of GPUs and each way to the ingress, one service after the other, and their ratios."""
    callers = max(options.callers)
    services: list[dict[str, Any]] = []
    with _pictures(options, callers) as folder:
        ask = Questions("glm", folder, (QUESTION * 50)[: options.text_characters], options.answer_tokens)
        for way in options.ways:
            for gpus in options.gpus:
                server = _server(options, way, gpus, callers, settings)
                log = options.logs / f"{server.name}-{gpus}.log" if options.logs else None
                with (
                    peers.running(server, options.port, log) as (url, start_s),
                    clients(gpus * options.clients) as load,
                ):
                    print(f"{gpus} GPUs, {way}: ready after {start_s:.1f} s", file=sys.stderr, flush=True)
                    figures = _Service(url, f"http://127.0.0.1:{options.port + 1}/metrics", load, ask, gpus, callers)
                    services.append({"gpus": gpus, "way": way, "start_s": round(start_s, 1)} | figures.run(options))
    return {"callers_per_gpu": callers, "services": services, "ratios": ratios(services)}


def ratios(services: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each service with several GPUs over the one with the fewest that was measured in the same run."""
    least = min(services, key=lambda each: int(each["gpus"]))
    found = []
    for each in services:
        if each["gpus"] == least["gpus"]:
            continue
        ratio: dict[str, Any] = {"gpus": each["gpus"], "over": least["gpus"], "way": each["way"]}
        if "load" in each and "load" in least:
            ours, one = each["load"], least["load"]
            for name in ("requests_per_s", "middle_requests_per_s"):
                ratio[name] = round(ours[name] / one[name], 3) if one[name] else None
            ratio["first_token_p95"] = round(ours["first_token_s"]["p95"] / one["first_token_s"]["p95"], 3)
        if "follow_ups" in each and "follow_ups" in least:
            ours, one = each["follow_ups"], least["follow_ups"]
            ratio["prefix_share"] = (
                round(ours["prefix_share"] / one["prefix_share"], 3) if one["prefix_share"] else None
            )
            ratio["conversation_requests_per_s"] = round(ours["requests_per_s"] / one["requests_per_s"], 3)
        found.append(ratio)
    return found


class _Service:
    """A running service, and the parts that are measured on it."""

    def __init__(self, url: str, metrics_url: str, load: LoadClients, ask: Questions, gpus: int, callers: int) -> None:
        self._url, self._metrics_url = url, metrics_url
        self._load, self._ask = load, ask
        self._gpus, self._callers = gpus, callers  # callers of each GPU
        self._next_picture = 0

    def run(self, options: argparse.Namespace) -> dict[str, Any]:
        """The figures of each part; written to standard error as soon as there are any."""
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "load": partial(self.load, options.each),
            "follow-ups": partial(self.follow_ups, options.conversation_tokens),
        }
        if self._gpus > 1:
            parts["kill"] = self.kill
        figures: dict[str, Any] = {}
        for part in options.parts:
            if part in parts:
                name = part.replace("-", "_")
                figures[name] = parts[part]()
                print(json.dumps({name: figures[name]}), file=sys.stderr, flush=True)
        return figures

    def load(self, each: int) -> dict[str, Any]:
        """A closed loop with new pictures, after a warm-up of one request of each caller."""
        callers = self._callers * self._gpus
        self._load.run(closed_loop, self._shares(self._new_pictures(callers), self._ask))
        before = CpuTimes.now()
        shares = self._shares(self._new_pictures(callers * each), self._ask)
        work = self._load.run(closed_loop, shares)
        return summary(work) | {"callers": callers, "cores": CpuTimes.now().cores_since(before)}

    def follow_ups(self, answer_tokens: int) -> dict[str, Any]:
        """Conversations of all callers at once; the share of prompt tokens that pages of earlier prompts held."""
        ask = replace(self._ask, answer_tokens=answer_tokens)
        names = (PREFIX, PROMPT, FOUND, ENCODED)
        before = self._settled(names)
        number = self._callers * self._gpus
        arguments = [(self._url, ask, share, TURNS) for share in _split(self._new_pictures(number), self._load.number)]
        work = self._load.run(conversations, arguments)
        prompt_tokens = sum(each.prompt_tokens for one in work for each in one.outcomes)
        after = self._settled(names, least={PROMPT: before[PROMPT] + prompt_tokens})
        used = {name: after[name] - before[name] for name in names}
        later = [each for one in work for each in one.outcomes if each.turn and not each.failure]
        return summary(work) | {
            "conversations": number,
            "turns": TURNS,
            "follow_up_first_token_s": _percentiles([each.first_token_s for each in later]),
            "prefix_share": round(used[PREFIX] / used[PROMPT], 4) if used[PROMPT] else 0.0,
            "prefix_tokens": int(used[PREFIX]),
            "prompt_tokens_counted": int(used[PROMPT]),
            "pictures_encoded": int(used[ENCODED]),
            "pictures_found": int(used[FOUND]),
        }

    def kill(self) -> dict[str, Any]:
        """One engine process is killed under load; throughput before, until the replica is back, and after."""
        known = self._replicas()
        victim = engines()[0]
        pictures = self._new_pictures(KILL_PICTURES * self._gpus)
        self._load.start(until_stopped, self._shares(pictures, self._ask), stoppable=True)
        began = time.time()
        time.sleep(KILL_AFTER_S)
        victim.kill()
        killed = time.time()
        back: float | None = None
        while back is None and time.time() < killed + RESTART_LIMIT_S:
            time.sleep(1)
            if replicas(self._metrics_url) - known and len(engines()) == self._gpus:
                back = time.time()
        time.sleep(AFTER_RESTART_S)
        stopped = time.time()
        self._load.stop.set()
        outcomes = [each for work in self._load.results() for each in work.outcomes]
        failed = [each for each in outcomes if each.failure]
        end_of_outage = back or stopped
        rate = partial(completed_per_s, outcomes)
        return {
            "requests": len(outcomes),
            "in_flight_when_killed": sum(each.began < killed < each.ended for each in outcomes),
            "failed": len(failed),
            "failed_that_began_after_it": sum(each.began > killed for each in failed),
            "failures": sorted({each.failure for each in failed})[:5],
            "replica_back_after_s": round(back - killed, 1) if back else None,
            "requests_per_s_before": rate(began + KILL_AFTER_S / 3, killed),
            "requests_per_s_without_it": rate(killed + 2, end_of_outage),
            "requests_per_s_after": rate(end_of_outage + AFTER_RESTART_S / 3, stopped),
            "requests_by_5_s": [
                sum(start <= each.ended - began < start + 5 and not each.failure for each in outcomes)
                for start in range(0, int(stopped - began), 5)
            ],
        }

    def _replicas(self) -> set[str]:
        """The names of all engine replicas."""
        limit, found = time.monotonic() + EXPORT_LIMIT_S, set[str]()
        while len(found) < self._gpus and time.monotonic() < limit:
            found |= replicas(self._metrics_url)
            time.sleep(1)
        return found

    def _shares(self, pictures: Sequence[int], ask: Questions) -> list[tuple[str, Questions, Sequence[int], int]]:
        """The arguments of each client process: its pictures and its callers."""
        callers = self._callers * self._gpus // self._load.number
        return [(self._url, ask, share, callers) for share in _split(pictures, self._load.number)]

    def _new_pictures(self, number: int) -> range:
        first, self._next_picture = self._next_picture, self._next_picture + number
        return range(first, first + number)

    def _settled(self, names: Sequence[str], least: dict[str, float] | None = None) -> dict[str, float]:
        """Counters that did not change for two exports, and have reached `least`."""
        limit, seen = time.monotonic() + EXPORT_LIMIT_S, dict[str, float]()
        while time.monotonic() < limit:
            values = counters(self._metrics_url, *names)
            if values == seen and all(values[name] >= value for name, value in (least or {}).items()):
                return values
            seen = values
            time.sleep(2 * int(METRICS_MS) / 1000)
        print(f"The counters did not settle: {seen}, expected at least {least}.", file=sys.stderr, flush=True)
        return seen


def summary(work: Sequence[Work]) -> dict[str, Any]:
    """Rates and times of a closed loop; `middle`: completed in the middle half of the time, without start and end."""
    outcomes = [each for one in work for each in one.outcomes]
    answers = [each for each in outcomes if not each.failure]
    began, ended = min(each.began for each in outcomes), max(each.ended for each in outcomes)
    for failure in sorted({each.failure for each in outcomes if each.failure})[:3]:
        print(f"failed: {failure}", file=sys.stderr, flush=True)
    quarter = (ended - began) / 4
    return {
        "requests": len(answers),
        "failures": len(outcomes) - len(answers),
        "requests_per_s": round(len(answers) / (ended - began), 2),
        "middle_requests_per_s": completed_per_s(outcomes, began + quarter, ended - quarter),
        "first_token_s": _percentiles([each.first_token_s for each in answers]),
        "later_first_token_s": _percentiles([each.first_token_s for each in answers if each.turn]),  # without the burst
        "latency_s": _percentiles([each.ended - each.began for each in answers]),
        "gap_s": _percentiles([gap for each in answers for gap in each.gaps_s], (50, 99)),
        "prompt_tokens": round(sum(each.prompt_tokens for each in answers) / max(1, len(answers))),
        "answer_tokens": round(sum(each.answer_tokens for each in answers) / max(1, len(answers)), 1),
        "client_cpu_shares": [one.cpu_share for one in work],  # of each client process
    }


def completed_per_s(outcomes: Sequence[Outcome], start: float, end: float) -> float:
    """Answers that ended in this time of the machine's clock, a second."""
    return round(sum(start <= each.ended < end and not each.failure for each in outcomes) / max(end - start, 1e-9), 2)


def _percentiles(seconds: list[float], percents: tuple[int, ...] = (50, 95)) -> dict[str, float]:
    return {f"p{percent}": round(percentile(seconds, percent), 4) for percent in percents} if seconds else {}


def _split(pictures: Sequence[int], parts: int) -> list[Sequence[int]]:
    return [pictures[part::parts] for part in range(parts)]


def _server(options: argparse.Namespace, way: str, gpus: int, callers: int, settings: dict[str, str]) -> peers.Server:
    settings = {
        **settings,
        "GLM_ENGINE__MAX_SLOTS": str(options.slots or callers),
        "GLM_REPLICAS__ENGINE": str(gpus),
        "GLM_MODEL__DEVICE": options.device,
        "RAY_metrics_report_interval_ms": METRICS_MS,
        "GLM_METRICS__REFRESH_S": "1",  # Ray drops a gauge that is not set again for two intervals
    }
    return (peers.ours if way == "direct" else peers.ours_behind_haproxy)(options.model, options.port, settings)


@contextmanager
def _pictures(options: argparse.Namespace, callers: int) -> Iterator[Path]:
    """A folder with as many pictures as one service is asked about, drawn by all cores."""
    width, _, height = options.picture.partition("x")
    most = max(options.gpus)
    count = callers * most * (1 + options.each) * ("load" in options.parts)
    count += callers * most * ("follow-ups" in options.parts)
    count += KILL_PICTURES * most * ("kill" in options.parts and most > 1)
    with tempfile.TemporaryDirectory(dir=options.pictures) as folder:
        draw = partial(_draw, Path(folder), int(width), int(height))
        started = time.monotonic()
        with ProcessPoolExecutor() as pool:
            list(pool.map(draw, range(count), chunksize=4))
        print(f"{count} pictures drawn in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        yield Path(folder)


def _draw(folder: Path, width: int, height: int, number: int) -> None:
    picture_file(folder, number).write_bytes(photograph(width, height, number))
