"""vLLM's CPU build, and small checkpoints; an engine takes half a minute to start, so modules share one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orchestrator.config import VllmSettings
from orchestrator.workers.vllm.engine import VllmEngine

OpenEngine = Callable[..., Awaitable[VllmEngine]]
BLOCK = 32


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings of torch, transformers and vLLM are theirs to mend; ours are errors here too."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.filterwarnings("error:::orchestrator"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for checkpoints."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # models are folders here
    os.environ["OMP_NUM_THREADS"] = "1"
    return tmp_path_factory.mktemp("models")


def small_settings(**changes: Any) -> VllmSettings:
    """A small engine on one core, without compilation."""
    given: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_gib": 0.1,
        "block_size": BLOCK,
        "max_num_seqs": 32,
        "cpu_cores": "nobind",
        "log": os.environ.get("TTC_TEST_VLLM_LOG"),
    }
    return VllmSettings(**given | changes)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_one() -> AsyncIterator[OpenEngine]:
    """Opens engines that last for the module; at the end nothing may be left in vLLM."""
    from orchestrator.workers.vllm import open_engine

    opened: list[VllmEngine] = []

    async def open_it(model: Path | str, *, name: str | None = None, **changes: Any) -> VllmEngine:
        engine = await open_engine(str(model), small_settings(**changes), name=name)
        opened.append(engine)
        return engine

    yield open_it
    for engine in opened:
        await engine.check_integrity()
        await engine.aclose()
