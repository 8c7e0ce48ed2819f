"""The policy in docs/howto/write_a_policy.md works as printed, and keeps the contract it is told to keep."""

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.policy_contract import PolicyCase, PolicyContract

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "write_a_policy.md"


def run_page() -> dict[str, Any]:
    """What the page's Python blocks define, run one after the other."""
    namespace: dict[str, Any] = {"__name__": "howto"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), namespace)
    return namespace


NAMES = run_page()


@pytest.mark.parametrize("case", [PolicyCase(NAMES["pairs"], {"max_pairs": 3}, max_samples=6)], ids=str)
class TestPolicyOfThePage(PolicyContract):
    pass


def test_the_page_shows_how_to_put_it_under_contract():
    assert issubclass(NAMES["TestPairs"], PolicyContract)
