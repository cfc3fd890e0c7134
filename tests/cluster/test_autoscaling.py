"""Replicas and nodes come and go with the load, under the chart's own policy, and no request is lost.

A real Ray with a real autoscaler; nodes are processes of this machine (fake_nodes.py) and the demo model runs on the
CPU although each engine asks for a GPU. Serve configuration and worker groups are those that the chart renders for a
cluster, but for bounds, delays and the proxies (`fitted`). One run is told by all tests of this file.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import httpx
import pytest

from tests.cluster.fake_nodes import Cluster, cluster
from tests.cluster.load import Asked, Load, Seen, Watch
from tests.cluster.questions import chat_body, questions
from tests.cluster.rendered import Rendered, fitted, groups, rendered

pytestmark = pytest.mark.cluster

MOST = 3
CALLERS = 16
SLOTS = 4  # of each engine: sixteen callers ask for more than three of them
POLLS = 5  # seconds at zero


@dataclass
class Story:
    """What happened, in this order."""

    served_by_three: int = 0  # requests answered while there were three replicas
    polled: list[int] = field(default_factory=list)  # status codes at zero
    after_polls: Seen | None = None
    readyz: int = 0
    first_questions: list[Asked] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    config = rendered("values-cluster.yaml", slots=SLOTS)
    told = Story()
    with cluster(tmp_path_factory.mktemp("nodes"), groups(config, most=MOST)) as running:
        running.deploy(fitted(config, least=1, most=MOST))
        running.until(lambda: running.application()["status"] == "RUNNING", "the application runs", limit_s=90)
        asyncio.run(tell(running, config, told))
    return told


async def tell(running: Cluster, config: Rendered, told: Story) -> None:
    bodies = (chat_body(each, stream=turn % 2 == 0) for turn, each in enumerate(itertools.cycle(questions(per_job=20))))
    async with httpx.AsyncClient(transport=running.transport(), base_url="http://service", timeout=120) as client:
        load = Load(client, bodies)
        watch = Watch(running, load)
        told.asked, told.seen = load.asked, watch.seen
        async with watch.open():
            (await client.get("/v1/models")).raise_for_status()
            load.set(CALLERS)
            await watch.until(replicas=3, gpu_nodes=3)
            before = len(load.asked)
            await asyncio.sleep(4)
            told.served_by_three = len(load.asked) - before
            load.set(1)  # somebody asks on while replicas go
            await watch.until(replicas=1, gpu_nodes=1)
            load.set(0)
            await load.all_answered()

            await asyncio.to_thread(running.deploy, fitted(config, least=0, most=MOST))
            await watch.until(replicas=0, gpu_nodes=0)
            for _ in range(POLLS):
                for path in ("/healthz", "/v1/models", "/v1/models/glm-vision-demo", "/"):
                    told.polled.append((await client.get(path)).status_code)
                await asyncio.sleep(1)
            told.after_polls = watch.seen[-1]

            told.readyz = (await client.get("/readyz")).status_code
            with pytest.raises(httpx.TimeoutException):  # a caller who does not wait must not keep the engine awake
                await client.post("/v1/chat/completions", json=next(bodies), timeout=1)
            told.first_questions = await asyncio.gather(*(load.ask(next(bodies)) for _ in range(2)))
            await watch.until(replicas=1)
            await watch.until(replicas=0)


def directions(counts: list[int]) -> list[str]:
    """Where a number goes, however many steps it takes."""
    steps = ["up" if later > earlier else "down" for earlier, later in itertools.pairwise(counts) if later != earlier]
    return [step for step, _ in itertools.groupby(steps)]


def test_load_brings_three_replicas_on_three_nodes_and_they_answer(story: Story) -> None:
    first = next(seen for seen in story.seen if seen.replicas == 3)
    assert first.nodes == {"cpu": 1, "gpu": 3}
    assert story.served_by_three > 0


def test_replicas_and_nodes_follow_the_load_without_flapping(story: Story) -> None:
    there_and_back_twice = ["up", "down", "up", "down"]
    assert directions([seen.wanted for seen in story.seen]) == there_and_back_twice
    assert directions([seen.replicas for seen in story.seen]) == there_and_back_twice
    assert directions([seen.nodes.get("gpu", 0) for seen in story.seen])[:3] == there_and_back_twice[:3]
    assert max(seen.wanted for seen in story.seen) == MOST


def test_no_request_is_lost_on_the_way_up_or_down(story: Story) -> None:
    assert [asked for asked in story.asked if asked.failure] == []
    assert sum(asked.streamed for asked in story.asked) > 20
    assert sum(not asked.streamed for asked in story.asked) > 20


def test_at_zero_no_gpu_node_is_held(story: Story) -> None:
    assert story.after_polls is not None
    assert story.after_polls.nodes == {"cpu": 1}


def test_asking_for_models_or_health_wakes_no_engine(story: Story) -> None:
    assert set(story.polled) == {200}
    assert story.after_polls is not None
    assert (story.after_polls.replicas, story.after_polls.wanted) == (0, 0)


def test_the_first_questions_after_zero_wait_and_are_answered(story: Story) -> None:
    assert story.readyz == 503
    assert [asked.failure for asked in story.first_questions] == ["", ""]


def test_callers_who_gave_up_do_not_keep_the_engine_from_going_back_to_zero(story: Story) -> None:
    assert story.seen[-1].replicas == 0


def test_cpu_stages_never_stay_on_a_gpu_node(story: Story) -> None:
    assert len(story.seen) > 50
    assert not any(seen.stray for seen in story.seen)
