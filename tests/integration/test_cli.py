"""``ttc`` as people and scripts use it, on the scripted engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .shell import SCRIPTED, Shell

SLOW = ("--model", "scripted:arithmetic,token_s=0.02")
"""A sample of a small sum takes about two seconds."""
PROBLEM = "17*23+5-3*4"
ANSWER = "384"


# -- one problem -------------------------------------------------------------------------------------------------


def test_a_problem_is_solved_and_every_token_accounted_for(shell: Shell) -> None:
    done = shell("solve", PROBLEM, *SCRIPTED, "--budget", "tokens=2000,seconds=60")
    assert done.code == 0, done
    for part in (ANSWER, "the answer the model gives most often (not that it is right)", "of 2,000", "of 60 s", "KV"):
        assert part in done.out
    assert "Traceback" not in done.err


def test_the_json_of_a_result_holds_its_usage(shell: Shell) -> None:
    result = shell("solve", PROBLEM, *SCRIPTED, "--json", "--policy", "self_consistency", "-n", "6").json
    assert (result["answer"], result["state"], result["num_samples"]) == (ANSWER, "succeeded", 6)
    assert result["usage"]["model_calls"] == 6
    assert result["total_tokens"] == result["usage"]["prompt_tokens"] + result["usage"]["output_tokens"]


@pytest.mark.parametrize("source", ["argument", "file", "stdin", "dash", "file dash"])
def test_a_problem_comes_from_anywhere(source: str, shell: Shell) -> None:
    (shell.folder / "p.txt").write_bytes(b"\xef\xbb\xbf" + PROBLEM.encode() + b"\n")
    args = {
        "argument": [PROBLEM],
        "file": ["--file", "p.txt"],
        "stdin": [],
        "dash": ["-"],
        "file dash": ["--file", "-"],
    }
    done = shell("solve", *args[source], *SCRIPTED, "--quiet", stdin=PROBLEM.encode())
    assert (done.code, done.out, done.err) == (0, ANSWER + "\n", "")


def test_the_same_seed_gives_the_same_tree(shell: Shell) -> None:
    def tree(seed: str) -> object:
        job_id = shell("solve", PROBLEM, *SCRIPTED, "--json", "--seed", seed).json["job_id"]
        return shell("jobs", "show", job_id, "--json").json["tree"]

    assert tree("7") == tree("7") != tree("8")


def test_policy_parameters_reach_the_policy(shell: Shell) -> None:
    options = ["--policy", "best_of_n", "--verifier", "majority", "--set", "weighted=true", "-n", "5"]
    done = shell("solve", PROBLEM, *SCRIPTED, *options, "--temperature", "0.3", "--max-sample-tokens", "300", "--json")
    spec = shell("jobs", "show", done.json["job_id"], "--json").json["spec"]
    assert spec["params"] == {"weighted": True, "n": 5, "temperature": 0.3, "verifier": "majority"}
    assert spec["max_sample_tokens"] == 300
    assert done.json["confidence_kind"] == "verifier"


def test_a_cascade_has_two_models(shell: Shell) -> None:
    done = shell("solve", PROBLEM, *SCRIPTED, "--large", "scripted:say=42", "--policy", "cascade", "--json")
    assert done.code == 0, done
    models = shell("jobs", "show", done.json["job_id"], "--json").json["spec"]["models"]
    assert models == {"small": "scripted:arithmetic", "large": "scripted:say=42"}


def test_an_open_question_has_a_text_for_an_answer(shell: Shell) -> None:
    options = ("--model", "scripted:say=Hello.", "--answer", "text", "--policy", "single", "--quiet")
    done = shell("solve", "Say hello", *options)
    assert (done.code, done.out) == (0, "Hello.\n")


def test_text_of_a_model_cannot_steer_the_terminal(shell: Shell) -> None:
    said = "\x1b[2J\x1b]0;owned\x07 \u202eevil"
    done = shell("solve", "Say it", "--model", f"scripted:say={said}", "--answer", "text", "--policy", "single")
    assert done.code == 0, done
    assert not {"\x1b", "\x07", "\u202e"} & set(done.out)
    assert "owned" in done.out


def test_no_store_leaves_nothing_behind(shell: Shell) -> None:
    assert shell("solve", PROBLEM, *SCRIPTED, "--no-store").code == 0
    assert not list(shell.folder.rglob("*.sqlite"))
    assert shell("jobs", "list", "--json").json == []


def test_help_is_fast_and_imports_no_command(shell: Shell) -> None:
    code = (
        "import sys; from orchestrator.api.cli import main; main(['--help']); "
        "loaded = {'rich', 'aiohttp', 'orchestrator.api.commands.solve'} & set(sys.modules); sys.exit(bool(loaded))"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, **shell.options({})
    )
    assert done.returncode == 0, done
    assert time.monotonic() - started < 3  # generous: machines of tests are busy
    assert "solve" in done.stdout


def test_a_closed_pipe_is_no_error(shell: Shell) -> None:
    process = shell.start("policies", "--json")
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, "")


def test_a_broken_command_of_another_package_breaks_nothing_else(shell: Shell) -> None:
    info = shell.folder / "site" / "strange-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[orchestrator.commands]\nlost = strange_lost:command\nplain = os:getcwd\ngood = strange_good:command\n"
    )
    (shell.folder / "site" / "strange_good.py").write_text(
        "import click\n@click.command()\ndef command():\n    'Do good.'\n    click.echo('done')\n"
    )
    shell.env["PYTHONPATH"] = str(shell.folder / "site")
    listed = shell.run("--help")
    assert listed.code == 0, listed
    assert "Do good." in listed.out
    assert listed.out.count("(broken)") == 2
    assert shell.run("good").out == "done\n"
    for name, reason in (("lost", "No module named 'strange_lost'"), ("plain", "no click command")):
        done = shell.run(name)
        assert done.code == 1
        assert "'strange' is broken" in done.err
        assert reason in done.err
        assert "Traceback" not in done.err


def test_an_unforeseen_error_is_one_line_and_its_stack_trace_is_in_the_log(shell: Shell) -> None:
    info = shell.folder / "site" / "strange-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[orchestrator.commands]\nboom = boom:command\n")
    (shell.folder / "site" / "boom.py").write_text(
        "import click\n@click.command()\ndef command():\n    raise RuntimeError('two\\nlines')\n"
    )
    shell.env["PYTHONPATH"] = str(shell.folder / "site")
    done = shell.run("boom")
    assert done.code == 1
    assert "RuntimeError: two lines" in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" in shell.log
    shell.env["TTC_DEBUG"] = "1"
    assert "Traceback" in shell.run("boom").err


def test_on_a_terminal_the_votes_and_the_spend_are_shown_live(shell: Shell) -> None:
    parent, child = os.openpty()
    process = subprocess.Popen(
        shell.command("solve", PROBLEM, *SLOW, "--budget", "tokens=2000", "--policy", "self_consistency", "-n", "3"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
        text=True,
        **shell.options({"env": {**shell.env, "TERM": "xterm-256color"}}),
    )
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the process is
        while chunk := os.read(parent, 65536):
            shown += chunk
    os.close(parent)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert ANSWER in out
    for part in (b"self_consistency", b"vote", b"of 2,000", b"tokens/s", b"\x1b["):
        assert part in shown
    assert b"Traceback" not in shown


def test_elsewhere_a_line_tells_how_it_goes_now_and_then(shell: Shell) -> None:
    done = shell.run("solve", PROBLEM, "--model", "scripted:arithmetic,token_s=0.065", "--policy", "single")
    assert done.code == 0, done
    assert "0 samples done, 1 running" in done.err
    assert "\x1b" not in done.err + done.out


# -- Ctrl-C ------------------------------------------------------------------------------------------------------


def started(shell: Shell, *args: str) -> subprocess.Popen[str]:
    """A slow run whose first sample is in the store."""
    process = shell.start("solve", PROBLEM, *SLOW, "--store", "s.sqlite", *args)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if (shell.folder / "s.sqlite").exists():
            jobs = shell("jobs", "list", "--store", "s.sqlite", "--json").json
            if jobs and any(
                event["kind"] == "sample"
                for event in shell("jobs", "events", jobs[0]["id"], "--store", "s.sqlite", "--json").lines
            ):
                return process
        time.sleep(0.1)
    raise AssertionError("no sample came")


@pytest.mark.crash
def test_ctrl_c_prints_the_best_answer_so_far_and_exits_130(shell: Shell) -> None:
    process = started(shell, "--policy", "self_consistency", "-n", "30", "--set", "temperature=1")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "it was cancelled; this is the best so far" in out
    assert "no answer" not in out
    assert "Traceback" not in out + err
    (job,) = shell("jobs", "list", "--store", "s.sqlite", "--json").json
    assert job["state"] == "cancelled"
    assert shell("replay", job["id"], "--store", "s.sqlite").code == 0


@pytest.mark.crash
def test_a_second_ctrl_c_leaves_at_once_and_the_job_can_be_resumed(shell: Shell) -> None:
    process = started(shell, "--policy", "self_consistency", "-n", "30")
    os.kill(process.pid, signal.SIGSTOP)  # both signals are there when it goes on
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in {130, 143}, err
    assert "Traceback" not in err


# -- jobs --------------------------------------------------------------------------------------------------------


@pytest.mark.crash
def test_a_killed_job_goes_on_where_it_was(shell: Shell) -> None:
    process = started(shell, "--policy", "self_consistency", "-n", "8")
    process.kill()
    process.communicate()
    (job,) = shell("jobs", "list", "--store", "s.sqlite", "--json").json
    assert job["state"] == "running"
    not_yet = shell("replay", job["id"], "--store", "s.sqlite")
    assert not_yet.code == 4, not_yet
    done = shell("jobs", "resume", job["id"], "--store", "s.sqlite", "--json", *SCRIPTED)
    assert done.code == 0, done
    assert (done.json["answer"], done.json["num_samples"]) == (ANSWER, 8)
    assert done.json["usage"]["lost_tokens"] > 0
    assert shell("replay", job["id"], "--store", "s.sqlite").code == 0


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--policy", "single"),
        ("--policy", "self_consistency"),
        ("--policy", "best_of_n", "--verifier", "majority"),
        ("--policy", "early_stopping"),
        ("--policy", "budget_forcing"),
        ("--policy", "cascade", "--large", "scripted:babble"),
        ("--policy", "self_consistency", "--budget", "tokens=60"),
        ("--budget", "tokens=9"),
        ("--budget", "tokens=300"),
    ],
    ids=" ".join,
)
def test_a_replay_without_a_model_agrees(options: tuple[str, ...], shell: Shell) -> None:
    result = shell("solve", PROBLEM, *SCRIPTED, "--json", *options).json
    replayed = shell("replay", result["job_id"], "--json")
    assert replayed.code == 0, replayed
    assert replayed.json == {
        "job_id": result["job_id"],
        "agrees": True,
        "differences": {},
        "answer": result["answer"],
    }


def test_a_replay_of_a_deadline_agrees(shell: Shell) -> None:
    options = ("--policy", "self_consistency", "-n", "40", "--budget", "seconds=1.5")
    result = shell("solve", PROBLEM, "--model", "scripted:arithmetic,token_s=0.01", "--json", *options).json
    assert result["stop_reason"] == "deadline"
    assert shell("replay", result["job_id"]).code == 0


def test_a_replay_of_a_changed_policy_exits_8(shell: Shell) -> None:
    policy = shell.folder / "mine.py"
    source = (
        "from orchestrator.actions import Expand\n"
        "def best(query, ctx):\n    return (yield Expand([query.root], {}))[0]\n"
    )
    policy.write_text(source.format(3))
    result = shell.run("solve", PROBLEM, *SCRIPTED, "--policy", "mine:best", "--json").json
    assert shell.run("replay", result["job_id"]).code == 0
    policy.write_text(source.format(4))
    done = shell.run("replay", result["job_id"])
    assert done.code == 8, done
    assert "differs from the journal" in done.err


def test_jobs_are_listed_shown_and_removed(shell: Shell) -> None:
    ids = [shell("solve", f"{number}+1", *SCRIPTED, "--json").json["job_id"] for number in range(3)]
    assert [job["id"] for job in shell("jobs", "list", "--json").json] == ids[::-1]
    shown = shell("jobs", "show", ids[0])
    assert shown.code == 0
    for part in ("★", "scripted:arithmetic", "the problem", "output tokens"):
        assert part in shown.out
    assert "Step 1" in shell("jobs", "show", ids[0], "--full").out
    assert shell("jobs", "events", ids[0], "--json", "--after", "0").lines[0]["seq"] == 1
    assert shell("jobs", "rm", ids[0], "nope").code == 2
    assert shell("jobs", "rm", ids[0]).code == 0
    assert len(shell("jobs", "list", "--json").json) == 2
    assert shell("jobs", "purge", "--older-than", "1d", "--json").json == {"removed": []}
    assert len(shell("jobs", "purge", "--older-than", "0s", "--dry-run", "--json").json["would_remove"]) == 2
    assert shell("jobs", "purge", "--older-than", "0s").code == 0
    assert shell("jobs", "list").out == "no jobs\n"


def test_a_person_is_asked_and_answers(shell: Shell) -> None:
    (shell.folder / "asking.py").write_text(
        "from orchestrator.actions import AskHuman\n"
        "def ask(query, ctx):\n    return 'you said ' + (yield AskHuman('which one?'))\n"
    )
    waiting = shell.run("solve", PROBLEM, *SCRIPTED, "--policy", "asking:ask", "--json")
    assert (waiting.code, waiting.json["state"], waiting.json["question"]) == (5, "waiting", "which one?")
    job_id = waiting.json["job_id"]
    assert shell("jobs", "reply", job_id, "the red one").code == 0
    done = shell.run("jobs", "resume", job_id, "--json")
    assert (done.code, done.json["answer"]) == (0, "you said the red one")


@pytest.mark.parametrize("kind", ["policies", "verifiers", "engines"])
def test_what_there_is_is_described(kind: str, shell: Shell) -> None:
    found = shell(kind, "--json").json
    assert all(item["summary"] and item["is_usable"] for item in found), found
    for item in found:
        described = shell(kind, item["name"])
        assert described.code == 0
        assert all(parameter["name"] in described.out for parameter in item["parameters"])


def test_a_parameter_is_described_with_type_default_range_and_meaning(shell: Shell) -> None:
    described = shell("policies", "self_consistency", "--json").json
    (count,) = [item for item in described["parameters"] if item["name"] == "n"]
    assert count == {"name": "n", "type": "whole number", "default": "8", "range": "1 to 1000", "meaning": "Samples"}
    assert described["facts"]["source"].startswith("Wang et al., 2022")


# -- many problems -----------------------------------------------------------------------------------------------


def write_problems(path: Path, number: int) -> None:
    rows = [{"question": f"{i}+{i}*2", "answer": f"By hand: <<>> #### {i * 3}"} for i in range(1, number + 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_like_gsm8k_are_solved_and_checked(shell: Shell) -> None:
    write_problems(shell.folder / "in.jsonl", 6)
    done = shell("solve", "--file", "in.jsonl", *SCRIPTED, "--policy", "self_consistency")
    assert done.code == 0, done
    rows = {row["id"]: row for row in done.lines}
    assert sorted(rows) == [str(number) for number in range(1, 7)]
    assert rows["2"]["reference"] == "6"
    assert rows["2"]["usage"]["model_calls"] == 8
    correct = sum(row["is_correct"] for row in rows.values())
    assert f"{correct} of 6 right" in done.err


def test_rows_may_have_their_own_budget_policy_and_seed(shell: Shell) -> None:
    rows = [
        {"id": "a", "problem": "1+1", "budget": {"tokens": 500}, "policy": "single"},
        {"id": "b", "prompt": "1+2", "params": {"n": 3}, "seed": 5},
        {"id": "c", "input": "1+3", "budget": "tokens=1"},
        "4+5",
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = shell("solve", "--jsonl", *SCRIPTED, "--policy", "self_consistency", stdin=data)
    assert done.code == 5, done
    found = {row["id"]: row for row in done.lines}
    assert found["a"]["usage"]["model_calls"] == 1
    assert found["a"]["budget"] == {"max_output_tokens": 500}
    assert found["b"]["num_samples"] == 3
    assert (found["c"]["status"], found["c"]["error"]["code"]) == ("error", "budget_too_small")
    assert found["4"]["answer"] == "9"


@pytest.mark.crash
def test_a_run_that_was_killed_goes_on_with_the_rows_it_lacks(shell: Shell) -> None:
    write_problems(shell.folder / "in.jsonl", 12)
    out = shell.folder / "out.jsonl"
    slow = ("--model", "scripted:arithmetic,token_s=0.004", "--no-store", "--policy", "single", "--concurrency", "2")
    process = shell.start("solve", "--file", "in.jsonl", "--out", "out.jsonl", *slow)
    while not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = out.read_bytes()
    assert before.endswith(b"\n")
    out.write_bytes(before + b'{"id": "12", "status": "o')  # as if the write itself had been cut
    done = shell("solve", "--file", "in.jsonl", "--out", "out.jsonl", *SCRIPTED, "--no-store", "--policy", "single")
    assert done.code == 0, done
    assert out.read_bytes().startswith(before)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(int(row["id"]) for row in rows) == list(range(1, 13))
    assert f"({before.count(10)} from an earlier run)" in done.err
    again = shell("solve", "--file", "in.jsonl", "--out", "out.jsonl", *SCRIPTED)
    assert (again.code, len(out.read_text().splitlines())) == (0, 12)


def test_a_whole_last_line_without_its_end_is_kept(shell: Shell) -> None:
    write_problems(shell.folder / "in.jsonl", 2)
    out = shell.folder / "out.jsonl"
    out.write_text('{"id": "1", "status": "ok", "answer": "3"}')
    assert shell("solve", "--file", "in.jsonl", "--out", "out.jsonl", *SCRIPTED).code == 0
    first, second = out.read_text().splitlines()
    assert (json.loads(first)["answer"], json.loads(second)["id"]) == ("3", "2")


def test_a_file_that_is_not_ours_is_left_alone(shell: Shell) -> None:
    write_problems(shell.folder / "in.jsonl", 1)
    (shell.folder / "notes.txt").write_text("my notes, without an end of line")
    done = shell("solve", "--file", "in.jsonl", "--out", "notes.txt", *SCRIPTED)
    assert done.code == 2
    assert (shell.folder / "notes.txt").read_text() == "my notes, without an end of line"


@pytest.mark.crash
def test_ctrl_c_in_a_run_keeps_whole_rows_and_exits_130(shell: Shell) -> None:
    write_problems(shell.folder / "in.jsonl", 40)
    out = shell.folder / "out.jsonl"
    process = shell.start(
        *("solve", "--file", "in.jsonl", "--out", "out.jsonl", "--model", "scripted:arithmetic,token_s=0.004"),
        *("--no-store", "--policy", "single", "--concurrency", "2"),
    )
    while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "not done" in err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["status"] == "ok" for row in rows)


# -- the trace page ----------------------------------------------------------------------------------------------


def test_a_trace_shows_the_tree_of_a_job(shell: Shell) -> None:
    done = shell("solve", f"{PROBLEM} </script><script>alert(1)</script>", *SCRIPTED, "--trace", "t.html", "--json")
    page = (shell.folder / "t.html").read_text()
    assert page.count("</script>") == 2  # the data's and the script's own
    assert "alert(1)" in page
    shell("jobs", "show", done.json["job_id"], "--trace", "again.html")
    assert (shell.folder / "again.html").read_text() == page
    assert shell("replay", done.json["job_id"], "--trace", "third.html").code == 0
    assert (shell.folder / "third.html").read_text() == page
