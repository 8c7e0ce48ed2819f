"""Engines on a Ray cluster keep the promises of the protocols that their engines implement, and no others."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from orchestrator.bench.ray_nodes import Nodes
from orchestrator.config import RaySettings, read_settings
from orchestrator.engine import Embeds, Engine, GivesLogits, RewardsSteps, ScoresTokens, Tokenizes
from orchestrator.fleet_file import FleetFile
from orchestrator.testing.ability_contracts import (
    EmbedsContract,
    GivesLogitsContract,
    RewardsStepsContract,
    ScoresTokensContract,
    TokenizesContract,
)
from orchestrator.testing.engine_contract import EngineContract
from orchestrator.workers.hosted import HostedEngine

pytest.importorskip("ray")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic deprecates
    from ray import serve

    from orchestrator.workers.ray.deployment import application, application_name
    from orchestrator.workers.ray.engine import RayEngine
    from orchestrator.workers.ray.joining import joined
    from orchestrator.workers.ray.opening import open_ray

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(300)]

ENGINES_TO_HOST = str(Path(__file__).parents[1] / "unit" / "workers" / "hosted")
ENGINES: dict[str, tuple[str, str]] = {
    "babble": ("scripted:babble", ""),
    "takes-its-time": ("scripted:babble,prefill_s=0.001,token_s=0.0001,jitter=0.5", ""),
    "black-box": ("scripted:babble", "engines_to_host:black_box"),
    "scorer": ("scripted:babble", "engines_to_host:scorer_and_embedder"),
    "logits": ("scripted:babble", "engines_to_host:logits"),
    "judge": ("scripted:babble", "engines_to_host:judge"),
    "lab": ("lab:small", ""),
    "lab-prm": ("lab:prm", ""),
}
FLEET = FleetFile.model_validate(
    {
        "models": {name: {"model": model, "cpus": 0.1} for name, (model, _) in ENGINES.items()},
        "cluster": {"ray": "auto"},
    }
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with Nodes(8, variables={"PYTHONPATH": ENGINES_TO_HOST}) as nodes, joined(nodes.address, namespace="ttc"):
        serve.start(proxy_location="Disabled", logging_config=serve.schema.LoggingConfig(log_level="ERROR"))
        yield nodes.address
        serve.shutdown()


class OnACluster:
    """What a test class runs on the cluster; its tests share the engine."""

    model: ClassVar[str] = "babble"
    isolated: ClassVar[bool] = False
    integrity: ClassVar[bool] = True

    @pytest_asyncio.fixture(loop_scope="class")
    async def engine(self, shared: Engine) -> AsyncIterator[Engine]:
        yield shared
        await shared.check_integrity()  # type: ignore[attr-defined]  # both kinds have it

    @pytest_asyncio.fixture(loop_scope="class")
    async def disposable_engine(self, deployed: str) -> AsyncIterator[Engine]:
        engine = await opened(self, deployed)
        yield engine
        await engine.aclose()


async def opened(what: OnACluster | type[OnACluster], address: str) -> Engine:
    given = RaySettings(address=address, isolated=what.isolated, open_s=60)
    return await open_ray(what.model, read_settings().model_copy(update={"ray": given}))


@pytest.fixture(scope="class")
def deployed(request: pytest.FixtureRequest, cluster: str) -> Iterator[str]:
    assert request.cls is not None
    name = request.cls.model
    if name.startswith("lab"):
        pytest.importorskip("llama_cpp", reason="the extra 'local' is not installed")
    openers = {name: ENGINES[name][1]}
    app = application_name(name, namespace="ttc")
    serve.run(application(FLEET, name, openers=openers), name=app, route_prefix=None)
    yield cluster
    serve.delete(app)


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def shared(request: pytest.FixtureRequest, deployed: str) -> AsyncIterator[Engine]:
    assert request.cls is not None
    engine = await opened(request.cls, deployed)
    yield engine
    await engine.aclose()


@pytest.mark.asyncio(loop_scope="class")
class TestABabblerOnACluster(OnACluster, EngineContract, TokenizesContract):
    is_repeatable = True

    async def test_it_has_the_protocols_of_its_engine_only(self, engine: Engine) -> None:
        assert isinstance(engine, RayEngine)
        assert isinstance(engine, Tokenizes)
        assert not isinstance(engine, ScoresTokens | Embeds | GivesLogits | RewardsSteps)


@pytest.mark.asyncio(loop_scope="class")
class TestABabblerReachedThroughAProcessOfItsOwn(OnACluster, EngineContract, TokenizesContract):
    isolated = True
    is_repeatable = True

    async def test_this_process_stays_out_of_the_cluster(self, engine: Engine) -> None:
        assert isinstance(engine, HostedEngine)
        assert isinstance(engine, Tokenizes)


@pytest.mark.asyncio(loop_scope="class")
class TestAnEngineThatTakesItsTime(OnACluster, EngineContract, TokenizesContract):
    model = "takes-its-time"
    is_repeatable = True


@pytest.mark.asyncio(loop_scope="class")
class TestABlackBoxOnACluster(OnACluster, EngineContract):
    model = "black-box"
    is_repeatable = True

    async def test_it_does_not_tokenize(self, engine: Engine) -> None:
        assert not isinstance(engine, Tokenizes)


@pytest.mark.asyncio(loop_scope="class")
class TestAScorerAndEmbedderOnACluster(OnACluster, ScoresTokensContract, EmbedsContract):
    model = "scorer"


@pytest.mark.asyncio(loop_scope="class")
class TestLogitsOnACluster(OnACluster, GivesLogitsContract, TokenizesContract):
    model = "logits"


@pytest.mark.asyncio(loop_scope="class")
class TestAJudgeOnACluster(OnACluster, RewardsStepsContract):
    model = "judge"


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="class")
class TestAModelOfTheLabOnACluster(
    OnACluster, EngineContract, TokenizesContract, ScoresTokensContract, EmbedsContract, GivesLogitsContract
):
    model = "lab"
    ask = "Use 2, 3, 7 to make 13."
    tolerance = 0.05  # as for the embedded engine: batches of different shapes


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="class")
class TestTheRewardModelOfTheLabOnACluster(OnACluster, RewardsStepsContract):
    model = "lab-prm"
    steps = ("4+17=21\n\n", "3*21=2\n\n", "2-5=58\n\n", "The final answer is \\boxed{58}")
