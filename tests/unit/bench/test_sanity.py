"""The checks of the instrument: they pass on what is right, and fail on what is made wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.bench import sanity
from orchestrator.bench.problems import Problem
from orchestrator.bench.recorded.pool import Pool, read_pool
from orchestrator.bench.recorded.recording import record
from orchestrator.bench.runs.rows import Row
from orchestrator.sampling import Sampling
from orchestrator.testing import ScriptedEngine


class Doubles:
    """What is twice the number? The script answers right in about half of its samples."""

    name = "doubles"
    answer_kind = "exact"
    max_sample_tokens = 64
    problems: Sequence[Problem] = tuple(Problem(str(number), f"Twice {number}?") for number in range(12))

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        return answer == "right"


async def recorded(tmp_path: Path) -> Pool:
    replies = [f"So it is \\boxed{{{word}}}" for word in ("right", "wrong", "right", "false", "bad")]
    engine = ScriptedEngine(replies)
    path = tmp_path / "doubles.pool.xz"
    await record(engine, Doubles(), num_samples=20, sampling=Sampling(temperature=1.0), seed=1, path=path)
    return read_pool(path)


def rows_of(pool: Pool, label: str, *, is_replayed: bool = True, right: float = 0.5) -> list[Row]:
    return [
        Row(
            suite="s",
            set=pool.header.set,
            problem=name,
            label=label,
            model=pool.name,
            budget="tokens=100",
            seed=1,
            policy="best_of_n",
            is_correct=index < right * len(pool.problems),
            is_replayed=is_replayed,
        )
        for index, name in enumerate(pool.problems)
    ]


async def test_the_formula_agrees_with_counting(tmp_path: Path) -> None:
    found = sanity.counted_pass_at(await recorded(tmp_path), 4)
    assert found["agrees"]
    assert 0.3 < found["counted"] < 1.0


async def test_counting_notices_a_biased_formula(tmp_path: Path, monkeypatch) -> None:
    pool = await recorded(tmp_path)
    monkeypatch.setattr(sanity, "pass_at", lambda k, total, right: 1 - (1 - right / total) ** k)  # with replacement
    assert not sanity.counted_pass_at(pool, 4)["agrees"]


async def test_an_oracle_that_misses_is_noticed(tmp_path: Path) -> None:
    pool = await recorded(tmp_path)
    good = sanity.oracle_against_pass_at(pool, rows_of(pool, "oracle-16", right=1.0), 16)
    bad = sanity.oracle_against_pass_at(pool, rows_of(pool, "oracle-16", right=0.2), 16)
    assert good is not None
    assert bad is not None
    assert good["agrees"]
    assert not bad["agrees"]
    assert sanity.oracle_against_pass_at(pool, [], 16) is None


async def test_live_jobs_are_compared_with_the_same_cells_only(tmp_path: Path) -> None:
    pool = await recorded(tmp_path)
    replayed = rows_of(pool, "single") + rows_of(pool, "other")
    live = rows_of(pool, "single", is_replayed=False)[:6]
    (cell,) = sanity.replayed_against_live(replayed, live)
    assert (cell["label"], cell["problems"], cell["agrees"]) == ("single", 6, True)
    wrong = rows_of(pool, "single", is_replayed=False, right=0.0)
    (cell,) = sanity.replayed_against_live(rows_of(pool, "single", right=1.0), wrong)
    assert not cell["agrees"]


async def test_the_page_names_every_check_and_failures_are_told(tmp_path: Path) -> None:
    pool = await recorded(tmp_path)
    rows = rows_of(pool, "oracle-4", right=0.0) + rows_of(pool, "oracle-16", right=0.0)
    result = sanity.check([pool], rows, [])
    page = sanity.page(result)
    assert "doubles" in page
    assert "**no**" in page
    assert sanity.failures(result) == ["2 of 2 cells of oracle", "there are no rows for live"]
