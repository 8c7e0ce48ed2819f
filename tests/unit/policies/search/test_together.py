"""Several expansions at the same time: what comes back when some fail."""

from typing import Any

import pytest

from orchestrator.actions import Cancel, Expand, Next, Start
from orchestrator.errors import BudgetExhausted, EngineFailed, UnknownName
from orchestrator.policies.search.together import together
from orchestrator.policy import Policy, PolicyContext, Query
from orchestrator.testing import PolicyDriver


class Probe:
    """Expands the root by several models."""

    def __init__(self, *models: str, num_samples: int = 2) -> None:
        self.found: Any = None

        def probe(query: Query, ctx: PolicyContext[Any]) -> Policy:
            self.found = yield from together([Expand([query.root], num_samples, model=model) for model in models])

        self.driver = PolicyDriver(probe)

    def texts(self) -> list[list[str]]:
        return [[node.text for node in nodes] for nodes in self.found]


def test_one_expansion_is_a_plain_one():
    probe = Probe("small")
    assert isinstance(probe.driver.action, Expand)
    probe.driver.run(["1", "2"])
    assert probe.texts() == [[" So it is 1.", " So it is 2."]]


def test_several_are_all_started_before_any_is_awaited():
    probe = Probe("small", "large")
    probe.driver.run(["1", "2", "3", "4"])
    assert [type(action) for action in probe.driver.actions] == [Start, Start, *[Next] * 6]
    assert [len(nodes) for nodes in probe.found] == [2, 2]
    assert [nodes[0].model for nodes in probe.found] == ["small", "large"]


def test_one_that_cannot_be_started_leaves_the_others():
    probe = Probe("small", "large", num_samples=1)
    probe.driver.throw()
    probe.driver.run(["3"])
    assert probe.texts() == [[], [" So it is 3."]]


def test_one_that_fails_on_the_way_is_ended_and_what_it_gave_is_kept():
    probe = Probe("small", "large")
    for _ in range(2):
        probe.driver.send(probe.driver.stream())
    probe.driver.send(probe.driver.sample("1"))
    probe.driver.throw(EngineFailed("gone", model="small"))
    assert isinstance(probe.driver.action, Cancel)
    probe.driver.run(["2", "3"])
    assert [len(nodes) for nodes in probe.found] == [1, 2]


def test_if_none_gives_anything_the_first_failure_is_raised():
    probe = Probe("small", "large")
    probe.driver.throw()
    probe.driver.send(probe.driver.stream())
    probe.driver.throw(EngineFailed("gone", model="large"))
    with pytest.raises(BudgetExhausted):
        probe.driver.send(None)


def test_a_model_that_does_not_exist_is_an_error_at_once():
    probe = Probe("small", "larg")
    probe.driver.send(probe.driver.stream())
    with pytest.raises(UnknownName):
        probe.driver.throw(UnknownName(kind="model", name="larg", known=["large"]))
