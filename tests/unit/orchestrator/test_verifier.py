from dataclasses import dataclass

import pytest

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.verifier import Verifier, build_verifier, describe_verifier, installed_verifiers, open_verifier


@dataclass(frozen=True, kw_only=True)
class Strict:
    """Checks everything

    twice.
    """

    level: int
    labels: tuple[str, ...] = ()

    name = "strict"
    source = "A paper"

    async def score(self, candidates, meter):
        return [1.0 for _ in candidates]


class Plain:
    """Checks."""

    name = "plain"

    def __init__(self, level: int = 3) -> None:
        self.level = level

    async def score(self, candidates, meter):
        return [0.0 for _ in candidates]


def test_the_built_in_verifiers_are_found_and_describe_themselves():
    for name, kind in installed_verifiers().items():
        info = describe_verifier(name, kind)
        assert info.summary.endswith(".")
        assert info.source
    assert {"generative", "majority"} <= installed_verifiers().keys()
    assert isinstance(open_verifier("majority"), Verifier)


def test_a_description_lists_parameters_with_their_defaults():
    info = describe_verifier("strict", Strict)
    assert (info.summary, info.source, info.needs) == ("Checks everything", "A paper", ())
    assert info.parameters == {"level": "required", "labels": "()"}
    assert describe_verifier("plain", Plain).parameters == {"level": "3"}


def test_parameters_are_checked_by_name_and_type():
    assert build_verifier("strict", Strict, {"level": 2}) == Strict(level=2)
    assert build_verifier("plain", Plain, {}).level == 3
    with pytest.raises(InvalidRequest, match="no parameter 'depth'; it has: level, labels"):
        build_verifier("strict", Strict, {"depth": 2})
    with pytest.raises(InvalidRequest, match="needs the parameter 'level'"):
        build_verifier("strict", Strict, {})
    with pytest.raises(InvalidRequest, match="level='deep' is not valid") as raised:
        build_verifier("strict", Strict, {"level": "deep"})
    assert raised.value.field == "level"


def test_an_unknown_name_lists_those_that_exist():
    with pytest.raises(UnknownName, match="generative, majority"):
        open_verifier("oracle")
