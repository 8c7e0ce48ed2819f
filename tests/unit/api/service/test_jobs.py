"""``/v1/jobs`` over HTTP: what is taken, what is told, to whom, and what is refused how."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.actions import AskHuman
from orchestrator.api.service.requests import JobRequest
from orchestrator.api.service.security.principal import KeyLimits, Principal
from orchestrator.budget import Budget
from orchestrator.errors import StoreFailed
from orchestrator.policy import as_policy
from orchestrator.store import JobState
from orchestrator.stores import MemoryStore

from .serving import JOB, PROBLEM, SLOW, serving, until

ALICE = Principal(tenant="alice", key_id="k-alice")
BOB = Principal(tenant="bob", key_id="k-bob")


async def test_a_job_is_accepted_and_ends_with_its_answer() -> None:
    async with serving() as here:
        response = await here.post("/v1/jobs", JOB)
        assert response.status_code == 202
        job = response.json()
        assert response.headers["location"] == f"/v1/jobs/{job['id']}"
        assert (job["state"], job["problem"], job["budget"]) == ("queued", PROBLEM, {"max_output_tokens": 2000})
        ended = (await here.client.get(f"/v1/jobs/{job['id']}?wait=5")).json()
    assert (ended["state"], ended["answer"], ended["stop_reason"]) == ("succeeded", "11", "completed")
    assert ended["usage"]["model_calls"] == 2


async def test_waiting_on_the_post_gives_the_finished_job_and_another_status() -> None:
    async with serving() as here:
        response = await here.post("/v1/jobs?wait=5", JOB)
    assert (response.status_code, response.json()["answer"]) == (200, "11")


async def test_a_wait_that_is_too_short_gives_the_job_as_it_is() -> None:
    async with serving(latency=SLOW) as here:
        response = await here.post("/v1/jobs?wait=0.05", JOB)
    assert (response.status_code, response.json()["state"]) == (202, "running")


async def test_the_same_key_and_body_are_the_same_job() -> None:
    async with serving() as here:
        first = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k1"})
        again = await here.post("/v1/jobs?wait=5", JOB, **{"Idempotency-Key": "k1"})
        other = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k2"})
        jobs = (await here.client.get("/v1/jobs")).json()["data"]
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert len(jobs) == 2


async def test_the_same_key_with_another_body_is_a_conflict_that_names_the_job() -> None:
    async with serving() as here:
        first = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k1"})
        response = await here.post("/v1/jobs", {**JOB, "seed": 1}, **{"Idempotency-Key": "k1"})
    assert response.status_code == 409
    error = response.json()["error"]
    assert (error["code"], error["job_id"]) == ("job_conflict", first.json()["id"])


async def test_twenty_requests_at_once_with_one_key_make_one_job() -> None:
    async with serving() as here:
        sent = [asyncio.create_task(here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k"})) for _ in range(20)]
        ids = {(await task).json()["id"] for task in sent}
    assert len(ids) == 1


async def test_keys_of_two_tenants_do_not_meet() -> None:
    async with serving(who=ALICE) as here:
        mine = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k"})
        here.who = BOB
        theirs = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k"})
    assert theirs.status_code == 202
    assert mine.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/events", None),
        ("GET", "/tree", None),
        ("GET", "/usage", None),
        ("POST", "/input", {"text": "yes"}),
    ],
)
async def test_a_job_of_another_tenant_does_not_exist(method: str, path: str, body: Any) -> None:
    async with serving(who=ALICE, latency=SLOW) as here:
        job_id = (await here.post("/v1/jobs", JOB)).json()["id"]
        here.who = BOB
        response = await here.client.request(method, f"/v1/jobs/{job_id}{path}", json=body)
        missing = await here.client.request(method, f"/v1/jobs/{'0' * 20}{path}", json=body)
        assert (await here.store.get(job_id)).is_cancel_wanted is False
    assert response.status_code == missing.status_code == 404
    assert response.text.replace(job_id, "0" * 20) == missing.text


async def test_the_list_holds_ones_own_jobs_by_pages_newest_first() -> None:
    async with serving(who=ALICE) as here:
        ids = [(await here.post("/v1/jobs", JOB)).json()["id"] for _ in range(5)]
        here.who = BOB
        await here.post("/v1/jobs", JOB)
        here.who = ALICE
        seen: list[str] = []
        cursor = ""
        while True:
            page = (await here.client.get(f"/v1/jobs?limit=2{cursor}")).json()
            seen += [job["id"] for job in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]


async def test_the_list_is_filtered_by_state() -> None:
    async with serving(concurrency=1, latency=SLOW) as here:
        for _ in range(3):
            await here.post("/v1/jobs", JOB)

        async def one_runs() -> bool:
            return bool(here.service.orchestrator.running)

        await until(one_runs)
        queued = (await here.client.get("/v1/jobs?state=queued")).json()["data"]
        running = (await here.client.get("/v1/jobs?state=running")).json()["data"]
    assert (len(queued), len(running)) == (2, 1)


@pytest.mark.parametrize("cursor", ["abc", "====", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "-" * 27])
async def test_a_cursor_of_somebody_elses_making_is_refused(cursor: str) -> None:
    async with serving() as here:
        response = await here.client.get("/v1/jobs", params={"cursor": cursor})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "cursor"


async def test_cancelling_a_running_job_reaches_the_engine_and_keeps_the_best_answer() -> None:
    async with serving(latency=SLOW) as here:
        job_id = (await here.post("/v1/jobs", JOB)).json()["id"]

        async def has_begun() -> bool:
            return (await here.engine.health()).output_tokens > 0

        await until(has_begun)
        response = await here.client.delete(f"/v1/jobs/{job_id}")
        before = await here.engine.health()
        await asyncio.sleep(0.2)
        after = await here.engine.health()
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert response.json()["stop_reason"] == "cancelled"
    assert before.live_sequences == 0
    assert after.output_tokens == before.output_tokens


async def test_cancelling_a_queued_job_ends_it_at_once_with_a_result() -> None:
    async with serving(concurrency=0) as here:
        job_id = (await here.post("/v1/jobs", JOB)).json()["id"]
        response = await here.client.delete(f"/v1/jobs/{job_id}")
        again = await here.client.delete(f"/v1/jobs/{job_id}")
        events = (await here.client.get(f"/v1/jobs/{job_id}/events")).text
    assert response.json()["state"] == "cancelled"
    assert response.json()["result"]["usage"] == again.json()["result"]["usage"]
    assert "event: final" in events


async def test_cancelling_a_finished_job_changes_nothing() -> None:
    async with serving() as here:
        job = (await here.post("/v1/jobs?wait=5", JOB)).json()
        response = await here.client.delete(f"/v1/jobs/{job['id']}")
    assert (response.status_code, response.json()) == (200, job)


async def test_tree_and_usage_say_what_was_bought() -> None:
    async with serving() as here:
        job = (await here.post("/v1/jobs?wait=5", JOB)).json()
        tree = (await here.client.get(f"/v1/jobs/{job['id']}/tree")).json()
        usage = (await here.client.get(f"/v1/jobs/{job['id']}/usage")).json()
    assert len(tree["tree"]) == 3
    assert {node["answer"] for node in tree["tree"][1:]} == {"11"}
    assert usage["total_tokens"] == job["result"]["total_tokens"]


def asking(query: Any, ctx: Any) -> Any:
    """Asks a person."""
    return (yield AskHuman("which one?"))


async def test_a_job_that_waits_for_a_person_goes_on_with_the_reply() -> None:
    async with serving() as here:
        ttc = here.service.orchestrator
        asked = ttc.check(PROBLEM, policy=as_policy(asking))
        await here.store.create(replace(ttc.new_record(asked), owner=None))
        (record,) = await here.store.list_jobs()

        async def waits() -> bool:
            return (await here.store.get(record.id)).state is JobState.WAITING

        await until(waits)
        path = f"/v1/jobs/{record.id}"
        waiting = (await here.client.get(f"{path}?wait=5")).json()
        reply = await here.post(f"{path}/input", {"text": "the blue one"})
        ended = (await here.client.get(f"{path}?wait=5")).json()
        too_late = await here.post(f"{path}/input", {"text": "no, the red one"})
    assert (waiting["state"], waiting["question"]) == ("waiting", "which one?")
    assert reply.status_code == 202
    assert ended["answer"] == "the blue one"
    assert (too_late.status_code, too_late.json()["error"]["code"]) == (409, "job_conflict")


async def test_more_jobs_than_may_wait_are_refused_with_a_time_to_come_back() -> None:
    async with serving(concurrency=0, max_waiting=2) as here:
        statuses = [(await here.post("/v1/jobs", JOB)).status_code for _ in range(3)]
        response = await here.post("/v1/jobs", JOB)
    assert statuses == [202, 202, 429]
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


async def test_the_jobs_of_one_tenant_that_wait_do_not_keep_another_out() -> None:
    async with serving(concurrency=0, max_waiting_per_tenant=1, who=ALICE) as here:
        first, second = await here.post("/v1/jobs", JOB), await here.post("/v1/jobs", JOB)
        here.who = BOB
        other = await here.post("/v1/jobs", JOB)
    assert [first.status_code, second.status_code, other.status_code] == [202, 429, 202]


async def test_a_retry_of_an_accepted_job_is_answered_even_when_the_queue_is_full() -> None:
    async with serving(concurrency=0, max_waiting=1) as here:
        first = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k"})
        again = await here.post("/v1/jobs", JOB, **{"Idempotency-Key": "k"})
    assert again.status_code == 202
    assert first.json()["id"] == again.json()["id"]


def limited(**limits: Any) -> Principal:
    return Principal(tenant="t", key_id="k", limits=KeyLimits(**limits))


async def test_a_job_gets_what_is_left_of_its_keys_budget_and_gives_back_what_it_does_not_use() -> None:
    async with serving(who=limited(total=Budget(max_output_tokens=3000))) as here:
        first = (await here.post("/v1/jobs?wait=5", {**JOB, "budget": None})).json()
        second = (await here.post("/v1/jobs?wait=5", {**JOB, "budget": None})).json()
    spent = first["usage"]["output_tokens"]
    assert first["budget"]["max_output_tokens"] == 3000
    assert second["budget"]["max_output_tokens"] == 3000 - spent


async def test_a_job_that_its_key_cannot_pay_for_is_refused() -> None:
    async with serving(who=limited(total=Budget(max_output_tokens=3000)), concurrency=0) as here:
        first = await here.post("/v1/jobs", JOB)
        second = await here.post("/v1/jobs", JOB)
        jobs = (await here.client.get("/v1/jobs")).json()["data"]
    assert (first.status_code, second.status_code, len(jobs)) == (202, 402, 1)
    error = second.json()["error"]
    assert (error["code"], error["limit"], error["remaining"]) == ("budget_exhausted", "max_output_tokens", 1000)


async def test_a_cancelled_job_gives_its_money_back() -> None:
    async with serving(who=limited(total=Budget(max_output_tokens=2000)), concurrency=0) as here:
        first = await here.post("/v1/jobs", JOB)
        assert (await here.post("/v1/jobs", JOB)).status_code == 402
        await here.client.delete(f"/v1/jobs/{first.json()['id']}")
        assert (await here.post("/v1/jobs", JOB)).status_code == 202


async def test_the_default_budget_holds_for_jobs_that_name_none() -> None:
    async with serving(default_budget="tokens=1234", concurrency=0) as here:
        without = (await here.post("/v1/jobs", {**JOB, "budget": None})).json()
        own = (await here.post("/v1/jobs", JOB)).json()
    assert without["budget"] == {"max_output_tokens": 1234}
    assert own["budget"] == {"max_output_tokens": 2000}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ({**JOB, "problem": ""}, 400, "problem"),
        ({**JOB, "policy": "no_such"}, 404, None),
        ({**JOB, "params": {"n": 0}}, 400, None),
        ({**JOB, "budget": "tokens=many"}, 400, "budget"),
        ({**JOB, "budget": {"max_output_tokens": 0}}, 400, None),
        ({**JOB, "budget": {"max_tokens": 5}}, 400, None),
        ({**JOB, "serious": True}, 400, "serious"),
        ({**JOB, "seed": -1}, 400, "seed"),
        ({**JOB, "labels": {"a": 1}}, 400, "labels.a"),
        ({**JOB, "verifier": "generative"}, 400, "verifier"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, None),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, 400, None),
        ([], 400, None),
        ("x", 400, None),
    ],
)
async def test_a_request_that_cannot_be_carried_out_is_refused_by_field(body: Any, status: int, param: Any) -> None:
    async with serving() as here:
        response = await here.post("/v1/jobs", body)
        assert await here.store.list_jobs() == []
    error = response.json()["error"]
    assert response.status_code == status, error
    assert error["message"]
    assert error["type"] in {"invalid_request_error", "not_found_error"}
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b'{"problem": "\\ud800"}',
        b'{"problem": "a\\u0000b"}',
        b'{"problem": "x", "seed": NaN}',
        b'{"problem": "x", "params": {"n": Infinity}}',
        b'{"problem": "x", "params": {"n": 1e999}}',
        b'{"problem": "x", "params": {"n": 99999999999999999999999}}',
        b'{"problem": "x", "seed": 1' + b"0" * 5000 + b"}",
        b'{"problem": "\xff"}',
        b'{"problem": "x"',
        b"",
        b"[" * 1000,
        b'{"problem": "x", "params": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b"}",
    ],
)
async def test_a_body_that_is_no_json_for_everybody_is_refused(body: bytes) -> None:
    async with serving() as here:
        response = await here.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_while_it_is_being_stopped_the_service_takes_nothing_and_says_when_to_come_back() -> None:
    async with serving() as here:
        job_id = (await here.post("/v1/jobs?wait=5", JOB)).json()["id"]
        await here.service.drain(0.0)
        refused = await here.post("/v1/jobs", JOB)
        ready = await here.client.get("/readyz")
        still = await here.client.get(f"/v1/jobs/{job_id}")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (ready.status_code, ready.json()["problems"]) == (503, ["the service is being stopped"])
    assert still.status_code == 200


async def test_what_is_not_served_is_said_in_the_same_shape() -> None:
    async with serving() as here:
        missing = await here.client.get("/v1/nothing")
        wrong = await here.client.put("/v1/jobs")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_a_bug_is_an_error_without_its_stack_trace(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as here:

        async def broken(*args: Any, **options: Any) -> Any:
            raise ZeroDivisionError("secret detail")

        here.service.jobs = broken  # type: ignore[method-assign]  # the bug
        response = await here.client.get("/v1/jobs")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "ZeroDivisionError" in caplog.text


async def test_policies_and_verifiers_are_listed_with_their_parameters() -> None:
    async with serving() as here:
        policies = (await here.client.get("/v1/policies")).json()["data"]
        verifiers = (await here.client.get("/v1/verifiers")).json()["data"]
    named = {policy["name"]: policy for policy in policies}
    assert "n" in {item["name"] for item in named["self_consistency"]["parameters"]}
    assert "generative" in {verifier["name"] for verifier in verifiers}


async def test_readiness_names_the_model_that_is_not_there() -> None:
    async with serving() as here:
        ready = await here.client.get("/readyz")
        await here.engine.aclose()
        not_ready = await here.client.get("/readyz")
        alive = await here.client.get("/healthz")
    assert (ready.status_code, not_ready.status_code, alive.status_code) == (200, 503, 200)
    assert not_ready.json()["problems"] == ["model scripted: closed"]


class CountsProbes(MemoryStore):
    num_probes = 0
    is_full = False

    async def put_document(self, kind: str, key: str, value: dict[str, Any] | None) -> None:
        self.num_probes += kind == "probe"
        if self.is_full:
            raise StoreFailed("no space left")
        await super().put_document(kind, key, value)


async def test_many_who_ask_whether_it_is_ready_make_the_store_write_once() -> None:
    store = CountsProbes()
    async with serving(store=store) as here:
        answers = await asyncio.gather(*(here.client.get("/readyz") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert store.num_probes == 1


async def test_readiness_says_that_the_store_cannot_be_written() -> None:
    store = CountsProbes()
    async with serving(store=store) as here:
        store.is_full = True
        not_ready = await here.client.get("/readyz")
    assert (not_ready.status_code, not_ready.json()["problems"]) == (503, ["store: no space left"])


async def test_the_api_document_describes_every_endpoint_and_its_errors() -> None:
    async with serving() as here:
        document = (await here.client.get("/openapi.json")).json()
        page = await here.client.get("/docs")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary") or operation.get("description"), f"{method} {path}"
            if path.startswith("/v1"):
                assert {"400", "401", "429", "503"} <= operation["responses"].keys(), f"{method} {path}"
    post = document["paths"]["/v1/jobs"]["post"]["responses"]
    assert {"200", "202", "402", "404", "409", "413", "422"} <= post.keys()
    assert json.dumps(document)
    assert "script-src https://cdn.jsdelivr.net 'sha256-" in page.headers["content-security-policy"]


async def test_views_do_not_give_the_cache_salt_away() -> None:
    who = Principal(tenant="t", key_id="k", cache_salt="very-secret-salt")
    async with serving(who=who) as here:
        job_id = (await here.post("/v1/jobs?wait=5", JOB)).json()["id"]
        texts = [
            (await here.client.get(f"/v1/jobs/{job_id}{path}")).text for path in ("", "/events", "/tree", "/usage")
        ]
        (request, *_) = here.engine.log
    assert request.cache_salt == "very-secret-salt"
    assert not any("very-secret" in text for text in texts)


async def test_a_slip_in_a_name_and_a_forgotten_content_type_are_told_in_plain_words() -> None:
    async with serving() as here:
        slip = await here.post("/v1/jobs", {**JOB, "problm": "x"})
        untold = await here.client.post("/v1/jobs", content=json.dumps(JOB), headers={"Content-Type": "text/plain"})
    assert (slip.status_code, slip.json()["error"]["message"]) == (400, "problm: there is no such field")
    assert untold.status_code == 400
    assert "Content-Type: application/json" in untold.json()["error"]["message"]


async def test_a_request_is_the_same_when_the_service_has_learnt_another_field_since() -> None:
    class LaterRequest(JobRequest):
        new_field: int = 3

    async with serving(concurrency=0) as here:
        first = await here.service.submit(Principal(), JobRequest(**JOB), idempotency_key="k")
        second = await here.service.submit(Principal(), LaterRequest(**JOB), idempotency_key="k")
    assert first.id == second.id
