"""When the cluster that was joined counts as gone."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("ray")

from orchestrator.workers.ray import watching
from orchestrator.workers.ray.watching import Watch


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str | Exception | None]:
    """What the cluster says, one after the other; None for nothing. The last one is said for ever."""
    answers: list[str | Exception | None] = []

    async def identity() -> str:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(watching, "cluster_identity", identity)
    return answers


async def test_the_same_cluster_is_there_and_another_is_not(told):
    told.extend(["one", "one", "two"])
    watch = Watch("one")
    assert [await watch.is_gone(within_s=5) for _ in range(3)] == [False, False, True]
    told[:] = [""]
    assert await watch.is_gone(within_s=5)


async def test_a_cluster_that_fails_three_times_in_a_row_is_gone(told):
    told.extend([RuntimeError("a"), RuntimeError("b"), "one", *[RuntimeError("c")] * 3])
    watch = Watch("one")
    assert [await watch.is_gone(within_s=5) for _ in range(6)] == [False, False, False, False, False, True]


async def test_one_that_says_nothing_for_long_is_gone_and_is_asked_only_once(told, monkeypatch):
    told.extend([None, "never asked"])
    watch = Watch("one")
    assert not await watch.is_gone(within_s=0.01)
    monkeypatch.setattr(watching, "_SILENT_S", -1.0)
    assert await watch.is_gone(within_s=0.01)
    assert told == ["never asked"]
    watch.close()
