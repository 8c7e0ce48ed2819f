"""OpenAI's endpoints as clients meet them: what they may not ask for, and what is sent twice."""

from __future__ import annotations

import sys

from ..serving import serving


async def test_code_named_as_a_policy_is_not_imported() -> None:
    async with serving() as here:
        body = {
            "model": "ttc/auto",
            "messages": [{"role": "user", "content": "What is 3 + 4 * 2?"}],
            "ttc": {"policy": "antigravity:fly"},
        }
        response = await here.post("/v1/chat/completions", body)
    assert "antigravity" not in sys.modules
    assert response.status_code == 404


async def test_a_background_response_that_is_sent_again_with_its_key_is_the_same_job() -> None:
    async with serving() as here:
        body = {"model": "ttc/single", "input": "What is 3 + 4 * 2?", "background": True}
        responses = [
            await here.client.post("/v1/responses", json=body, headers={"Idempotency-Key": "one"}) for _ in range(2)
        ]
        num_jobs = len(await here.store.list_jobs())
    assert [response.status_code for response in responses] == [200, 200]
    assert responses[0].json()["id"] == responses[1].json()["id"]
    assert num_jobs == 1
