"""Models of a fleet file, opened in this process: arguments, names, prices, roles."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from orchestrator.config import LlamaCppSettings, OpenAISettings, Settings
from orchestrator.cost import TokenPrices
from orchestrator.engine import Embeds, Engine, RewardsSteps, ScoresTokens, Tokenizes
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.fleet_file import FleetFile, ModelEntry, Prices
from orchestrator.fleet_file.member import as_member
from orchestrator.fleet_file.opening import engine_settings, open_fleet_file, recorded_models
from orchestrator.in_process import Orchestrator
from orchestrator.testing.scripted import ScriptedEngine

PAIR = FleetFile.model_validate(
    {
        "models": {
            "cheap": {"model": "scripted:arithmetic", "roles": ["small"], "prices": {"prompt_usd": 1, "output_usd": 5}},
            "dear": {"model": "scripted:arithmetic,accuracy=1", "roles": ["large"]},
        }
    }
)


def settings_of(**given: object) -> Settings:
    return Settings.model_construct(**{"llama_cpp": LlamaCppSettings(), "openai": OpenAISettings(), **given})


def entry(model: str, **engine: object) -> ModelEntry:
    return ModelEntry(model=model, engine=engine)


def test_arguments_go_to_the_settings_of_their_engine():
    own = settings_of(llama_cpp=LlamaCppSettings(num_threads=3, context_cells=1024))
    for model in ("some.gguf", "lab:small", "hosted:lab:small"):
        given = engine_settings(entry(model, context_cells=2048), own)
        assert given.llama_cpp == LlamaCppSettings(num_threads=3, context_cells=2048)
    assert engine_settings(entry("lab:small"), own) is own


def test_variables_of_arguments_are_read_when_a_model_is_opened():
    given = entry("openai:m", api_key="${KEY}", base_url="http://h/v1")
    opened = engine_settings(given, settings_of(), environ={"KEY": "private"})
    assert opened.openai.api_key == SecretStr("private")
    with pytest.raises(InvalidRequest, match=r"models\.m\.engine\.api_key refers to \$\{KEY\}, which is not set"):
        engine_settings(given, settings_of(), name="m", environ={})


def test_a_configured_key_goes_to_its_own_address_only():
    own = settings_of(openai=OpenAISettings(base_url="http://mine/v1", api_key=SecretStr("private")))
    elsewhere = engine_settings(entry("openai:m", base_url="http://elsewhere/v1"), own)
    assert elsewhere.openai.api_key is None
    at_home = engine_settings(entry("openai:m", options={"context_length": 5}), own)
    assert at_home.openai.api_key == SecretStr("private")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            entry("lab:small", context_cell=4096),
            r"models\.m\.engine has no argument 'context_cell'; known: context_cells",
        ),
        (entry("lab:small", context_cells=4), r"models\.m\.engine\.context_cells = 4 is not valid"),
        (entry("scripted:arithmetic", speed=4), r"'scripted' of 'scripted:arithmetic' takes no arguments; leave speed"),
    ],
)
def test_arguments_that_an_engine_does_not_know_are_refused(given: ModelEntry, said: str):
    with pytest.raises(InvalidRequest, match=said):
        engine_settings(given, settings_of(), name="m")


def test_a_secret_of_a_wrong_type_is_not_shown():
    with pytest.raises(InvalidRequest) as caught:
        engine_settings(entry("openai:m", api_key=["${KEY}"]), settings_of(), environ={"KEY": "private"})
    assert "private" not in str(caught.value.fields())


async def test_members_have_their_names_prices_and_roles():
    opened: list[Engine] = []
    fleet = await open_fleet_file(PAIR, settings=settings_of(), opened=opened)
    name, engine = fleet.resolve("small")
    assert (name, engine.describe().name) == ("cheap", "cheap")
    assert engine.describe().cost.prices == TokenPrices(prompt_usd=1, output_usd=5)
    assert fleet.resolve("large")[0] == "dear"
    assert len(opened) == 2


async def test_another_model_may_play_a_role_of_the_fleet():
    mine = ScriptedEngine("7", name="dear")
    opened: list[Engine] = []
    fleet = await open_fleet_file(
        PAIR, settings=settings_of(), opened=opened, overrides={"small": "dear", "verifier": mine}
    )
    assert fleet.resolve("small")[0] == "dear"
    assert fleet.resolve("verifier") == ("dear#2", mine)
    assert mine not in opened
    assert recorded_models(PAIR, {"small": "dear", "verifier": mine}) == {
        "small": "scripted:arithmetic,accuracy=1",
        "large": "scripted:arithmetic,accuracy=1",
        "verifier": mine,
    }


async def test_a_fleet_without_a_small_model_says_so():
    fleet = FleetFile(models={"m": ModelEntry(model="scripted:arithmetic", roles=("embedder",))})
    with pytest.raises(InvalidRequest, match=r'add roles = \["small"\] to one of: m'):
        await open_fleet_file(fleet, settings=settings_of(), opened=[])


async def test_what_cannot_be_opened_is_said_with_its_place():
    fleet = FleetFile(models={"m": ModelEntry(model="lab:huge")})
    with pytest.raises(UnknownName, match=r"the fleet: models\.m: unknown model of the lab 'huge'") as caught:
        await open_fleet_file(fleet, settings=settings_of(), opened=[])
    assert caught.value.name == "huge"


def test_a_member_has_exactly_the_protocols_of_its_engine():
    class Plain(ScriptedEngine):
        pass

    engine = ScriptedEngine("7", name="own")
    assert as_member(engine, name="own") is engine
    member = as_member(engine, name="listed", prices=TokenPrices(output_usd=1))
    for ability in (Tokenizes, ScoresTokens, Embeds, RewardsSteps):
        assert isinstance(member, ability) == isinstance(engine, ability)
    assert isinstance(member, Engine)
    assert isinstance(member, Tokenizes)
    assert member.tokenize("a b") == engine.tokenize("a b")


async def test_the_sdk_charges_the_prices_of_the_file(tmp_path: Path):
    file = tmp_path / "fleet.toml"
    file.write_text('[models.m]\nmodel = "scripted:arithmetic"\nprices = { output_usd = 1000 }', encoding="utf-8")
    async with Orchestrator(fleet=file) as ttc:
        result = await ttc.solve("What is 3 + 4?", policy="single", seed=1)
        record = await ttc.store.get(result.job_id)
    assert result.usage.picodollars == result.usage.output_tokens * 10**9
    assert record.spec["models"] == {"small": "scripted:arithmetic"}
    assert Prices(output_usd=1000).per_token(gpus=0) == TokenPrices(output_usd=1000)
