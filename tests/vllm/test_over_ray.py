"""vLLM in a replica of Ray Serve: the same tokens as in this process, aborts that reach it, its own counts."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.bench.lab.model_names import WEIGHTS
from orchestrator.bench.ray_nodes import Nodes
from orchestrator.bench.sets import open_set
from orchestrator.config import RaySettings, read_settings
from orchestrator.engine import (
    Delta,
    Engine,
    Finished,
    FinishReason,
    GenerateRequest,
    GivesLogits,
    Message,
    Prefilled,
    Prompt,
    ScoresTokens,
    Tokenizes,
)
from orchestrator.engine_health import EngineHealth
from orchestrator.fleet_file import FleetFile
from orchestrator.sampling import Sampling

pytest.importorskip("vllm", reason="vLLM is not installed")
pytest.importorskip("ray", reason="Ray is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    from ray import serve

    from orchestrator.workers.ray.deployment import application, application_name
    from orchestrator.workers.ray.engine import RayEngine
    from orchestrator.workers.ray.joining import joined
    from orchestrator.workers.ray.opening import open_ray

from .asked import asked
from .conftest import BLOCK, OpenEngine, small_settings

pytestmark = [pytest.mark.vllm, pytest.mark.server, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

NAME = "large"


def fleet() -> FleetFile:
    """One replica; the arguments of its engine are those of the engine in this process."""
    engine = small_settings(max_num_seqs=4).model_dump(mode="json", exclude_unset=True, exclude_none=True)
    entry = {"model": f"vllm:{WEIGHTS / 'large'}", "roles": ["small"], "cpus": 1, "engine": engine}
    return FleetFile.model_validate({"models": {NAME: entry}, "cluster": {"ray": "auto"}})


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    """A cluster with the fleet; the folder of models is asked for, since it sets what vLLM reads of the environment."""
    assert models.is_dir()
    with Nodes(2) as nodes, joined(nodes.address, namespace="ttc"):
        serve.start(proxy_location="Disabled", logging_config=serve.schema.LoggingConfig(log_level="ERROR"))
        serve.run(application(fleet(), NAME), name=application_name(NAME, namespace="ttc"), route_prefix=None)
        yield nodes.address
        serve.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosted(address: str) -> AsyncIterator[RayEngine]:
    given = RaySettings(address=address, isolated=False, open_s=60)
    engine = await open_ray(NAME, read_settings().model_copy(update={"ray": given}))
    assert isinstance(engine, RayEngine)
    yield engine
    await engine.aclose()


async def test_greedy_replies_are_those_of_vllm_in_this_process(hosted: RayEngine, open_one: OpenEngine) -> None:
    here = await open_one(WEIGHTS / "large", max_num_seqs=4)
    for protocol in (Tokenizes, ScoresTokens, GivesLogits):
        assert isinstance(hosted, protocol), "it has the protocols of its engine"
    assert hosted.describe().capabilities == here.describe().capabilities
    assert hosted.describe().tokenizer == here.describe().tokenizer
    for problem in open_set("expression@6", count=4, seed=5).problems:
        prompt = Prompt((Message("user", problem.text),))
        (_, there), (_, expected) = (
            await read(hosted, asked(100, prompt=prompt)),
            await read(here, asked(100, prompt=prompt)),
        )
        assert there == expected
        assert there


async def test_cached_tokens_are_counted_through_the_replica(hosted: RayEngine) -> None:
    before = await hosted.health()
    (first, _), (again, _) = [await read(hosted, asked(2, cache_salt="over ray")) for _ in range(2)]
    (other, _) = await read(hosted, asked(2, cache_salt="another tenant"))
    blocks = (first.prompt_tokens - 1) // BLOCK * BLOCK
    assert blocks > 0
    assert [one.cached_tokens for one in (first, again, other)] == [0, blocks, 0]
    after = await hosted.health()
    assert after.is_shared
    assert after.cached_prompt_tokens - before.cached_prompt_tokens == blocks
    assert after.prefix_query_tokens - before.prefix_query_tokens >= 3 * first.prompt_tokens
    assert after.prefix_hit_tokens - before.prefix_hit_tokens >= blocks
    assert after.sampled_tokens - before.sampled_tokens >= 6


async def test_cancelled_and_abandoned_requests_leave_the_replicas_vllm_nothing_to_do(hosted: RayEngine) -> None:
    long = Sampling(temperature=2.0)
    cancelled = asked(*[150] * 12, sampling=long)
    ends: list[FinishReason] = []
    async for event in hosted.generate(cancelled):
        if isinstance(event, Delta):
            hosted.cancel(cancelled.request_id)
        elif isinstance(event, Finished):
            ends.append(event.reason)
    assert len(ends) == 12
    assert FinishReason.CANCELLED in ends
    reader = asyncio.create_task(read(hosted, asked(*[150] * 12, sampling=long)))
    await _until(hosted, lambda now: now.live_sequences > 0)
    reader.cancel()
    await asyncio.wait([reader])
    await _until(hosted, lambda now: not now.live_sequences)
    await read(hosted, asked(1))
    await _until(hosted, lambda now: now.running_sequences <= 1 and not now.waiting_sequences)
    await hosted.check_integrity()


async def read(engine: Engine, request: GenerateRequest) -> tuple[Prefilled, list[int]]:
    """What was read of the prompt, and the ids of the samples one after the other."""
    events = [event async for event in engine.generate(request)]
    ids = [token for event in events if isinstance(event, Delta) for token in event.token_ids or ()]
    (prefilled,) = [event for event in events if isinstance(event, Prefilled)]
    return prefilled, ids


async def _until(engine: RayEngine, is_so: Callable[[EngineHealth], bool]) -> None:
    health: Callable[[], Awaitable[EngineHealth]] = engine.health
    async with asyncio.timeout(60):
        while not is_so(await health()):  # noqa: ASYNC110  # replicas have no event for it
            await asyncio.sleep(0.05)
