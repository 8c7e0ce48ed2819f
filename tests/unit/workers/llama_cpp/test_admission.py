"""Who goes next, and how a batch is shared out."""

from __future__ import annotations

from orchestrator.workers.llama_cpp.admission import FairQueue, plan_batch, should_wait_for
from orchestrator.workers.llama_cpp.pace import Pace
from orchestrator.workers.llama_cpp.work import Job, Reading, Scoring


def job(tree_id: str, *, num_tasks: int = 4, priority: int = 0) -> Job:
    made = Job(tree_id=tree_id, salt="", priority=priority, deadline=None)
    made.waiting.extend(Reading(made, [1, 2, 3]) for _ in range(num_tasks))
    return made


def admitted(queue: FairQueue, count: int) -> list[object]:
    order = []
    for _ in range(count):
        chosen = queue.ordered()[0]
        task = chosen.waiting.popleft()
        chosen.live.add(task)
        queue.served(chosen)
        order.append(chosen.fairness_key)
    return order


def test_trees_take_turns_however_many_requests_each_has() -> None:
    queue = FairQueue(8)
    for name in ("wide", "wide", "wide", "narrow"):
        queue.add(job(name))
    assert admitted(queue, 6) == ["wide", "narrow", "wide", "narrow", "wide", "narrow"]


def test_a_smaller_priority_goes_first() -> None:
    queue = FairQueue(8)
    queue.add(job("later", priority=5))
    queue.add(job("sooner", priority=-1, num_tasks=2))
    assert admitted(queue, 3) == ["sooner", "sooner", "later"]


def test_a_prompt_waits_for_another_that_it_can_share() -> None:
    owner = job("a", num_tasks=0)
    reading = Reading(owner, list(range(100)))
    same, other = Reading(owner, [*range(90), 7]), Reading(owner, [5, *range(90)])
    assert should_wait_for(same, [reading], 0)
    assert not should_wait_for(same, [reading], 80)
    assert not should_wait_for(other, [reading], 0)


def test_a_batch_has_one_token_for_every_writer_and_shares_the_rest_among_readers() -> None:
    owner = job("a", num_tasks=0)
    writer, short, long = (Reading(owner, list(range(count))) for count in (1, 10, 1000))
    slices = plan_batch([long, writer, short], pace=Pace(101, is_fixed=True), max_outputs=8)
    assert [(part.task, part.start, part.num_tokens) for part in slices] == [
        (writer, 0, 1),
        (short, 0, 10),
        (long, 0, 90),
    ]


def test_a_batch_never_asks_for_more_rows_of_logits_than_there_is_room_for() -> None:
    owner = job("a", num_tasks=0)
    scoring = Scoring(owner, [1, 2, 3], [4] * 100)
    (part,) = plan_batch([scoring], pace=Pace(512, is_fixed=True), max_outputs=10)
    assert part.num_tokens == 2 + 10
