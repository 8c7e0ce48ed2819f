"""The Python on the howto pages works as printed, and the engine of docs/howto/own_engine.md keeps the contract."""

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import Engine
from orchestrator.testing.engine_contract import EngineContract

FOLDER = Path(__file__).parents[2] / "docs" / "howto"


def run_page(name: str) -> dict[str, Any]:
    """What the page's Python blocks define, run one after the other."""
    page = FOLDER / f"{name}.md"
    namespace: dict[str, Any] = {"__name__": f"howto_{name}"}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


PARROT = run_page("own_engine")["Parrot"]


@pytest.mark.parametrize("name", ["budgets", "own_verifier", "resume_and_replay", "tree_search"])
def test_the_page_works_as_printed(name: str):
    assert run_page(name)


class TestTheEngineOfThePage(EngineContract):
    is_repeatable = True

    @pytest.fixture
    def engine(self) -> Engine:
        return PARROT()

    @pytest.fixture
    def disposable_engine(self) -> Engine:
        return PARROT()
