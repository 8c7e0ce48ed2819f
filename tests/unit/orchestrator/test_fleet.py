from __future__ import annotations

import pytest

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.fleet import Fleet
from orchestrator.testing import ScriptedEngine


def test_a_single_engine_plays_small_and_what_small_stands_in_for() -> None:
    engine = ScriptedEngine("x", name="m")
    fleet = Fleet({"m": engine})
    assert fleet.roles == {"small", "verifier", "embedder", "draft"}
    for name in ("small", "verifier", "embedder", "m"):
        assert fleet.resolve(name) == ("m", engine)


@pytest.mark.parametrize("role", ["large", "target", "huge"])
def test_roles_that_nobody_can_play_are_unknown(role: str) -> None:
    with pytest.raises(UnknownName) as caught:
        Fleet({"m": ScriptedEngine("x", name="m")}).resolve(role)
    assert caught.value.name == role
    assert "m" in caught.value.known


def test_a_verifier_is_rather_the_large_model_than_the_small_one() -> None:
    small, large = ScriptedEngine("x", name="s"), ScriptedEngine("x", name="l")
    fleet = Fleet({"s": small, "l": large}, {"small": "s", "large": "l"})
    assert fleet.resolve("verifier") == ("l", large)
    assert fleet.resolve("embedder") == ("s", small)


def test_a_fleet_without_models_or_with_strange_roles_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        Fleet({})
    with pytest.raises(UnknownName):
        Fleet({"m": ScriptedEngine("x")}, {"boss": "m"})
    with pytest.raises(UnknownName):
        Fleet({"m": ScriptedEngine("x")}, {"small": "n"})


async def test_each_engine_is_met_and_closed_once() -> None:
    engine = ScriptedEngine("x")
    fleet = Fleet({"a": engine, "b": engine}, {"small": "a", "large": "b"})
    assert list(fleet) == [engine]
    await fleet.aclose()
    assert not (await engine.health()).is_ready


def test_engines_of_one_name_are_told_apart_by_role() -> None:
    fleet = Fleet.of(small=ScriptedEngine("x"), large=ScriptedEngine("y"))
    assert fleet.resolve("small")[0] != fleet.resolve("large")[0]
