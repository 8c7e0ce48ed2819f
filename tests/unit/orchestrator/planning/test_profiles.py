"""Measurements win over what is computed, near where they were made."""

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.planning.capacity import Limit, capacity
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.profiles import Profiles, with_measurements
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.throughput import Deployment, StepTimes
from orchestrator.planning.workload import Objectives, Workload

HEAD = "model,gpu,gpus,input_tokens,output_tokens,requests_per_s,ttft_s,tpot_s\n"
CURVE = HEAD + (
    "llama-3.1-8b,L4,1,1000,200,0.5,0.3,0.05\n"
    "llama-3.1-8b,L4,1,1000,200,0.9,0.8,0.07\n"
    "llama-3.1-8b,L4,1,1000,200,1.2,3.0,0.20\n"
)
PLACE = Deployment(open_shape("llama-3.1-8b"), Catalogue.default().gpus["L4"], 1)
TIMES = StepTimes(PLACE)


def load(*sizes: tuple[float, float]) -> Workload:
    inputs, outputs = np.array(sizes, dtype=np.float64).T
    return Workload.of_lengths(inputs, outputs, rate=1.0)


def measured(path: Path, text: str, workload: Workload, goals: Objectives) -> tuple[list[float], list[bool]]:
    path.write_text(text)
    rows = Profiles.read(path).of(PLACE)
    found = with_measurements(capacity(TIMES, workload, goals), rows, TIMES, workload, goals)
    return found.rates.tolist(), found.is_measured.tolist()


def test_the_largest_rate_that_keeps_the_objectives_counts(tmp_path: Path) -> None:
    rates, is_measured = measured(tmp_path / "p.csv", CURVE, load((1000, 200)), Objectives(ttft_s=1.0, tpot_s=0.1))
    assert (rates, is_measured) == ([0.9], [True])


def test_a_curve_that_never_keeps_them_serves_nothing(tmp_path: Path) -> None:
    rates, _ = measured(tmp_path / "p.csv", CURVE, load((1000, 200)), Objectives(ttft_s=0.1, tpot_s=0.1))
    assert rates == [0]


def test_requests_of_other_sizes_stay_computed_and_near_ones_are_carried_over(tmp_path: Path) -> None:
    goals = Objectives(ttft_s=2.0, tpot_s=0.1)
    far, near = (100, 20), (1500, 300)
    rates, is_measured = measured(tmp_path / "p.csv", CURVE, load(near, far), goals)
    assert is_measured == [True, False]
    assert rates[1] == capacity(TIMES, load(far), goals).rates[0]
    free = capacity(TIMES, load(near, (1000, 200)), Objectives(ttft_s=1e6, tpot_s=1e6)).rates
    assert rates[0] == pytest.approx(0.9 * free[0] / free[1])
    assert rates[0] < 0.9


def test_latencies_may_be_left_out(tmp_path: Path) -> None:
    text = "model,gpu,input_tokens,output_tokens,requests_per_s\nllama-3.1-8b,L4,1000,200,7\n"
    assert measured(tmp_path / "p.csv", text, load((1000, 200)), Objectives(ttft_s=0.1)) == ([7], [True])


def test_json_is_read_too(tmp_path: Path) -> None:
    row = {"model": "llama-3.1-8b", "gpu": "L4", "input_tokens": 1000, "output_tokens": 200, "requests_per_s": 7}
    for data in ([row], {"profiles": [row]}):
        assert measured(tmp_path / "p.json", json.dumps(data), load((1000, 200)), Objectives()) == ([7], [True])


def test_rows_of_other_models_and_gpus_do_not_speak_for_this_one(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(CURVE.replace("L4", "H100"))
    assert Profiles.read(path).of(PLACE) == ()


def test_a_measured_kind_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(CURVE)
    goals, workload = Objectives(ttft_s=1.0), load((1000, 200))
    computed = capacity(TIMES, workload, goals)
    found = with_measurements(computed, Profiles.read(path).of(PLACE), TIMES, workload, goals)
    assert found.limits == (Limit.MEASURED,)
    assert with_measurements(computed, (), TIMES, workload, goals) is computed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no measurements"),
        (HEAD, "no measurements"),
        ("[]", "no measurements"),
        ("[", "cannot read"),
        ('{"rows": []}', "profiles"),
        ("[1]", "measurement 1"),
        (HEAD + "m,L4,1,1000,200,-1,,\n", "requests_per_s"),
        (HEAD + "m,L4,1,1000,200,nan,,\n", "requests_per_s"),
        (HEAD + "m,L4,0,1000,200,1,,\n", "gpus"),
        (HEAD + "m,L4,1,0,200,1,,\n", "input_tokens"),
        (HEAD + "m,L4,1\n", "measurement 1"),
        (HEAD + "m,L4,1,5,5,5,5,5,5\n", "measurement 1"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "p"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=reason):
        Profiles.read(path)
