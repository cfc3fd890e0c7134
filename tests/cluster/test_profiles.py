"""Every profile of the chart deploys on the Ray cluster that it describes, and answers through every worker."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.chart.render import PROFILES
from tests.cluster.clients import ask_at_once
from tests.cluster.nodes import running
from tests.cluster.questions import chat_body, questions
from tests.cluster.release import STAGES, release

pytestmark = pytest.mark.cluster
figures = logging.getLogger("figures")  # seen with --log-cli-level=INFO


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_deploys_and_answers_a_question_about_a_picture(profile: str, tmp_path: Path):
    rendered = release(profile)
    groups = {group["groupName"]: group for group in rendered["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    with running(tmp_path) as cluster:
        cluster.install(rendered)
        took_s = cluster.wait_until_running(limit_s=240)
        figures.info(f"{profile}: {len(cluster.nodes)} pods, running after {took_s:.0f} s")
        group_of = {node.address: name.rpartition("-")[0] for name, node in cluster.nodes.items()}
        for stage in STAGES:
            used = {group_of[replica["node_ip"]] for replica in cluster.replicas(stage)}
            assert used, stage
            assert used <= {name for name, group in groups.items() if stage in group["resources"]}, stage
        question = questions(1)[0]
        for worker in [node for node in cluster.nodes.values() if node.serves]:
            address = worker.address
            (outcome,) = cluster.call(lambda address=address: ask_at_once(address, [chat_body(question)]), 90)
            assert not outcome.failure, outcome.failure
            assert question["answer"] in outcome.text
