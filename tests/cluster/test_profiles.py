"""Every profile of the chart deploys on the Ray cluster that it describes, and answers where it should."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chart.render import PROFILES
from tests.cluster.nodes import PORT, Cluster, running
from tests.cluster.questions import chat_body, questions
from tests.cluster.releases import STAGES, release

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_deploys_and_answers_a_question_about_a_picture(profile: str, tmp_path: Path):
    rendered = release(profile)
    groups = {group["groupName"]: group for group in rendered["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    with running(tmp_path) as cluster:
        cluster.install(rendered)
        took_s = cluster.wait_until_running()
        figures.info(f"{profile}: {len(cluster.nodes)} pods, running after {took_s:.0f} s")
        group_of = {node.address: name.rpartition("-")[0] for name, node in cluster.nodes.items()}
        for stage in STAGES:
            homes = {group_of[replica["node_ip"]] for replica in cluster.replicas(stage)}
            assert homes, stage
            assert homes <= {name for name, group in groups.items() if stage in group["resources"]}, stage
        question = questions(1)[0]
        for worker in [node for node in cluster.nodes.values() if node.serves]:
            assert question["answer"] in answer(cluster, worker.address, chat_body(question))


def answer(cluster: Cluster, address: str, body: dict[str, Any]) -> str:
    url = f"http://{address}:{PORT}/v1/chat/completions"
    response = cluster.call(lambda: httpx.post(url, json=body, timeout=60, trust_env=False))
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text
