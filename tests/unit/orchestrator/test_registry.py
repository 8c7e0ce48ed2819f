from __future__ import annotations

import pytest

from orchestrator import registry
from orchestrator.errors import CallerError, InvalidRequest, UnknownName
from orchestrator.policy import PolicySpec


@pytest.mark.parametrize("kind", ["policy", "verifier", "engine", "answer reader", "command"])
def test_everything_registered_can_be_loaded_and_names_are_sorted(kind: registry.Kind) -> None:
    names = registry.names(kind)
    assert names
    assert list(names) == sorted(names)
    for name in names:
        assert registry.load(kind, name) is not None


def test_every_policy_has_a_summary() -> None:
    for name in registry.names("policy"):
        found = registry.load_policy(name)
        assert isinstance(found, PolicySpec)
        assert found.name == name
        assert found.summary


def test_unknown_names_list_what_exists() -> None:
    with pytest.raises(UnknownName) as caught:
        registry.load_policy("singel")
    assert "single" in str(caught.value)


@pytest.mark.parametrize("name", ["no.such:policy", "json:nothing", ":", "json:", "a b:c"])
def test_modules_and_functions_that_do_not_exist_are_unknown(name: str) -> None:
    with pytest.raises(CallerError):
        registry.load_policy(name)


@pytest.mark.parametrize("name", ["json:dumps", "json:JSONDecoder", "math:pi"])
def test_what_is_no_policy_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        registry.load_policy(name)
