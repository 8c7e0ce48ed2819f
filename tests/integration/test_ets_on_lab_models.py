"""ETS with the lab's models: the model that writes the steps embeds them too, while it writes those of another job."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import Orchestrator
from orchestrator.bench.lab.opening import open_lab
from orchestrator.bench.sets import open_set
from orchestrator.config import Settings
from orchestrator.job import JobState
from orchestrator.workers.llama_cpp import LlamaCppEngine

pytestmark = pytest.mark.model


async def test_the_hidden_states_of_the_generator_tell_its_steps_apart_while_it_writes_others() -> None:
    pytest.importorskip("llama_cpp")
    problems = open_set("countdown@3", count=2, seed=3)
    small, prm = await open_lab("small", Settings()), await open_lab("prm", Settings())
    try:
        async with Orchestrator(small, roles={"verifier": prm}) as ttc:
            jobs = [
                ttc.solve(
                    problem.text,
                    messages=problem.messages,
                    policy="ets",
                    params={"width": 8, "max_depth": 4},
                    answer=problems.answer_kind,
                )
                for problem in problems.problems
            ]
            results = await asyncio.gather(*jobs)
            journals = [await ttc.store.read(result.job_id) for result in results]
        assert isinstance(small, LlamaCppEngine)
        await small.check_integrity()
    finally:
        await small.aclose()
        await prm.aclose()
    for result, journal in zip(results, journals, strict=True):
        assert result.state is JobState.SUCCEEDED
        actions = [row.data for row in journal if row.kind == "done"]
        embeds = [action for action in actions if action["action"]["type"] == "Embed"]
        assert embeds
        assert not any("error" in action for action in actions)
        clusterings = [
            action["outcome"]["value"]
            for action in actions
            if action["action"].get("fn", "").endswith(":cluster_labels")
        ]
        assert [len(labels) for labels in clusterings] == [len(embed["action"]["nodes"]) for embed in embeds]
        assert max(max(labels) for labels in clusterings) > 0, "different steps are in different clusters"
