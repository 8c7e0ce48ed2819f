"""The reward server of docs/howto/process_rewards.md works as printed, and so do the names on that page."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import Engine
from orchestrator.testing.ability_contracts import RewardsStepsContract
from orchestrator.workers.reward_server import open_engine
from orchestrator.workers.reward_server.options import checked_options, read_target

PAGE = (Path(__file__).parents[4] / "docs" / "howto" / "process_rewards.md").read_text(encoding="utf-8")


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


class TestTheServerOfThePage(RewardsStepsContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        page: dict[str, Any] = {"__name__": "process_rewards"}
        for block in blocks_of("python"):
            exec(block, page)
        page["Rewards"].log_message = lambda *_: None
        with ThreadingHTTPServer(("127.0.0.1", 0), page["Rewards"]) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            engine = await open_engine(f"http://127.0.0.1:{server.server_port}/")
            yield engine
            await engine.aclose()
            server.shutdown()


def test_every_name_on_the_page_can_be_read() -> None:
    names = set(re.findall(r"reward:(\S*?http://127\S+)", PAGE))
    assert len(names) == 2
    for name in names:
        url, options = read_target(name)
        checked_options({"url": url, **options})
