"""What a fleet file may say, and what it is told when it says something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import Autoscale, Replicas, read_fleet

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
