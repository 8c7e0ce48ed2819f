"""What a fleet file may say, and what it is told when it says something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from orchestrator.cost import TokenPrices
from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import Accelerator, Autoscale, FleetFile, ModelEntry, Prices, Replicas
from orchestrator.fleet_reading import read_fleet

WHOLE = """
[models.small]
model = "vllm:Qwen/Qwen2.5-1.5B-Instruct"
roles = ["small", "verifier"]
replicas = { min = 1, max = 4 }
engine = { gpu_memory_utilization = 0.6, api_key = "${KEY}" }
accelerator = { kind = "A10G", gpus = 0.7, memory_gib = 24 }
cpus = 2
prices = { accelerator_hour_usd = 1.2, prompt_tokens_per_s = 8000, output_tokens_per_s = 1000 }
autoscale = { target_ongoing = 16 }

[models.draft]
model = "vllm:Qwen/Qwen2.5-0.5B-Instruct"
roles = ["draft"]
replicas = { min = 1, max = 4 }
accelerator = { kind = "A10G", gpus = 0.3 }
with = "small"

[cluster]
ray = "${HEAD}:6379"
namespace = "team"

[cluster.nodes.gpu]
cpus = 8
accelerator = { kind = "A10G", gpus = 1, memory_gib = 24 }
min = 0
max = 4
"""


@pytest.fixture
def read(tmp_path: Path):
    """Reads text as a fleet file, with ``HEAD`` set and ``KEY`` not."""

    def reading(text: str) -> FleetFile:
        file = tmp_path / "fleet.toml"
        file.write_text(text, encoding="utf-8")
        return read_fleet(file, environ={"HEAD": "head.example"})

    return reading


def test_a_whole_file_is_read(read):
    fleet = read(WHOLE)
    small, draft = fleet.models["small"], fleet.models["draft"]
    assert (small.replicas, small.autoscale) == (Replicas(min=1, max=4), Autoscale(target_ongoing=16))
    assert (draft.placed_with, fleet.company_of("small")) == ("small", ("draft",))
    assert fleet.roles == {"small": "small", "verifier": "small", "draft": "draft"}
    assert fleet.has_cluster
    assert fleet.cluster.nodes["gpu"].max == 4
    assert fleet.path is not None
    assert fleet.path.name == "fleet.toml"


def test_variables_are_filled_in_everywhere_but_in_the_arguments_of_engines(read):
    fleet = read(WHOLE)
    assert fleet.cluster.ray == "head.example:6379"
    assert fleet.models["small"].engine["api_key"] == "${KEY}"


def test_a_fleet_survives_being_sent_to_another_process(read):
    fleet = read(WHOLE)
    again = pickle.loads(pickle.dumps(fleet))
    assert again == fleet
    assert again.path == fleet.path


def test_replicas_may_be_a_number():
    assert ModelEntry.model_validate({"model": "m", "replicas": 3}).replicas == Replicas(min=3, max=3)
    assert Replicas.model_validate({"min": 2}) == Replicas(min=2, max=2)
    assert Replicas.model_validate({"min": 0}) == Replicas(min=0, max=1)


def test_a_lone_model_is_the_small_one(read):
    assert read('[models.it]\nmodel = "lab:small"').roles == {"small": "it"}
    assert read('[models.it]\nmodel = "lab:small"\nroles = ["embedder"]').roles == {"embedder": "it"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.m]\nmodel = 'x'\nreplica = 2", ["fleet.toml", "models.m.replica", "did you mean replicas?"]),
        ("[models.m]\nmodel = 'x'\nreplicas = {min = 1, mx = 2}", ["models.m.replicas.mx", "did you mean max?"]),
        ("[model.m]\nmodel = 'x'", ["fleet.toml"]),
        ("[models.m]\nmodel = 'x'\ncolour = 2", ["models.m.colour", "known:", "accelerator", "with"]),
        ("[models.m]\nmodel = 'x'\nreplicas = {min = 3, max = 2}", ["models.m.replicas", "max = 2", "min = 3"]),
        ("[models.m]\nmodel = 'x'\nreplicas = -1", ["models.m.replicas.min = -1"]),
        ("[models.m]\nmodel = 'x'\nreplicas = true", ["models.m.replicas = True"]),
        ("[models.m]\nmodel = 'x'\ncpus = nan", ["models.m.cpus = nan"]),
        ("[models.m]\nmodel = 'x'\naccelerator = {gpus = 1.5}", ["gpus = 1.5", "a share of one"]),
        ("[models.m]\nmodel = 'x'\naccelerator = {kind = 'L4'}", ["gpus is 0", "gpus = 1"]),
        ("[models.m]\nmodel = 'x'\nroles = ['big']", ["models.m.roles", "'big'", "small, large"]),
        ("[models.m]\nmodel = ''", ["models.m.model"]),
        ("[models.m]\nmodel = '  '", ["models.m.model", "ENGINE:TARGET"]),
        ("[models.m]\nroles = ['small']", ["models.m.model is missing"]),
        ("[models.m]\nmodel = 'x'\nautoscale = {}", ["models.m: autoscale", "raise max"]),
        ("[models.m]\nmodel = 'x'\nprices = {prompt_usd = 1, accelerator_hour_usd = 1}", ["two prices"]),
        ("[models.'a/b']\nmodel = 'x'", ["models.a/b", "letters, digits"]),
        ("[models.m]\nmodel = '${NOWHERE}'", ["models.m.model", "${NOWHERE}", "not set", "export NOWHERE="]),
        ("[models.m]\nmodel = '${a b}'", ["'${a b}' is no variable"]),
        ("[models.m]\nmodel = 'x'\n[cluster]\nray = 'somewhere'", ["cluster.ray = 'somewhere'", "local, auto"]),
        ("[models.m]\nmodel = 'x'\n[cluster]\nray = 'ray://h:10001'", ["ray start --address=HOST:PORT"]),
        ("[models.m]\nmodel = 'x'\n[models.n]\nmodel = 'x'\nwith = 'o'", ["models.n.with = 'o'", "others: m"]),
        ("[models.m]\nmodel = 'x'\nwith = 'm'", ["models.m.with = 'm'"]),
        (
            "[models.m]\nmodel = 'x'\nreplicas = 2\n[models.n]\nmodel = 'x'\nwith = 'm'",
            ["the same replicas", "1 and 2"],
        ),
        (
            "[models.m]\nmodel='x'\n[models.n]\nmodel='x'\nwith='m'\n[models.o]\nmodel='x'\nwith='n'",
            ["models.o.with = 'n'", "placed with another itself"],
        ),
        (
            "[models.m]\nmodel = 'x'\nroles = ['small']\n[models.n]\nmodel = 'x'\nroles = ['small']",
            ["models.n.roles", "models.m's already"],
        ),
        ("models = 3", ["models = 3"]),
        ("[models]", ["models", "at least 1"]),
        ("", ["models is missing"]),
        ("models = [", ["not valid TOML"]),
        ("a = " + "[" * 5000 + "]" * 5000, ["not valid TOML"]),
    ],
)
def test_what_is_wrong_is_said_with_key_value_and_way_out(read, text: str, said: list[str]):
    with pytest.raises(InvalidRequest) as caught:
        read(text)
    for part in ["fleet.toml", *said]:
        assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="cannot be read: No such file"):
        read_fleet(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "line",
    [
        'engine = { api_key = "very-private" }',
        'engine = { options = { headers = { Authorization = "Bearer very-private" } } }',
        'engine = { env = ["hf_veryprivate0123456789"] }',
        'engine = { hf_token = "very-private" }',
        'model = "openai:m@https://user:very-private@host/v1"',
        'engine = { base_url = "https://user:very-private@host/v1" }',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(read, line: str):
    model = "" if line.startswith("model") else 'model = "openai:m"\n'
    with pytest.raises(InvalidRequest) as caught:
        read(f"[models.m]\n{model}{line}")
    assert "${NAME}" in caught.value.message
    assert "private" not in str(caught.value.fields())


@pytest.mark.parametrize(
    "line", ['api_key = "${KEY}"', 'stop_token = "<end>"', "max_tokens = 5", 'base_url = "https://u:${P}@h/v1"']
)
def test_what_is_no_secret_is_not_taken_for_one(read, line: str):
    assert read(f'[models.m]\nmodel = "openai:m"\nengine = {{ {line} }}').models["m"].engine


def test_entries_made_in_python_hold_no_secrets_either():
    with pytest.raises(ValueError, match="in plain text"):
        ModelEntry(model="openai:m", engine={"api_key": "very-private"})


def test_prices_by_the_hour_become_prices_of_tokens_where_speeds_are_known():
    prices = Prices(accelerator_hour_usd=3.6, prompt_tokens_per_s=1000, output_tokens_per_s=100)
    # 2 accelerators cost 0.002 dollars per second.
    assert prices.per_token(gpus=2) == TokenPrices(prompt_usd=pytest.approx(2.0), output_usd=pytest.approx(20.0))
    assert Prices(accelerator_hour_usd=3.6).per_token(gpus=2) is None
    assert Prices().per_token(gpus=0) is None
    assert Prices(output_usd=2).per_token(gpus=0) == TokenPrices(output_usd=2)


def test_shares_of_accelerators_are_told_from_whole_ones():
    assert Accelerator(gpus=0.5).is_shared
    assert not Accelerator(gpus=2).is_shared
    assert not Accelerator().is_shared
