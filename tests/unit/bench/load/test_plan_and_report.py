"""Plans are made of the options or refused; reports say what was measured; the command refuses before it sends."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.bench.load import load
from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.exchange import Exchange, Outcome
from orchestrator.bench.load.measures import Run, measured
from orchestrator.bench.load.plan import PlanOptions, made_plan
from orchestrator.bench.load.plot import write_plot
from orchestrator.bench.load.report import page, write_files
from orchestrator.bench.load.slo import Slo
from orchestrator.bench.report import machine
from orchestrator.errors import InvalidRequest, StoreFailed

NOWHERE = ("--url", "http://127.0.0.1:1/v1")


def finished(index: int, at_s: float, **fields: Any) -> Exchange:
    made = Exchange(index, Arrival(at_s, 10, 5), Outcome.COMPLETED, sent_s=at_s + 0.001, **fields)
    made.chunk_times_s.extend([at_s + 0.2, at_s + 0.3])
    made.end_s = at_s + 0.31
    return made


@pytest.fixture
def result() -> dict[str, Any]:
    failed = finished(1, 1.0, error="http_429", message="slow | down")
    failed.outcome = Outcome.FAILED
    exchanges = [finished(0, 0.5), failed, Exchange(2, Arrival(1.2, 10, 5), Outcome.DROPPED)]
    run = Run([*(each.arrival for each in exchanges), Arrival(3.0, 1, 1)], exchanges, 2.0, 0.1)
    return {
        "plan": {"description": "m at h:1. 4 requests."},
        "is_stopped": True,
        "figures": measured(run, slo=Slo(ttft=0.5)),
        "machine": machine(),
        "exchanges": exchanges,
    }


def test_a_poisson_plan_has_lengths_and_prompts_of_its_own():
    plan = made_plan(PlanOptions(rate=5.0, duration=20.0, input_tokens="40", output_tokens="mean=30,cv=0.5"))
    assert 60 < len(plan.arrivals) < 140
    assert {arrival.input_tokens for arrival in plan.arrivals} == {40}
    assert len({arrival.output_tokens for arrival in plan.arrivals}) > 10
    assert "Poisson arrivals, 5 requests/s" in plan.description
    assert len(plan.prompts.text(0, plan.arrivals[0]).split()) == pytest.approx(40, abs=5)


def test_a_trace_keeps_its_lengths_unless_others_are_given(tmp_path: Path):
    path = tmp_path / "burst.csv"
    path.write_text("Timestamp,Request tokens,Response tokens\n5,472,18\n45,1087,230\n")
    plan = made_plan(PlanOptions(trace=str(path), speed=10.0, output_tokens="7"))
    assert plan.arrivals == (Arrival(0.0, 472, 7), Arrival(4.0, 1087, 7))
    assert "burst.csv at 10 times its speed; prompts of the trace's lengths" in plan.description


def test_problems_have_no_wanted_length(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "one?"}\n')
    plan = made_plan(PlanOptions(rate=1.0, limit=3, problems=str(path)))
    assert [(each.input_tokens, plan.prompts.text(0, each)) for each in plan.arrivals] == [(0, "one?")] * 3


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (PlanOptions(), "rate"),
        (PlanOptions(rate=1.0, trace="x"), "rate"),
        (PlanOptions(rate=1.0, speed=2.0), "speed"),
        (PlanOptions(rate=1.0, start=2.0), "start"),
        (PlanOptions(rate=1e9), "rate"),
        (PlanOptions(rate=1e-6, duration=1.0), "duration"),
        (PlanOptions(rate=1.0, problems="x", input_tokens="5"), "input_tokens"),
        (PlanOptions(rate=1.0, output_tokens="many"), "output_tokens"),
        (PlanOptions(trace="no such file"), "trace"),
        (PlanOptions(rate=1.0, problems="no such file"), "file"),
    ],
)
def test_plans_that_make_no_sense_are_refused_by_field(options: PlanOptions, field: str):
    with pytest.raises(InvalidRequest) as caught:
        made_plan(options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "arguments",
    [("--rate", "nan"), ("--rate", "inf"), ("--rate", "0"), ("--rate", "1", "--timeout", "nan"), ("--limit", "0")],
)
def test_numbers_out_of_range_are_refused_by_the_option(arguments: tuple[str, ...]):
    outcome = CliRunner().invoke(load, [*NOWHERE, *arguments])
    assert outcome.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in outcome.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "ftp://host/v1", "--rate", "1"), "is no http address"),
        (("--url", "http://me:secret@host/v1", "--rate", "1"), "must not hold credentials"),
        ((*NOWHERE, "--rate", "1", "--extra-body", "{"), "--extra-body is not JSON"),
        ((*NOWHERE, "--rate", "1", "--extra-body", "[]"), "must be a JSON object"),
        ((*NOWHERE, "--rate", "1", "--extra-body", '{"stream": false}'), "must not set 'stream'"),
        ((*NOWHERE, "--rate", "1", "--out", "/dev/null/x"), "cannot write to --out"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_sent(arguments: tuple[str, ...], words: str):
    error = CliRunner().invoke(load, list(arguments)).exception
    assert isinstance(error, InvalidRequest)
    assert words in str(error)
    assert "secret" not in str(error.fields())


def test_a_key_that_fits_no_header_is_refused_unseen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTC_BENCH_API_KEY", "se\ncret")
    error = CliRunner().invoke(load, [*NOWHERE, "--rate", "1"]).exception
    assert isinstance(error, InvalidRequest)
    assert "cret" not in str(error.fields()).replace("no key has", "")


def test_the_page_tells_counts_errors_goodput_and_that_the_run_was_stopped(result: dict[str, Any]):
    text = page(result)
    assert "**Stopped before its end.**" in text
    assert "2 of 4 requests sent, 1 completed, 1 failed, 1 dropped" in text
    assert "## Goodput: 0.5 requests/s\n\n1 of 3 requests (33%) kept ttft at most 0.5 s" in text
    assert r"| http_429 | 1        | slow \| down" in text
    assert "estimated by chunks for 1 requests" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in tables)


def test_the_files_hold_the_figures_and_every_request(tmp_path: Path, result: dict[str, Any]):
    exchanges = result.pop("exchanges")
    write_files(tmp_path, result, exchanges)
    assert json.loads((tmp_path / "load.json").read_text())["figures"] == result["figures"]
    assert (tmp_path / "load.md").read_text() == page(result)
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["completed", "failed", "dropped"]
    assert rows[0]["chunk_times_s"] == [0.7, 0.8]
    with pytest.raises(StoreFailed, match="cannot write"):
        write_files(tmp_path / "load.md", result, exchanges)


def test_the_plot_is_a_picture(tmp_path: Path, result: dict[str, Any]):
    pytest.importorskip("matplotlib")
    path = tmp_path / "load.png"
    write_plot(path, result["figures"]["windows"], title="a title " * 30, slo_s={"ttft": 0.5})
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_help_teaches_with_examples():
    text = CliRunner().invoke(load, ["--help"]).output
    assert "ttc bench load --url http://127.0.0.1:8000/v1 --rate 2" in text
    assert "TTC_BENCH_API_KEY" in text
