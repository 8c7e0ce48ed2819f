"""``ttc plan``: from a trace to files, in the terminal and for scripts; what is wrong is one line."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.api.cli import main
from orchestrator.api.commands.plan import plan
from orchestrator.errors import InvalidRequest, NoPlan
from orchestrator.fleet_file import read_fleet

LOAD = ["--rate", "4", "--input-tokens", "mean=400,cv=1", "--output-tokens", "mean=200,cv=0.5"]
MODEL = ["--model", "llama-3.1-8b"]
FEW = ["--gpu", "L4", "--gpu", "L40S", "--ttft", "3"]
# Rows of AzureLLMInferenceTrace_conv.csv (Azure public dataset 2023, CC-BY).
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""


def run(*options: str) -> Result:
    return CliRunner().invoke(plan, list(options))


def test_a_described_load_is_planned_in_tables() -> None:
    result = run(*LOAD, *MODEL, *FEW)
    assert result.exit_code == 0, result.output
    for text in ("llama-3.1-8b", "only L4", "only L40S", "proven cheapest", "assumed:", "idealised", "check them"):
        assert text in result.output


def test_a_trace_is_planned_as_json(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    result = run("--trace", str(tmp_path / "trace.csv"), *MODEL, *FEW, "--scale", "10", "--json")
    data = json.loads(result.stdout)
    assert data["load"]["queries_per_s"] == pytest.approx(10 / 4.314579)
    assert data["is_proven_cheapest"] is True
    assert data["usd_per_hour"] > 0


def test_files_are_written_and_not_replaced_unasked(tmp_path: Path) -> None:
    out, picture = tmp_path / "out", tmp_path / "plan.png"
    options = [*LOAD, *MODEL, *FEW, "--out", str(out), "--draft", "llama-3.2-1b"]
    result = run(*options, "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert read_fleet(out / "fleet.toml").roles
    assert (out / "ray_cluster.yaml").read_text().startswith("# Made by")
    assert json.loads((out / "plan.json").read_text())["roles"]
    again = run(*options)
    assert isinstance(again.exception, InvalidRequest)
    assert "--overwrite" in again.exception.message
    assert run(*options, "--overwrite").exit_code == 0


def test_roles_policies_and_measurements_are_understood(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        "model,gpu,gpus,input_tokens,output_tokens,requests_per_s\nllama-3.1-8b,L4,1,400,200,9\n"
    )
    result = run(
        *LOAD, *MODEL, *FEW, "--model", "verifier=llama-3.2-3b", "--policy", "best_of_n", "--width", "4",
        "--profiles", str(tmp_path / "p.csv"), "--assume", "compute=0.3", "--json",
    )  # fmt: skip
    data = json.loads(result.stdout)
    assert [role["role"] for role in data["roles"]] == ["small", "verifier"]
    assert data["roles"][0]["requests_per_s"] == pytest.approx(16)
    assert "30% of peak FLOPs" in "\n".join(data["assumptions"])


def test_a_catalogue_of_ones_own_is_used(tmp_path: Path) -> None:
    (tmp_path / "gpus.toml").write_text(
        'source = "ours"\ndate = "today"\n[gpus.X]\nkind = "X"\nmemory_gib = 80\nbandwidth_gb_s = 3000\n'
        'fp16_tflops = 900\noffers = [{ name = "x1", gpus = 1, usd_per_hour = 0.01 }]\n'
    )
    data = json.loads(run(*LOAD, *MODEL, "--gpus", str(tmp_path / "gpus.toml"), "--json").stdout)
    assert data["nodes"][0]["gpu"] == "X"
    assert data["assumptions"][0].startswith("prices: ours, today")


def test_requests_beyond_the_context_are_refused_or_left_out() -> None:
    load = ["--rate", "1", "--input-tokens", "mean=2000,cv=1.5", "--output-tokens", "100"]
    refused = run(*load, "--model", "llama-2-7b", *FEW)
    assert isinstance(refused.exception, InvalidRequest)
    assert "--over-context drop" in refused.exception.message
    result = run(*load, "--model", "llama-2-7b", *FEW, "--over-context", "drop")
    assert result.exit_code == 0, result.output
    assert "longer than 4,096 tokens" in result.output


def test_lists_say_what_there_is(tmp_path: Path) -> None:
    assert "p5.48xlarge" in run("gpus").output
    assert json.loads(run("gpus", "--json").stdout)["gpus"]["L4"]["memory_gib"] > 20
    assert "qwen2.5-7b" in run("models").output
    assert {"name", "parameters", "context"} <= set(json.loads(run("models", "--json").stdout)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name a model"),
        (MODEL, "--trace FILE, or --rate"),
        ([*MODEL, "--rate", "1", "--input-tokens", "5"], "--output-tokens"),
        ([*LOAD, *MODEL, "--trace", "x.csv"], "leave --input-tokens"),
        ([*LOAD, "--model", "judge=llama-3.1-8b"], "no role 'judge'"),
        ([*LOAD, *MODEL, *MODEL], "small twice"),
        ([*LOAD, "--model", "gpt-9"], "unknown model shape"),
        ([*LOAD, *MODEL, "--cap", "L4"], "--cap must be"),
        ([*LOAD, *MODEL, "--cap", "L5=3"], "unknown GPU"),
        ([*LOAD, *MODEL, "--gpu", "L5"], "unknown GPU"),
        ([*LOAD, *MODEL, "--weight-bits", "0"], "weight-bits"),
        ([*LOAD, *MODEL, "--assume", "luck=1"], "luck"),
        ([*LOAD, *MODEL, "--ttft", "0"], "ttft"),
        ([*LOAD, *MODEL, "--tpot", "nan"], "tpot"),
        ([*LOAD, *MODEL, "--draft", "gpt-9"], "unknown model shape"),
        ([*LOAD, *MODEL, "--policy", "guess"], "unknown policy"),
        ([*LOAD, *MODEL, "--gpus", "nowhere.toml"], "nowhere.toml"),
        ([*LOAD, *MODEL, "--profiles", "nowhere.csv"], "nowhere.csv"),
        (["--trace", "nowhere.csv", *MODEL], "nowhere.csv"),
        ([*LOAD, *MODEL, *FEW, "--plot", "/nowhere/x.png"], "cannot write"),
        ([*LOAD, *MODEL, *FEW, "--out", "/dev/null/x"], "cannot write"),
        ([*LOAD, *MODEL, "--rate", "-1"], "rate"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 2


def test_no_plan_is_json_with_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LOAD, *MODEL, "--tpot", "0.0001", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == NoPlan.code
    assert "TPOT" in error["reasons"][0]


@pytest.mark.parametrize("command", [[], ["gpus"], ["models"]])
def test_every_command_explains_itself(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert len(result.output) > 100


def test_a_planned_fleet_passes_the_check_of_fleets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    assert run(*LOAD, *MODEL, *FEW, "--draft", "llama-3.2-1b", "--out", str(out)).exit_code == 0
    assert main(["fleet", "check", "--no-connect", str(out / "fleet.toml")]) == 0
    assert "fits" in capsys.readouterr().out
