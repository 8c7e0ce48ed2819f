"""Declaring policies: parameters, fingerprints, and what can be found again after a crash."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from pydantic import Field, model_validator

from orchestrator.actions import Expand
from orchestrator.engine import Message
from orchestrator.errors import InvalidRequest
from orchestrator.policy import AnyParams, PolicyContext, PolicyParams, as_policy, importable_name, policy


class PairParams(PolicyParams):
    low: int = Field(1, ge=0, description="The lower one")
    high: int = Field(2, ge=0, description="The higher one")

    @model_validator(mode="after")
    def _ordered(self) -> "PairParams":
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")
        return self


def pair_function(query: Any, ctx: Any) -> Generator[Any, Any, Any]:
    """Draws a pair
    of samples.

    And says nothing more.
    """
    yield Expand([query.root], 2)


PAIR = policy("pair", params=PairParams, source="nobody")(pair_function)


def test_a_declared_policy_says_what_it_is():
    assert (PAIR.name, PAIR.source, PAIR.function) == ("pair", "nobody", pair_function)
    assert PAIR.summary == "Draws a pair of samples."
    assert (PAIR.stops_at_confidence, PAIR.roles, PAIR.version) == (False, ("small",), 1)


def test_parameters_are_checked_and_have_defaults():
    assert PAIR.params({}) == PairParams()
    assert PAIR.params({"high": 9}) == PairParams(high=9)


@pytest.mark.parametrize(
    ("values", "message", "field"),
    [
        ({"wide": 3}, "policy 'pair' has no parameter 'wide'; it has: low, high", "wide"),
        ({"low": -1}, "policy 'pair': low=-1 is not valid: Input should be greater than or equal to 0", "low"),
        ({"low": "much"}, "policy 'pair': low='much' is not valid: Input should be a valid integer", "low"),
        ({"low": 3}, "policy 'pair': low=3 is above high=2", "params"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_name_and_the_ones_that_exist(
    values: dict[str, Any], message: str, field: str
):
    with pytest.raises(InvalidRequest) as caught:
        PAIR.params(values)
    assert str(caught.value).startswith(message)
    assert caught.value.field == field


def test_a_policy_without_parameters_says_so():
    with pytest.raises(InvalidRequest, match="has no parameter 'n'; it has: none"):
        policy("plain")(pair_function).params({"n": 1})


def test_parameters_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        PairParams().low = 2  # type: ignore[misc]


def test_fingerprints_tell_names_versions_and_parameters_apart():
    params = PAIR.params({})
    other_name = policy("other", params=PairParams)(pair_function)
    other_version = policy("pair", params=PairParams, version=2)(pair_function)
    prints = {
        PAIR.fingerprint(params),
        PAIR.fingerprint(PAIR.params({"high": 3})),
        other_name.fingerprint(params),
        other_version.fingerprint(params),
    }
    assert len(prints) == 4
    assert PAIR.fingerprint(PAIR.params({"low": 1, "high": 2})) == PAIR.fingerprint(params)


def test_a_plain_generator_function_is_a_policy_with_free_parameters():
    spec = as_policy(pair_function)
    assert (spec.name, spec.params_type) == ("pair_function", AnyParams)
    params: Any = spec.params({"anything": [1, 2]})
    assert params.anything == [1, 2]
    assert as_policy(PAIR) is PAIR


@pytest.mark.parametrize("value", [len, lambda query, ctx: None, 7, None])
def test_what_is_no_generator_function_is_no_policy(value: Any):
    with pytest.raises(InvalidRequest, match="must be a generator function") as caught:
        as_policy(value)
    assert caught.value.field == "policy"


def test_only_functions_that_can_be_imported_again_have_a_name_to_import():
    def closure(query: Any, ctx: Any) -> None: ...

    def scripted(query: Any, ctx: Any) -> None: ...

    scripted.__module__ = "__main__"
    scripted.__qualname__ = "scripted"
    assert importable_name(pair_function) == f"{__name__}:pair_function"
    assert PAIR.import_name == f"{__name__}:pair_function"
    assert importable_name(closure) is None
    assert importable_name(lambda: None) is None
    assert importable_name(scripted) is None


def test_each_new_root_has_a_name_of_its_own():
    context = PolicyContext(PairParams(), np.random.default_rng(0))
    first, second = (context.new_root([Message("user", text)]) for text in ("Plan it.", "Judge it."))
    assert (first.id, second.id) == ("r1", "r2")
    assert first.is_root
    assert second.messages == (Message("user", "Judge it."),)
    assert not second.answers_query
    assert context.new_root([Message("user", "Improve it.")], answers_query=True).answers_query
