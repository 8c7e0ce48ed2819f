"""Scores of a pool that was recorded without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench.recorded.pool import PoolWriter, read_pool
from orchestrator.bench.recorded.scoring import score_again
from orchestrator.errors import CapabilityMissing, EngineFailed
from orchestrator.testing import ScriptedEngine, babble
from orchestrator.testing.scripted_abilities import ScriptedJudge

from .pools import a_header, a_problem, a_sample


def plain(path: Path) -> Path:
    writer = PoolWriter(path, a_header(num_samples=3))
    for name in ("one", "two"):
        writer.append(a_problem(name, [a_sample("a\n\nb"), a_sample("c"), a_sample("a\n\nb")]))
    return writer.finish([])


async def test_every_sample_gets_a_reward_for_each_step_and_keeps_the_rest(tmp_path: Path) -> None:
    source = plain(tmp_path / "plain.pool.xz")
    judge = ScriptedJudge(babble(), name="judge")
    told: list[tuple[int, int]] = []
    target = await score_again(
        source, tmp_path / "scored.pool.xz", {"prm": judge}, on_progress=lambda *now: told.append(now)
    )
    before, after = read_pool(source), read_pool(target)
    assert list(after.header.scorers) == ["prm"]
    assert [problem.id for problem in after.problems.values()] == ["<one>", "<two>"]
    for name, problem in after.problems.items():
        assert [sample.text for sample in problem.samples] == [sample.text for sample in before.problems[name].samples]
        assert [len(sample.scores["prm"].steps) for sample in problem.samples] == [2, 1, 2]
    assert told[-1] == (2, 2)
    assert len(judge.judged) == 2 * 3  # equal texts once


async def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = plain(tmp_path / "plain.pool.xz")
    whole = await score_again(source, tmp_path / "whole.pool.xz", {"prm": ScriptedJudge(babble(), name="judge")})

    class Dying(ScriptedJudge):
        async def reward_steps(self, prompt, steps, **options):  # type: ignore[no-untyped-def, override]
            if prompt.messages[0].content == "two":
                raise EngineFailed("it died", model="judge")
            return await super().reward_steps(prompt, steps, **options)

    with pytest.raises(EngineFailed):
        await score_again(source, tmp_path / "again.pool.xz", {"prm": Dying(babble(), name="judge")})
    again = await score_again(source, tmp_path / "again.pool.xz", {"prm": ScriptedJudge(babble(), name="judge")})
    assert read_pool(again).problems == read_pool(whole).problems


async def test_a_model_that_scores_no_steps_is_refused(tmp_path: Path) -> None:
    source = plain(tmp_path / "plain.pool.xz")
    with pytest.raises(CapabilityMissing):
        await score_again(source, tmp_path / "scored.pool.xz", {"prm": ScriptedEngine(babble())})
