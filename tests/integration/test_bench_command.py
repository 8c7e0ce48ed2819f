"""``ttc bench`` as people use it: run, interrupt, go on, record, replay, report and compare, on the scripted engine."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from .shell import SCRIPTED, Shell

SUITE = """
name = "mine"
budgets = ["tokens=150", "tokens=600"]
[[sets]]
set = "expression@2"
count = 6
[[policies]]
policy = "single"
[[policies]]
policy = "self_consistency"
params = { n = 4 }
"""
ORACLE = '[[policies]]\npolicy = "best_of_n"\nparams = { n = 4 }\nverifier = "oracle"\n'
FORCING = '[[policies]]\npolicy = "budget_forcing"\n'
CASCADE = '[[policies]]\npolicy = "cascade"\n'
ROWS = "build/bench/mine.jsonl"


@pytest.fixture
def mine(shell: Shell) -> Shell:
    """A shell with a suite in its folder."""
    (shell.folder / "mine.toml").write_text(SUITE)
    return shell


def rows_of(shell: Shell, path: str = ROWS) -> list[dict[str, object]]:
    file = shell.folder / path
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_suite_is_run_and_its_table_printed(mine: Shell):
    done = mine("bench", "run", "mine.toml", *SCRIPTED)
    assert done.code == 0, done
    assert len(rows_of(mine)) == 6 * 2 * 2
    assert "self_consistency(n=4)  tokens=600     6" in done.out
    assert "24 jobs: 24 run now, 0 from an earlier run" in done.err


def test_the_same_command_again_runs_nothing(mine: Shell):
    mine("bench", "run", "mine.toml", *SCRIPTED)
    before = rows_of(mine)
    again = mine("bench", "run", "mine.toml", *SCRIPTED, "--json")
    assert (again.code, rows_of(mine)) == (0, before)
    assert (again.json["num_done"], again.json["num_skipped"], len(again.json["cells"])) == (0, 24, 4)


def test_only_what_is_wanted_is_run(mine: Shell):
    done = mine("bench", "run", "mine.toml", *SCRIPTED, "--policy", "single", "--problems", "2", "--seeds", "5,7")
    assert done.code == 0, done
    assert {(row["label"], row["seed"]) for row in rows_of(mine)} == {("single", 5), ("single", 7)}
    assert len(rows_of(mine)) == 2 * 2 * 2


def test_a_dry_run_opens_no_model_and_writes_nothing(mine: Shell):
    done = mine("bench", "run", "mine.toml", "--model", "scripted:none-such", "--dry-run")
    assert done.code == 0, done
    assert "24 jobs: 0 from an earlier run, 24 to be run" in done.err
    assert not (mine.folder / "build").exists()


def test_an_interrupted_run_keeps_its_rows_and_goes_on(mine: Shell):
    command = ("bench", "run", "mine.toml", "--model", "scripted:arithmetic,token_s=0.004")
    process = mine.start(*command, "--jobs", "1")
    deadline = time.monotonic() + 30
    while not rows_of(mine) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    num_kept = len(rows_of(mine))
    assert process.returncode == 130, err
    assert 0 < num_kept < 24
    assert "Traceback" not in err
    again = mine(*command, "--jobs", "24", "--json")
    assert again.code == 0, again
    assert (again.json["num_skipped"], again.json["num_done"]) == (num_kept, 24 - num_kept)
    assert len({json.dumps([row["problem"], row["label"], row["budget"]]) for row in rows_of(mine)}) == 24


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("params =", "prams =", "there is no key policies[1].prams; known: policy, label, params"),
        ("n = 4", "m = 4", "policies[1] (self_consistency): policy 'self_consistency' has no parameter 'm'"),
        ('"single"', '"sinlge"', "policies[0] (sinlge): unknown policy 'sinlge'; known:"),
        ("expression@2", "expression@99", "has no complexity 99"),
        ("expression@2", "gsm8k:{data}/x.jsonl", "needs --data"),
    ],
)
def test_a_mistake_in_a_suite_is_told_before_anything_runs(mine: Shell, was: str, now: str, words: str):
    (mine.folder / "mine.toml").write_text(SUITE.replace(was, now))
    done = mine("bench", "run", "mine.toml", *SCRIPTED)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not (mine.folder / ROWS).exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "1,x"), "--seeds must be whole numbers"),
        (("--seeds", "1,1"), "twice"),
        (("--policy", "tree"), "it has: single, self_consistency(n=4)"),
        (("--set", "sudoku"), "it has: expression@2"),
        (("--pool", "none.pool.xz"), "--model would do nothing"),
        (("--out", "."), "cannot write --out"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(mine: Shell, options: tuple[str, ...], words: str):
    done = mine("bench", "run", "mine.toml", *SCRIPTED, *options)
    assert done.code == 2
    assert words in done.err


def test_exit_code_5_says_that_nothing_could_be_measured(mine: Shell):
    (mine.folder / "mine.toml").write_text(SUITE[: SUITE.index("[[policies]]")] + CASCADE)
    done = mine("bench", "run", "mine.toml", *SCRIPTED)
    assert done.code == 5
    assert "cascade on expression@2 cannot be run: there is no large model" in done.out


def record(shell: Shell, *options: str) -> str:
    done = shell(
        "bench", "record", "expression@2", *SCRIPTED, "--samples", "8", "--count", "6", "--out", "p", "--json", *options
    )
    assert done.code == 0, done
    return str(done.json["pool"])


def test_policies_are_replayed_on_a_recorded_pool(mine: Shell):
    pool = record(mine)
    (mine.folder / "mine.toml").write_text(SUITE + ORACLE + FORCING)
    done = mine("bench", "run", "mine.toml", "--pool", pool, "--json")
    assert done.code == 0, done
    rows = rows_of(mine)
    assert len(rows) == 6 * 2 * 3
    assert {(row["is_replayed"], row["model"], row["set"]) for row in rows} == {(True, "p", "expression@2")}
    (refused,) = done.json["refused"]
    assert (refused["label"], refused["budget"]) == ("budget_forcing", None)
    assert "continuing a partial reply" in refused["reason"]
    right = {cell["label"]: cell["accuracy"] for cell in done.json["cells"] if cell["budget"] == "tokens=600"}
    assert right["best_of_n(n=4, verifier=oracle)"] >= right["self_consistency(n=4)"]


def test_a_replay_gives_the_same_rows_again(mine: Shell):
    pool = record(mine)
    for out in ("a.jsonl", "b.jsonl"):
        assert mine("bench", "run", "mine.toml", "--pool", pool, "--out", out).code == 0

    def told(path: str) -> list[str]:
        facts = ("problem", "label", "budget", "answer", "num_samples")
        return sorted(json.dumps([row.get(name) for name in facts]) for row in rows_of(mine, path))

    assert told("a.jsonl") == told("b.jsonl")


def test_a_pool_can_play_the_large_model(mine: Shell):
    pool = record(mine)
    (mine.folder / "mine.toml").write_text(SUITE + CASCADE)
    done = mine("bench", "run", "mine.toml", "--pool", pool, "--large", f"pool:{pool}", "--policy", "cascade", "--json")
    assert done.code == 0, done
    assert (done.json["num_done"], done.json["refused"]) == (6 * 2, [])


def test_samples_that_a_pool_does_not_have_are_warned_of(mine: Shell):
    pool = record(mine)
    (mine.folder / "mine.toml").write_text(SUITE.replace("n = 4", "n = 12").replace("600", "6000"))
    done = mine("bench", "run", "mine.toml", "--pool", pool, "--policy", "consistency")
    assert done.code == 0, done
    assert "samples short of what policies asked for" in done.err


def test_a_recording_can_be_given_again_and_refuses_to_become_another(mine: Shell):
    pool = record(mine)
    before = (mine.folder / pool).read_bytes()
    assert record(mine) == pool
    assert (mine.folder / pool).read_bytes() == before
    other = mine("bench", "record", "expression@2", *SCRIPTED, "--samples", "9", "--count", "6", "--out", "p", "--json")
    assert other.code == 2
    assert "num_samples" in other.err


def test_an_interrupted_recording_goes_on(shell: Shell):
    model = ("--model", "scripted:arithmetic,token_s=0.01")
    command = ("bench", "record", "expression@2", *model, "--samples", "2", "--count", "12", "--out", "p", "--json")
    process = shell.start(*command, "--jobs", "1")
    growing, deadline = shell.folder / "p.pool.jsonl", time.monotonic() + 30
    while time.monotonic() < deadline and not (growing.exists() and growing.read_bytes().count(b"\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    again = shell(*command, "--jobs", "12")
    assert again.code == 0, again
    assert again.json["num_held"] >= 1
    assert again.json["num_held"] + again.json["num_recorded"] == 12
    assert (shell.folder / "p.pool.xz").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--scorer", "prm"), "write for instance prm=lab:prm"),
        (("--temperature", "9"), "temperature must be from 0 to 5"),
        (("--scorer", "prm=scripted:arithmetic"), "does not support rewards of steps"),
    ],
)
def test_a_recording_that_cannot_be_is_refused(mine: Shell, options: tuple[str, ...], words: str):
    done = mine("bench", "record", "expression@2", *SCRIPTED, "--count", "2", "--out", "p", *options)
    assert done.code == 2
    assert words in done.err
    assert not list(mine.folder.glob("p.*"))


@pytest.mark.model
def test_a_pool_is_scored_later_by_the_labs_reward_model_and_replayed(shell: Shell):
    options = ("--model", "lab:small", "--samples", "4", "--count", "2", "--out", "plain.pool.xz")
    assert shell("bench", "record", "countdown", *options).code == 0
    refused = shell("bench", "score", "plain.pool.xz", "--scorer", "prm=lab:prm", "--out", "plain.pool.xz")
    assert refused.code == 2
    assert "name another file" in refused.err
    done = shell("bench", "score", "plain.pool.xz", "--scorer", "prm=lab:prm", "--out", "scored.pool.xz")
    assert done.code == 0, done
    assert done.out.strip() == "scored.pool.xz"
    replayed = shell(
        *("bench", "run", "smoke", "--pool", "scored.pool.xz", "--policy", "best_of_n process", "--out", ROWS)
    )
    assert replayed.code == 0, replayed
    assert all(row["usage"]["verifier_tokens"] for row in rows_of(shell))


def test_rows_are_compared_and_reported(mine: Shell):
    pytest.importorskip("matplotlib")
    mine("bench", "run", "mine.toml", *SCRIPTED)
    compared = mine("bench", "compare", ROWS, "--baseline", "single", "--json")
    assert compared.code == 0, compared
    assert compared.json["axis"] == "output_tokens"
    reported = mine("bench", "report", ROWS, "--out", "page", "--json")
    assert reported.code == 0, reported
    assert {Path(name).suffix for name in reported.json} >= {".md", ".html", ".json", ".png"}
    assert all((mine.folder / name).stat().st_size for name in reported.json)


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize("content", [None, b"{}\n", b"\xff\n", b"[" * 200_000 + b"\n"])
def test_a_file_that_holds_no_rows_is_refused_by_name(mine: Shell, command: str, content: bytes | None):
    if content is not None:
        (mine.folder / "x.jsonl").write_bytes(content)
    done = mine("bench", command, "x.jsonl")
    assert done.code == 2
    assert "x.jsonl" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", ["", "run", "record", "report", "compare", "load"])
def test_help_has_examples(shell: Shell, command: str):
    done = shell("bench", *filter(None, [command]), "--help")
    assert done.code == 0
    assert f"ttc bench {command or 'run'}" in done.out.partition("Options:")[0]


def test_an_unknown_command_is_told_with_those_there_are(shell: Shell):
    done = shell("bench", "rnu")
    assert done.code == 2
    assert "known: compare, load, record, report, run" in done.err
