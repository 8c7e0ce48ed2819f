"""The service without HTTP: chats that run here, and event streams from any point on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.api.service.requests import JobRequest
from orchestrator.api.service.security.principal import KeyLimits, Principal
from orchestrator.budget import Amount, Budget
from orchestrator.errors import (
    BudgetExhausted,
    InvalidRequest,
    ServiceStopping,
    StoreFailed,
    TooManyRequests,
    UnknownName,
)
from orchestrator.events import Event
from orchestrator.store import Claimed, JobRecord, JobState
from orchestrator.stores import MemoryStore
from orchestrator.testing import Latency

from .serving import JOB, SLOW, Serving, serving, until

REQUEST = JobRequest(**JOB)
WHO = Principal()


async def listened(here: Serving, who: Principal = WHO, request: JobRequest = REQUEST) -> list[Event]:
    return [event async for event in here.service.run_now(who, request)]


async def followed(here: Serving, job_id: str, after: int = -1) -> list[Event]:
    return [event async for event in here.service.events(WHO, job_id, after=after)]


# -- chats -----------------------------------------------------------------------------------------------------


async def test_a_chat_tells_its_events_from_started_to_result_and_is_a_job_like_any_other() -> None:
    async with serving() as here:
        events = await listened(here)
        (record,) = await here.store.list_jobs()
        rows = await here.store.read(record.id)
    assert (events[0].kind, events[-1].kind) == ("started", "result")
    assert events[-1].data["result"].text == "11"
    assert [event.seq for event in events if event.seq is not None] == [row.seq for row in rows]
    assert (record.state, record.epoch) == (JobState.SUCCEEDED, 1)


async def test_a_chat_is_never_in_the_queue() -> None:
    async with serving(latency=SLOW) as here:
        taken: list[Any] = []

        async def take() -> None:
            while True:
                taken.append(await here.store.take("elsewhere:1:x", lease_s=9))
                await asyncio.sleep(0)

        taking = asyncio.create_task(take())
        async with aclosing(here.service.run_now(WHO, REQUEST)) as events:
            async for event in events:
                if event.kind == "delta":
                    break
        taking.cancel()
    assert len(taken) > 5
    assert set(taken) == {None}


async def test_leaving_a_chat_stops_the_engine_at_once_and_books_what_it_has_cost() -> None:
    async with serving(latency=SLOW) as here:
        async with aclosing(here.service.run_now(WHO, REQUEST)) as events:
            async for event in events:
                if event.kind == "delta":
                    break
        tokens = (await here.engine.health()).output_tokens
        (record,) = await here.store.list_jobs()

        async def has_ended() -> bool:
            return (await here.store.get(record.id)).state.is_terminal

        await until(has_ended)
        ended = await here.store.get(record.id)
        after = await here.engine.health()
    assert ended.state is JobState.CANCELLED
    assert ended.result is not None
    assert after.live_sequences == 0
    assert after.output_tokens - tokens <= 2, "one decode step of two samples"
    assert ended.result["usage"]["output_tokens"] == after.output_tokens


async def test_a_chat_whose_listener_is_cancelled_ends_too() -> None:
    async with serving(latency=SLOW) as here:
        listening = asyncio.create_task(listened(here))

        async def has_begun() -> bool:
            return (await here.engine.health()).output_tokens > 0

        await until(has_begun)
        listening.cancel()
        await asyncio.wait([listening])

        async def has_ended() -> bool:
            return not here.service.chats.num_running

        await until(has_ended)
        (record,) = await here.store.list_jobs()
    assert record.state is JobState.CANCELLED


class Counting(MemoryStore):
    """Counts writes, and fails while it is told to."""

    is_full = False

    def __init__(self) -> None:
        super().__init__()
        self.first: list[bool] = []  # whether something was appended to each new job at once

    async def create(self, record: JobRecord, **options: Any) -> None:
        if self.is_full:
            raise StoreFailed("no space left")
        self.first.append(options.get("first") is not None)
        await super().create(record, **options)


async def test_a_whole_reply_is_stored_with_its_end_and_one_that_is_followed_or_paid_for_before_it_begins() -> None:
    store, whole = Counting(), {"kinds": {"started", "result"}}
    async with serving(store=store) as here:
        for options in (whole, {}):
            async with aclosing(here.service.run_now(WHO, REQUEST, **options)) as events:
                last = [event async for event in events][-1]
            assert (await here.store.get(last.data["result"].job_id)).state is JobState.SUCCEEDED
        capped = Principal(tenant="t", key_id="k", limits=KeyLimits(total=Budget(max_output_tokens=10_000)))
        async with aclosing(here.service.run_now(capped, REQUEST, **whole)) as events:
            assert [event.kind async for event in events] == ["started", "result"]
    assert store.first == [True, False, False]


async def test_of_a_store_that_fails_one_chat_finds_out_and_the_next_buy_nothing() -> None:
    store, whole = Counting(), {"kinds": {"started", "result"}}
    async with serving(store=store) as here:
        store.is_full = True
        async with aclosing(here.service.run_now(WHO, REQUEST, **whole)) as events:
            result = [event async for event in events][-1].data["result"]
        assert isinstance(result.error, StoreFailed)
        bought = (await here.engine.health()).requests
        with pytest.raises(StoreFailed):
            await anext(here.service.run_now(WHO, REQUEST, **whole))
        assert (await here.engine.health()).requests == bought
        store.is_full = False
        for _ in range(2):
            async with aclosing(here.service.run_now(WHO, REQUEST, **whole)) as events:
                assert [event.kind async for event in events] == ["started", "result"]
    assert store.first == [False, True]


class SlowToCreate(MemoryStore):
    """What is created is there at once, and acknowledged later."""

    async def create(self, *args: Any, **options: Any) -> None:
        await super().create(*args, **options)
        await asyncio.sleep(0.1)


async def test_a_chat_that_is_left_while_it_is_stored_ends_at_once_and_costs_nothing() -> None:
    who = Principal(tenant="t", key_id="k")
    async with serving(store=SlowToCreate(), who=who) as here:
        listening = asyncio.create_task(listened(here, who))
        await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.wait([listening])

        async def has_ended() -> bool:
            return not here.service.chats.num_running

        await until(has_ended)
        (record,) = await here.store.list_jobs()
        spent, set_aside = await here.store.spent("k", "total")
        num_requests = (await here.engine.health()).requests
    assert record.state is JobState.CANCELLED
    assert (spent, set_aside, num_requests) == (Amount(), Amount(), 0)


async def test_chats_beyond_the_concurrency_wait_and_those_beyond_the_bound_are_refused() -> None:
    async with serving(latency=Latency(token_s=0.005), chat_concurrency=1, max_chat_waiting=1) as here:
        chats = [asyncio.create_task(listened(here)) for _ in range(3)]
        await asyncio.wait(chats)
    outcomes = [chat.exception() for chat in chats]
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), TooManyRequests]


async def test_a_waiting_chat_that_is_left_gives_its_place_up() -> None:
    async with serving(latency=SLOW, chat_concurrency=1, max_chat_waiting=1) as here:
        first = asyncio.create_task(listened(here))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(listened(here))
        await asyncio.sleep(0.05)
        assert here.service.chats.num_waiting == 1
        second.cancel()
        await asyncio.wait([second])
        assert here.service.chats.num_waiting == 0
        first.cancel()
        await asyncio.wait([first])
        assert (await listened(here))[-1].kind == "result"
        assert len(await here.store.list_jobs()) == 2


async def test_one_tenant_may_not_run_more_chats_than_its_key_allows() -> None:
    who = Principal(tenant="t", key_id="k", limits=KeyLimits(max_running=1))
    async with serving(latency=SLOW) as here:
        first = asyncio.create_task(listened(here, who))
        await asyncio.sleep(0.05)
        with pytest.raises(TooManyRequests):
            await listened(here, who)
        first.cancel()
        await asyncio.wait([first])


async def test_a_chat_that_cannot_be_raises_before_its_first_event() -> None:
    async with serving() as here:
        with pytest.raises(InvalidRequest) as raised:
            await listened(here, request=JobRequest(**{**JOB, "params": {"n": 0}}))
        assert await here.store.list_jobs() == []
    assert raised.value.fields()["code"] == "invalid_request"


async def test_a_chat_is_paid_from_its_keys_account() -> None:
    who = Principal(tenant="t", key_id="k", limits=KeyLimits(total=Budget(max_output_tokens=2500)))
    async with serving() as here:
        events = await listened(here, who)
        spent, set_aside = await here.store.spent("k", "total")
        with pytest.raises(BudgetExhausted):
            await listened(here, who, JobRequest(**{**JOB, "budget": {"max_output_tokens": 2500}}))
    assert spent.output_tokens == events[-1].data["result"].usage.output_tokens
    assert set_aside == Amount()


async def test_a_failed_chat_says_so_in_its_result() -> None:
    async with serving() as here:
        await here.engine.aclose()
        events = await listened(here)
    assert events[-1].kind == "result"
    assert events[-1].data["result"].state is JobState.FAILED


async def test_drain_ends_chats_with_their_best_answers_so_far() -> None:
    async with serving(latency=Latency(token_s=0.01), script="first: the answer is 4") as here:
        request = JobRequest(problem="x", policy="self_consistency", params={"n": 3}, answer="text")
        listening = asyncio.create_task(listened(here, request=request))

        async def has_begun() -> bool:
            return (await here.engine.health()).output_tokens > 0

        await until(has_begun)
        await here.service.drain(0.01)
        events = await listening
        with pytest.raises(ServiceStopping):
            await listened(here)
    assert events[-1].data["result"].state is JobState.CANCELLED


# -- events ----------------------------------------------------------------------------------------------------


async def test_the_events_of_a_finished_job_are_its_journal() -> None:
    async with serving() as here:
        job_id = (await here.post("/v1/jobs?wait=5", JOB)).json()["id"]
        events = await followed(here, job_id)
        rows = await here.store.read(job_id)
    assert [(event.seq, event.kind, event.data) for event in events] == [(row.seq, row.kind, row.data) for row in rows]
    assert events[-1].kind == "final"


async def test_a_stream_can_be_taken_up_after_any_event_without_gap_or_repeat() -> None:
    async with serving() as here:
        job_id = (await here.post("/v1/jobs?wait=5", JOB)).json()["id"]
        whole = [event.seq for event in await followed(here, job_id)]
        for after in whole:
            assert [event.seq for event in await followed(here, job_id, after=after)] == whole[after + 1 :]


async def test_whoever_follows_from_the_beginning_hears_text_as_it_is_generated() -> None:
    async with serving(latency=Latency(token_s=0.001)) as here:
        record = await here.service.submit(WHO, REQUEST)
        events = await followed(here, record.id)
        rows = await here.store.read(record.id)
    assert [event.seq for event in events if event.seq is not None] == [row.seq for row in rows]
    assert sum(event.kind == "delta" for event in events) > 5
    assert not {"started", "result"} & {event.kind for event in events}


async def test_a_hundred_followers_that_come_at_any_time_hear_the_same_rows() -> None:
    async with serving(latency=Latency(token_s=0.003)) as here:
        record = await here.service.submit(WHO, REQUEST)

        async def follow(delay_s: float) -> list[int | None]:
            await asyncio.sleep(delay_s)
            return [event.seq for event in await followed(here, record.id) if event.seq is not None]

        following = [asyncio.create_task(follow(0.002 * number)) for number in range(100)]
        heard = [await task for task in following]
        rows = [row.seq for row in await here.store.read(record.id)]
    assert heard == [rows] * 100


async def test_a_follower_that_reads_slowly_misses_deltas_but_no_row() -> None:
    async with serving() as here:
        job = JobRequest(**{**JOB, "params": {"n": 200}, "budget": None})
        record = await here.service.submit(WHO, job)
        seen: list[int] = []
        async with aclosing(here.service.events(WHO, record.id)) as events:
            async for event in events:
                if event.seq is not None:
                    seen.append(event.seq)
                if len(seen) < 3:
                    await here.service.wait(WHO, record.id, timeout_s=5)
        rows = [row.seq for row in await here.store.read(record.id)]
    assert seen == rows


async def test_a_silent_stream_says_that_it_is_alive() -> None:
    async with serving(concurrency=0, heartbeat_s=0.05) as here:
        record = await here.service.submit(WHO, REQUEST)
        async with asyncio.timeout(2), aclosing(here.service.events(WHO, record.id)) as events:
            kinds = [(await anext(events)).kind for _ in range(3)]
    assert kinds == ["heartbeat"] * 3


async def test_streams_end_when_the_service_is_stopped() -> None:
    async with serving(concurrency=0) as here:
        record = await here.service.submit(WHO, REQUEST)
        following = asyncio.create_task(followed(here, record.id))
        waiting = asyncio.create_task(here.service.wait(WHO, record.id, timeout_s=60))
        await asyncio.sleep(0.05)
        await here.service.drain(0.0)
        async with asyncio.timeout(1):
            assert await following == []
            assert (await waiting).state is JobState.QUEUED


async def test_the_stream_of_a_job_that_goes_on_elsewhere_goes_on_too() -> None:
    async with serving(latency=SLOW, lease_s=0.3) as here:
        record = await here.service.submit(WHO, REQUEST)
        following = asyncio.create_task(followed(here, record.id))

        async def has_begun() -> bool:
            return (await here.engine.health()).output_tokens > 0

        await until(has_begun)
        epoch = await here.store.claim(record.id, "elsewhere:1:x", lease_s=9, force=True)
        claimed = (replace(await here.store.get(record.id), is_cancel_wanted=True), epoch)
        async with serving(store=here.store, concurrency=0) as there:
            await there.service.orchestrator.run_claimed(Claimed(*claimed))
        async with asyncio.timeout(5):
            events = await following
        rows = await here.store.read(record.id)
    assert [event.seq for event in events if event.seq is not None] == [row.seq for row in rows]
    assert events[-1].data["result"]["state"] == "cancelled"


async def test_the_events_of_an_unknown_job_are_refused() -> None:
    async with serving() as here:
        with pytest.raises(UnknownName):
            await followed(here, "0" * 20)


async def test_server_sent_events_carry_ids_kinds_and_comments() -> None:
    async with serving(heartbeat_s=0.05) as here:
        job_id = (await here.post("/v1/jobs?wait=5", JOB)).json()["id"]
        whole = await here.client.get(f"/v1/jobs/{job_id}/events")
        rest = await here.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "2"})
        same = await here.client.get(f"/v1/jobs/{job_id}/events?after=2")
        wrong = await here.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "two"})
    assert whole.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = whole.text.split("\n\n")
    assert blocks[0] == "retry: 1000"
    assert blocks[1].startswith('id: 0\nevent: begin\ndata: {"a":0,')
    assert rest.text == same.text
    assert rest.text.split("\n\n")[1:] == blocks[4:]
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "Last-Event-ID")
