"""``ttc plan simulate`` from its options to its tables, JSON and picture."""

import json
from pathlib import Path

import pytest

from orchestrator.api.cli import main
from orchestrator.api.terminal.simulating import parse_kind
from orchestrator.errors import InvalidRequest

QUICK = ["--recorded", "3", "--output-tokens", "60", "--prompt-tokens", "80", "--seeds", "2", "--duration", "20"]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["plan", "simulate", *QUICK, *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_loads_are_shares_of_the_saturation_rate_and_numbers_have_intervals(capsys):
    code, out, _ = run(capsys, "--gpu", "A10G", "--load", "0.4,0.8", "--policy", "self_consistency:n=4", "--json")
    assert code == 0
    found = json.loads(out)
    assert [row["load"] for row in found["rows"]] == [0.4, 0.8]
    assert found["rows"][1]["rate"] == pytest.approx(0.8 * found["saturation_jobs_per_s"])
    assert found["sequences_per_job"] == 4
    for row in found["rows"]:
        mean, half = row["throughput"]
        assert mean == pytest.approx(row["rate"], rel=0.5)
        assert half is not None
        assert 0 < row["job_p50_s"][0] <= row["job_p95_s"][0]


def test_tables_name_the_fleet_the_models_and_what_is_on_paper(capsys):
    code, out, _ = run(capsys, "--rate", "2", "--model", "qwen2.5-7b", "--replicas", "2", "--times", "1,2")
    assert code == 0
    assert "2 GPUs" in out
    assert "job p95" in out
    assert "On paper" in out
    assert "small" in out


def test_a_fleet_file_a_trace_and_a_mix_of_policies(capsys, tmp_path: Path):
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        '[models.worker]\nmodel = "vllm:some/model"\nroles = ["small"]\nreplicas = 2\n'
        'accelerator = { kind = "L4", gpus = 1 }\n',
        encoding="utf-8",
    )
    trace = tmp_path / "trace.csv"
    rows = [f"{number},{100 + number},{50 + number}" for number in range(30)]
    trace.write_text("\n".join(["Timestamp,Request tokens,Response tokens", *rows]), encoding="utf-8")
    code, out, err = run(
        capsys,
        *("--fleet", str(fleet), "--shape", "worker=llama-3.1-8b", "--trace", str(trace), "--json"),
        *("--policy", "single@0.7", "--policy", "self_consistency:n=2@0.3"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["gpus"] == 2
    assert found["rows"][0]["rate"] == pytest.approx(1.0)


def test_a_picture_is_drawn(capsys, tmp_path: Path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "load.png"
    code, _, err = run(capsys, "--load", "0.5", "--plot", str(picture))
    assert code == 0, err
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--policy", "beam_search"], "--model verifier=MODEL"),
        (["--policy", "self_consistency:n"], "cannot read --policy"),
        (["--policy", "self_consistency:n=0"], "n=0"),
        (["--policy", "no_such_policy"], "no_such_policy"),
        (["--gpu", "ABACUS"], "ABACUS"),
        (["--model", "llama-3.1-70b", "--gpu", "L4"], "does not fit"),
        (["--load", "0,1"], "--load"),
        (["--times", "1.5"], "whole numbers"),
        (["--times", "100000", "--replicas", "100"], "cannot be simulated"),
        (["--warmup", "30"], "warm-up"),
        (["--rate", "-1"], "rate"),
        (["--replicas", "many"], "whole number"),
        (["--seeds", "0"], "seeds"),
        (["--rate", "1", "--job-p95", "3"], "--load"),
        (["--plot", "/no/such/folder/x.png"], "no folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, args: list[str], said: str):
    code, out, err = run(capsys, *args)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not out


def test_kinds_of_jobs_are_read():
    assert parse_kind("single") == ("single", {}, 1.0)
    assert parse_kind("best_of_n:n=4,x=0.5,flag=true,name=y@0.25") == (
        "best_of_n",
        {"n": 4, "x": 0.5, "flag": True, "name": "y"},
        0.25,
    )
    with pytest.raises(InvalidRequest, match="--policy"):
        parse_kind("@2")
