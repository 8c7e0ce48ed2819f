"""Runs of a suite: which jobs there are, what a row says of one, failures, interruption and going on."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.bench.problems import Problem
from orchestrator.bench.runs.plan import Plan
from orchestrator.bench.runs.row_file import RowFile
from orchestrator.bench.runs.rows import Row, append_rows, read_rows
from orchestrator.bench.runs.running import BenchRun
from orchestrator.bench.runs.scenarios import Scenario
from orchestrator.bench.runs.suite import Suite, read_suite
from orchestrator.bench.runs.tally import cells
from orchestrator.config import Settings
from orchestrator.engine import Capability, Engine
from orchestrator.errors import InvalidRequest, JobConflict
from orchestrator.testing import Fault, FaultKind, Latency, ScriptedEngine, arithmetic, babble, choices
from orchestrator.testing.scripted import ALL_CAPABILITIES
from orchestrator.testing.scripts import ScriptLike
from orchestrator.verifier import Candidate, Meter

SETTINGS = Settings(model="scripted:arithmetic")
NUMBERS = ("3 + 4 * 2", "8 * 2 - 5", "6 + 6 * 6", "9 - 4 + 1")
ANSWERS = ("11", "11", "42", "6")
SINGLE = '[[policies]]\npolicy = "single"\n'
VOTE = '[[policies]]\npolicy = "self_consistency"\nparams = {n = 3}\n'


@dataclass(frozen=True)
class Sums:
    """Four problems; a `ProblemSet`."""

    name: str = "sums"
    answer_kind: str = "exact"
    max_sample_tokens: int = 300
    problems: tuple[Problem, ...] = tuple(
        Problem(f"p{index}", f"What is {text}?", reference=answer)
        for index, (text, answer) in enumerate(zip(NUMBERS, ANSWERS, strict=True))
    )

    def is_correct(self, problem: Problem, answer: str | None) -> bool:
        if answer == "unreadable":
            raise ValueError("no number")
        return answer == problem.reference


def suite(tmp_path: Path, policies: str, *, budgets: str = '["tokens=900"]', seeds: str = "[1]") -> Suite:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nbudgets = {budgets}\nseeds = {seeds}\n[[sets]]\nset = "unused"\n{policies}')
    return read_suite(path)


def scenario(small: str | Engine = "scripted:arithmetic", **others: str | Engine) -> Scenario:
    models: Mapping[str, str | Engine] = {"small": small, **others}
    problem_set = Sums()
    return Scenario(
        problem_set=problem_set,
        problems=problem_set.problems,
        models=models,
        model="toy",
        has_quick_check=True,
        max_sample_tokens=problem_set.max_sample_tokens,
    )


def ready(tmp_path: Path, wanted: Suite, where: Scenario) -> BenchRun:
    return BenchRun(Plan(wanted, [where]), RowFile(tmp_path / "rows.jsonl"), SETTINGS)


async def done(tmp_path: Path, wanted: Suite, where: Scenario, *, num_at_once: int = 3) -> tuple[BenchRun, list[Row]]:
    run = ready(tmp_path, wanted, where)
    with run.rows:
        await run.run(num_at_once=num_at_once)
    return run, list(read_rows(run.rows.path))


async def test_every_policy_gets_every_problem_under_every_budget_with_every_seed(tmp_path: Path):
    wanted = suite(tmp_path, SINGLE + VOTE, budgets='["tokens=200", ""]', seeds="[1, 2]")
    run, rows = await done(tmp_path, wanted, scenario())
    assert len(rows) == len({row.key for row in rows}) == run.progress.num_done == 4 * 2 * 2 * 2
    assert {(row.suite, row.set, row.model, row.is_replayed) for row in rows} == {("mine", "sums", "toy", False)}
    assert {(row.label, row.budget, row.seed) for row in rows} == {
        (label, budget, seed)
        for label in ("single", "self_consistency(n=3)")
        for budget in ("tokens=200", "")
        for seed in (1, 2)
    }
    assert all(row.usage["output_tokens"] <= 200 for row in rows if row.budget)
    assert {row.num_samples for row in rows if not row.budget and row.policy == "self_consistency"} == {3}


async def test_a_row_says_what_came_of_its_job(tmp_path: Path):
    _, rows = await done(tmp_path, suite(tmp_path, SINGLE), scenario())
    row = next(row for row in rows if row.problem == "p2")
    assert (row.answer, row.is_correct, row.stop_reason, row.num_samples) == ("42", True, "completed", 1)
    assert row.usage["output_tokens"] > 0
    assert (row.policy, row.params, row.error) == ("single", {}, None)


async def test_jobs_of_a_problem_share_their_seed_whatever_the_policy_and_the_budget(tmp_path: Path):
    wanted = suite(tmp_path, SINGLE + VOTE, budgets='["tokens=300", "tokens=900"]', seeds="[1, 2]")
    by_problem: dict[tuple[str, int], set[int]] = {}
    for job in Plan(wanted, [scenario()]).jobs():
        by_problem.setdefault((job.problem.id, job.seed), set()).add(job.job_seed)
    assert all(len(seeds) == 1 for seeds in by_problem.values())
    assert len({seed for seeds in by_problem.values() for seed in seeds}) == len(by_problem) == 8


async def test_jobs_of_one_problem_come_together_so_that_a_part_of_a_run_can_be_compared(tmp_path: Path):
    wanted = suite(tmp_path, SINGLE + VOTE, budgets='["tokens=300", "tokens=900"]')
    problems = [job.problem.id for job in Plan(wanted, [scenario()]).jobs()]
    assert problems == [problem for problem in ("p0", "p1", "p2", "p3") for _ in range(4)]


async def test_a_finished_job_is_not_run_again_and_new_ones_are_added(tmp_path: Path):
    await done(tmp_path, suite(tmp_path, SINGLE), scenario())
    engine = ScriptedEngine(arithmetic())
    run, rows = await done(tmp_path, suite(tmp_path, SINGLE, seeds="[1, 2]"), scenario(engine))
    assert (run.progress.num_skipped, run.progress.num_done, len(rows)) == (4, 4, 8)
    assert len(engine.log) == 4


async def test_what_an_interruption_cut_off_has_no_row_and_is_run_later(tmp_path: Path):
    slow = ScriptedEngine(arithmetic(), latency=Latency(token_s=0.02))
    wanted = suite(tmp_path, SINGLE)
    run = ready(tmp_path, wanted, scenario(slow))
    with run.rows:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run.run(num_at_once=2))
            await asyncio.sleep(0.1)
            run.stop()
    assert list(read_rows(run.rows.path)) == []
    _, rows = await done(tmp_path, wanted, scenario())
    assert len(rows) == 4


async def test_jobs_that_finished_before_an_interruption_keep_their_rows(tmp_path: Path):
    def at_last(call: int, _request: object) -> Fault | None:
        return Fault(kind=FaultKind.HANG) if call == 3 else None

    run = ready(tmp_path, suite(tmp_path, SINGLE), scenario(ScriptedEngine(arithmetic(), faults=at_last)))
    with run.rows:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run.run(num_at_once=4))
            while run.progress.num_done < 3:  # noqa: ASYNC110  # what is counted is no event
                await asyncio.sleep(0.01)
            run.stop()
    assert sorted(row.problem for row in read_rows(run.rows.path)) == ["p0", "p1", "p2"]


async def test_a_job_that_fails_counts_as_wrong_and_says_why(tmp_path: Path):
    def second(_call: int, request: object) -> Fault | None:
        return Fault(is_retryable=False, message="no power") if "8 * 2" in str(request) else None

    run, rows = await done(tmp_path, suite(tmp_path, SINGLE), scenario(ScriptedEngine(arithmetic(), faults=second)))
    failed = {row.problem: row for row in rows if row.error}
    assert set(failed) == {"p1"}
    assert "no power" in (failed["p1"].error or "")
    assert not failed["p1"].is_correct
    assert (run.progress.num_done, run.progress.num_failed) == (4, 1)


async def test_failed_rows_can_be_taken_out_and_their_jobs_run_again(tmp_path: Path):
    broken = ScriptedEngine(arithmetic(), faults=lambda _call, _request: Fault(is_retryable=False))
    wanted = suite(tmp_path, SINGLE)
    await done(tmp_path, wanted, scenario(broken))
    with RowFile(tmp_path / "rows.jsonl") as rows:
        assert rows.drop(lambda row: row.error is not None) == 4
        assert rows.keys == set()
    _, again = await done(tmp_path, wanted, scenario())
    assert [row.error for row in again] == [None] * 4


async def test_a_checker_that_raises_fails_its_job_and_no_other(tmp_path: Path):
    script = choices({"It is \\boxed{unreadable}.": 1.0})
    _, rows = await done(tmp_path, suite(tmp_path, SINGLE), scenario(ScriptedEngine(script)))
    assert [row.error for row in rows] == ["checking the answer failed: ValueError('no number')"] * 4


@pytest.mark.parametrize("script", ["I do not know.", babble()])
@pytest.mark.parametrize("lacking", [frozenset(), {Capability.CONTINUE}], ids=["may conclude", "cannot conclude"])
async def test_no_answer_is_wrong_and_no_failure(tmp_path: Path, script: ScriptLike, lacking: frozenset[Capability]):
    engine = ScriptedEngine(script, capabilities=ALL_CAPABILITIES - lacking)
    run, rows = await done(tmp_path, suite(tmp_path, SINGLE + VOTE), scenario(engine))
    assert [(row.is_correct, row.error) for row in rows] == [(False, None)] * 8
    assert all(row.usage["output_tokens"] > 0 for row in rows)
    assert run.plan.refusals == []


async def test_the_oracle_finds_the_right_answer_wherever_a_sample_has_it(tmp_path: Path):
    policies = (
        '[[policies]]\npolicy = "best_of_n"\nparams = {n = 12}\nverifier = "oracle"\n'
        '[[policies]]\npolicy = "self_consistency"\nparams = {n = 12}\n'
    )
    script = choices({"\\boxed{5}": 0.7, "\\boxed{11}": 0.1, "\\boxed{42}": 0.1, "\\boxed{6}": 0.1})
    run, rows = await done(tmp_path, suite(tmp_path, policies, seeds="[1, 2, 3]"), scenario(ScriptedEngine(script)))
    oracle, vote = cells(run.plan, rows).values()
    assert vote.accuracy < 0.2 < 0.6 < oracle.accuracy  # 1 - 0.9 ** 12 is 0.72, and 0.96 where 11 is right


async def test_a_policy_that_needs_a_large_model_is_left_out_where_there_is_none(tmp_path: Path):
    wanted = suite(tmp_path, SINGLE + '[[policies]]\npolicy = "cascade"\n')
    run, rows = await done(tmp_path, wanted, scenario())
    assert {row.label for row in rows} == {"single"}
    (refusal,) = run.plan.refusals
    assert (refusal.label, refusal.budget, refusal.is_replayed) == ("cascade", None, False)
    assert "there is no large model; name one with --large" in refusal.reason


async def test_a_configured_large_model_takes_no_part_unless_it_is_named(tmp_path: Path):
    settings = SETTINGS.model_copy(update={"large": "scripted:none-such"})
    run = BenchRun(Plan(suite(tmp_path, SINGLE), [scenario()]), RowFile(tmp_path / "rows.jsonl"), settings)
    with run.rows:
        await run.run(num_at_once=1)
    assert run.progress.num_done == 4


@pytest.mark.parametrize(
    ("policy", "others", "roles"),
    [
        ('policy = "single"', ("large", "verifier"), {"small"}),
        ('policy = "single"\nparams = {model = "large"}', ("large", "verifier"), {"small", "large"}),
        ('policy = "cascade"', ("large", "verifier"), {"small", "large"}),
        ('policy = "best_of_n"', ("large", "verifier"), {"small", "verifier"}),
        ('policy = "best_of_n"', ("large",), {"small", "large"}),
        ('policy = "best_of_n"\nverifier = "oracle"', ("large", "verifier"), {"small"}),
        ('policy = "best_of_n"\nverifier = "majority"', ("large", "verifier"), {"small"}),
    ],
)
def test_models_that_no_policy_asks_for_are_not_opened(
    tmp_path: Path, policy: str, others: tuple[str, ...], roles: set[str]
):
    where = scenario(**dict.fromkeys(others, "scripted:none-such"))
    assert set(Plan(suite(tmp_path, f"[[policies]]\n{policy}\n"), [where]).models_of(where)) == roles


async def test_what_turns_out_to_be_impossible_is_left_out_with_all_its_rows(tmp_path: Path):
    # The first text is cut, which ends the policy's only round; the others would have to go on.
    words = {"3 + 4": "Well, let me see. " * 9, "": "It is \\boxed{5}."}
    engine = ScriptedEngine(words, capabilities=ALL_CAPABILITIES - {Capability.CONTINUE})
    forcing = '[[policies]]\npolicy = "budget_forcing"\nlabel = "forced"\nparams = {max_thinking_tokens = 20}\n'
    run = ready(tmp_path, suite(tmp_path, SINGLE + forcing), scenario(engine))
    with run.rows:
        await run.run(num_at_once=1)
    assert {row.label for row in read_rows(run.rows.path)} == {"single"}
    (refusal,) = run.plan.refusals
    assert (refusal.label, refusal.budget) == ("forced", None)
    assert "continuing a partial reply" in refusal.reason
    assert (run.progress.num_jobs, run.progress.num_done) == (4, 4)


class Dizzy:
    """A verifier that falls over."""

    name = "majority"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        raise RuntimeError("all is turning")


async def test_texts_that_a_verifier_could_not_score_are_counted(tmp_path: Path):
    wanted = suite(tmp_path, '[[policies]]\npolicy = "best_of_n"\nparams = {n = 2, verifier = "majority"}\n')
    dizzy = replace(wanted, strategies=(replace(wanted.strategies[0], verifier=Dizzy()),))
    run, rows = await done(tmp_path, dizzy, scenario())
    assert [row.error for row in rows] == [None] * 4
    assert run.progress.num_unscored == 4 * 2
    assert "all is turning" in run.progress.unscored_reason


def test_rows_of_a_label_with_other_parameters_are_not_mixed(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    other = Row(suite="mine", set="sums", problem="p0", label="single", model="toy", budget="", seed=1, policy="x")
    append_rows(path, [other])
    with RowFile(path) as rows, pytest.raises(InvalidRequest, match="'single' with other parameters") as caught:
        BenchRun(Plan(suite(tmp_path, SINGLE), [scenario()]), rows, SETTINGS)
    assert caught.value.field == "out"


def test_one_process_at_a_time_writes_to_a_file(tmp_path: Path):
    with RowFile(tmp_path / "rows.jsonl"), pytest.raises(JobConflict, match="another process"):
        RowFile(tmp_path / "rows.jsonl")


def test_a_file_of_something_else_is_not_written_to(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n')
    with pytest.raises(InvalidRequest, match="line 1, is no row"):
        RowFile(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InvalidRequest, match="cannot read"):
        RowFile(path)
    RowFile(tmp_path / "other.jsonl").__exit__()  # the lock of the first is free again
    assert path.read_bytes() == b"\xff\xfe\n"


def test_rows_are_in_the_file_when_it_is_closed_and_after_each_second(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    row = Row(suite="mine", set="sums", problem="p0", label="single", model="toy", budget="", seed=1, policy="x")
    with RowFile(path) as rows:
        rows.add(row)
        assert path.read_text() == ""
        rows.flush()
        assert json.loads(path.read_text())["problem"] == "p0"
        rows.add(row.model_copy(update={"problem": "p1"}))
    assert [held.problem for held in read_rows(path)] == ["p0", "p1"]


def test_looking_at_rows_makes_no_file(tmp_path: Path):
    with RowFile(tmp_path / "rows.jsonl", is_read_only=True) as rows:
        assert list(rows) == []
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_cap_on_seconds_and_other_sampling_cannot_be_replayed(tmp_path: Path):
    hot = '[[policies]]\npolicy = "single"\nlabel = "hot"\nsampling = {temperature = 2.0}\n'
    judged = '[[policies]]\npolicy = "best_of_n"\n'
    wanted = suite(tmp_path, SINGLE + hot + judged, budgets='["tokens=90", "seconds=3"]')
    plan = Plan(wanted, [replace(scenario(), is_replayed=True)])
    told = {(refusal.label, refusal.budget): refusal.reason for refusal in plan.refusals}
    assert set(told) == {("single", "seconds=3"), ("hot", None), ("best_of_n", None)}
    assert "a cap on seconds means nothing" in told["single", "seconds=3"]
    assert "temperature=2.0" in told["hot", None]
    assert "the pool holds no scores" in told["best_of_n", None]
    assert {(job.strategy.label, job.budget_text) for job in plan.jobs()} == {("single", "tokens=90")}
