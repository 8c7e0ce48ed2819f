"""HumanEval and MBPP: candidates run with the tests, apart, within limits, and only where that has been allowed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestrator.bench.datasets import program_running
from orchestrator.bench.datasets.humaneval import open_humaneval
from orchestrator.bench.datasets.mbpp import open_mbpp
from orchestrator.bench.datasets.program_running import Limits, run_program
from orchestrator.bench.sets import open_set
from orchestrator.errors import InvalidRequest


@pytest.fixture(autouse=True)
def _not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(program_running.PERMISSION_VARIABLE, raising=False)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_programs_are_not_run_unless_that_is_allowed(name: str, excerpt, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"{name}:{excerpt(name + '.jsonl')}"
    for value in (None, "", "0"):
        if value is not None:
            monkeypatch.setenv("TTC_BENCH_RUN_CODE", value)
        with pytest.raises(InvalidRequest, match=f"answers to {name} .*no sandbox.*set TTC_BENCH_RUN_CODE=1") as raised:
            open_set(spec)
        assert raised.value.field == "allow_code_execution"
    monkeypatch.setenv("TTC_BENCH_RUN_CODE", "1")
    assert open_set(spec).name == name


def test_canonical_solutions_pass_whole_or_as_what_follows_the_prompt(excerpt) -> None:
    humaneval = open_humaneval(excerpt("humaneval.jsonl"), count=2, seed=1, allow_code_execution=True)
    for problem in humaneval.problems:
        assert humaneval.is_correct(problem, problem.reference)
        assert humaneval.is_correct(problem, f"from __future__ import annotations\n{problem.text}{problem.reference}")
        assert not humaneval.is_correct(problem, "    return None\n")
        assert not humaneval.is_correct(problem, None)
        assert problem.text.strip("\n") in problem.messages[0].content


def test_a_whole_function_may_use_the_imports_and_helpers_of_the_prompt(excerpt) -> None:
    humaneval = open_humaneval(excerpt("humaneval.jsonl"), allow_code_execution=True)
    (problem,) = (problem for problem in humaneval.problems if problem.id == "HumanEval/32")
    assert humaneval.is_correct(problem, f"def find_zero(xs: list):\n{problem.reference}")  # calls poly, uses math


def test_code_of_mbpp_passes_its_tests_and_other_code_does_not(excerpt) -> None:
    mbpp = open_mbpp(excerpt("mbpp.jsonl"), allow_code_execution=True)
    assert [problem.id for problem in mbpp.problems][:2] == ["2", "3"]
    problem, with_imports = mbpp.problems[0], mbpp.problems[2]
    assert mbpp.is_correct(problem, problem.reference)
    assert mbpp.is_correct(with_imports, with_imports.reference)
    assert not mbpp.is_correct(problem, "def similar_elements(a, b):\n    return ()")
    assert "assert set(similar_elements(" in problem.messages[0].content


def test_both_published_forms_of_mbpp_are_read(written) -> None:
    old = {
        "task_id": 1,
        "text": "x",
        "code": "y",
        "test_setup_code": "import math",
        "test_list": ["assert math.pi > f()"],
    }
    mbpp = open_mbpp(written([old]), allow_code_execution=True)
    assert mbpp.is_correct(mbpp.problems[0], "def f():\n    return 3")
    with pytest.raises(InvalidRequest, match="field 'test_list' has no tests"):
        open_mbpp(written({**old, "test_list": []}), allow_code_execution=True)
    with pytest.raises(InvalidRequest, match="field 'test_list' should be a list of texts"):
        open_mbpp(written({**old, "test_list": "assert True"}), allow_code_execution=True)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended before its last part"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with code -9"),
        ("bytearray(4 << 30)", "MemoryError"),
        ("open('x', 'wb').write(bytes(4 << 20))", "OSError"),
        ("input()", "EOFError"),
        ("def f(): f()\nf()", "RecursionError"),
    ],
)
def test_a_program_that_does_not_reach_its_end_has_failed(part: str, reason: str) -> None:
    outcome = run_program([part, "x = 1"])
    assert not outcome.has_finished
    assert reason in outcome.reason


def test_a_program_that_writes_its_own_result_has_failed() -> None:
    forged = "import json, os, sys; json.dump({'word': '', 'error': ''}, open('../result.json', 'w')); os._exit(0)"
    assert not run_program([forged]).has_finished


def test_a_program_that_computes_for_too_long_is_stopped() -> None:
    outcome = run_program(["while True: pass"], limits=Limits(cpu_s=1))
    assert outcome.reason == "took more than 1 s of CPU time"


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hanging = (
        "import os, time\n"
        "try:\n    os.fork()\nexcept OSError:\n    pass\n"  # only root may
        f"with open({str(pids)!r}, 'a') as file: file.write(f'{{os.getpid()}} ')\n"
        "while True: time.sleep(1)"
    )
    started = time.monotonic()
    outcome = run_program([hanging], limits=Limits(timeout_s=3.0))
    assert outcome.reason == "took longer than 3 s"
    assert time.monotonic() - started < 10
    running = set(pids.read_text().split())
    assert running
    while running and time.monotonic() - started < 60:  # killed, but not gone at once
        running = {pid for pid in running if is_running(pid)}
        time.sleep(0.01)
    assert not running


def is_running(pid: str) -> bool:
    """Zombies have ended; whoever adopted them reaps them."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_program_sees_neither_our_environment_nor_our_folder_and_leaves_nothing(tmp_path: Path) -> None:
    os.environ["TTC_SECRET_OF_A_TEST"] = "1"
    try:
        where = tmp_path / "where"
        program = (
            "import os, sys\n"
            "assert 'TTC_SECRET_OF_A_TEST' not in os.environ\n"
            "assert os.listdir('.') == [] and sys.argv[1:] == []\n"
            "assert hash('a') == hash('a')\n"
            f"open({str(where)!r}, 'w').write(os.getcwd() + ' ' + str(hash('a')))"
        )
        assert run_program([program]).has_finished
        folder, first_hash = where.read_text().split()
        assert not Path(folder).exists()
        assert run_program([program]).has_finished
        assert where.read_text().split()[1] == first_hash
    finally:
        del os.environ["TTC_SECRET_OF_A_TEST"]
