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
