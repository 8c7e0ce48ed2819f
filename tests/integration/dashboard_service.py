"""A service for the dashboard's tests: the real application on a free port of this machine, scripted models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import uvicorn

from orchestrator import Orchestrator
from orchestrator.actions import Answer, AskHuman, Expand
from orchestrator.api.service.app import create_app
from orchestrator.api.service.security.keys import KeyBook
from orchestrator.api.service.service import Service
from orchestrator.engine import Prompt
from orchestrator.policy import Policy, PolicyContext, Query
from orchestrator.testing import Latency, ScriptedEngine
from orchestrator.testing.scripted_abilities import ScriptedJudge
from orchestrator.testing.scripts import share

PROBLEM = "What is 17 * 23 + 5? Explain each step and put the answer into a box."
_T = TypeVar("_T")
_START_S = 30.0
_WORK_S = 30.0
_BEGINNINGS = (
    "17 * 23 can be split: 17 * 20 is 340, and 17 * 3 is 51.",
    "Let me multiply 17 by 23 first.",
    "I start with 20 * 23 = 460 and take 3 * 23 away.",
    "First the product, then the sum.",
)
_MIDDLES = (
    "That gives 340 + 51 = 391.",
    "460 - 69 = 391, so the product is 391.",
    "Wait, let me check that: 391 / 17 = 23, as it should be.",
    "Adding the two parts, I get 381.",
    "So far we have 391, and 5 is still to be added.",
)
_ANSWERS = ("396", "396", "396", "386", "396", "395", "401", "396")


def steps(prompt: Prompt, seed: int) -> str:
    """A solution in three to six steps, or the rest of one; most of them are right."""
    written = prompt.continuation_text
    num_left = max(0, 1 + int(4 * share(seed, "steps")) - written.count("\n\n"))
    middles = [_MIDDLES[int(len(_MIDDLES) * share(seed, "middle", str(at)))] for at in range(num_left)]
    answer = _ANSWERS[int(len(_ANSWERS) * share(seed, "answer"))]
    begin = [] if written else [_BEGINNINGS[int(len(_BEGINNINGS) * share(seed, "begin"))]]
    return "\n\n".join([*begin, *middles, f"The final answer is \\boxed{{{answer}}}."])


def asks(query: Query, ctx: PolicyContext[Any]) -> Policy:
    """Asks a person in which unit the answer is wanted, then answers."""
    samples = yield Expand([query.root], num_samples=2, model="small")
    unit = yield AskHuman("In which unit do you want it? <b>cm</b> or m?")
    return Answer(f"{samples[0].answer} {unit}", confidence=0.5, confidence_kind="verifier")


@dataclass(frozen=True)
class Running:
    """A service that runs in another thread of this process."""

    address: str
    service: Service
    orchestrator: Orchestrator
    loop: asyncio.AbstractEventLoop
    server: uvicorn.Server
    key: str = ""

    def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs something in the service's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_WORK_S)


@contextmanager
def running_service(*, token_s: float = 0.0, with_key: bool = False) -> Iterator[Running]:
    """The service, for as long as the context is open."""
    ready = threading.Event()
    found: list[Running] = []
    failure: list[BaseException] = []

    async def serve() -> None:
        small = ScriptedEngine(steps, latency=Latency(token_s=token_s, jitter=0.4), keep_log=False, tokens_per_delta=4)
        judge = ScriptedJudge("yes", name="judge", keep_log=False)
        roles = {"verifier": judge}
        async with Orchestrator(small, roles=roles) as orchestrator, Service(orchestrator) as service:
            made = await KeyBook(orchestrator.store).create("acme", name="laptop") if with_key else None
            server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="warning", lifespan="off"))
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(server.serve())
                while not server.started:
                    assert not serving.done()
                    await asyncio.sleep(0.01)
                port = server.servers[0].sockets[0].getsockname()[1]
                loop = asyncio.get_running_loop()
                found.append(
                    Running(
                        f"http://127.0.0.1:{port}", service, orchestrator, loop, server, str(made.text) if made else ""
                    )
                )
                ready.set()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # shown to the test
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(_START_S)
        if failure:
            raise failure[0]
        yield found[0]
    finally:
        if found:
            found[0].server.should_exit = True
        thread.join(_WORK_S)
    assert not thread.is_alive()
