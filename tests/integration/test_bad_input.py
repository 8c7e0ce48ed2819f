"""What people get wrong: each case with its exit code and what the message says; never a stack trace."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator import Candidate, JobState, Orchestrator
from orchestrator.errors import VerifierHung
from orchestrator.verifier import Meter

from .shell import SCRIPTED, Shell


@dataclass(frozen=True)
class Case:
    """A command that cannot work.

    Attributes:
        says: What its message must contain.
        args: The command.
        code: The exit code.
        files: Files by name; None is a folder.
        stdin: None is a terminal.
        env: Further variables.
    """

    says: str
    args: Sequence[str]
    code: int = 2
    files: dict[str, bytes | None] = field(default_factory=dict)
    stdin: bytes | None = b""
    env: dict[str, str] = field(default_factory=dict)


def solve(*args: str, says: str, code: int = 2, problem: str | None = "1+1", **options: object) -> Case:
    """A case of ``ttc solve`` on the scripted engine, without a store."""
    problem_args = () if problem is None else (problem,)
    return Case(says, ("solve", *problem_args, *SCRIPTED, "--no-store", *args), code, **options)  # type: ignore[arg-type]


def with_model(model: str, says: str, code: int, **files: bytes | None) -> Case:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return Case(says, ("solve", "1+1", "--no-store", "--model", model), code, named)


def budget(text: str, says: str, code: int = 2) -> Case:
    return solve("--budget", text, says=says, code=code)


def rows(text: str | bytes, says: str, *args: str, code: int = 2) -> Case:
    """A case of many problems."""
    content = text.encode() if isinstance(text, str) else text
    return solve("--file", "in.jsonl", *args, says=says, code=code, problem=None, files={"in.jsonl": content})


ONE_ROW = '{"problem": "1+1"}\n'

CASES = {
    # the problem
    "empty problem": solve(says="the problem is empty", problem=""),
    "blank problem": solve(says="the problem is empty", problem=" \t\n "),
    "empty stdin": solve(says="the problem is empty", problem=None),
    "terminal without a problem": solve(says="there is no problem", problem=None, stdin=None),
    "dash at an empty stdin": solve(says="the problem is empty", problem="-"),
    "200 kB problem": solve("--file", "p", says="reads at most 32768", problem=None, files={"p": b"word " * 40_000}),
    "2 MB problem": solve("--file", "p", says="at most 1000000", problem=None, files={"p": b"w" * 2_000_000}),
    "5 MB file": solve("--file", "p", says="too long", problem=None, files={"p": b"w" * 5_000_000}),
    "lone surrogate": solve(says="lone surrogate at position 2", problem="1+\udcff"),
    "file in Latin-1": solve("--file", "p", says="byte 0xe9 at position 3", problem=None, files={"p": b"caf\xe9"}),
    "stdin in Latin-1": solve(says="stdin is not valid UTF-8", problem=None, stdin=b"caf\xe9"),
    "NUL byte": solve("--file", "p", says="NUL byte at position 3", problem=None, files={"p": b"1+2\x00+3"}),
    "no such file": solve("--file", "p", says="No such file", problem=None),
    "file is a folder": solve("--file", "p", says="Is a directory", problem=None, files={"p": None}),
    "argument and file": solve("--file", "p", says="both as an argument and with --file", files={"p": b"1+1"}),
    "two arguments": solve("2+2", says="unexpected extra argument"),
    # budgets
    "negative budget": budget("tokens=-5", "max_output_tokens must be above 0, not -5"),
    "zero budget": budget("tokens=0", "max_output_tokens must be above 0"),
    "zero seconds": budget("seconds=0", "max_seconds must be above 0"),
    "negative dollars": budget("usd=-1", "max_usd must be above 0"),
    "NaN budget": budget("tokens=nan", "must be finite"),
    "infinite budget": budget("seconds=inf", "must be finite"),
    "half a token": budget("tokens=1.5", "whole number"),
    "budget without a value": budget("tokens", "cannot read 'tokens'"),
    "budget with an empty value": budget("tokens=", "must be a number"),
    "unknown budget part": budget("cake=3", "known: calls, flops, reserve, seconds, tokens"),
    "duplicate budget part": budget("tokens=10,tokens=20", "names tokens twice"),
    "empty budget": budget("", "the budget is empty"),
    "budget below the shortest answer": budget("tokens=1", "cannot pay for the shortest answer"),
    "budget below the prompt": budget("total_tokens=5", "cannot pay for the shortest answer"),
    "no time at all": budget("seconds=0.000001", "max_seconds", code=5),
    "target confidence of 1": solve("--target-confidence", "1", says="above 0 and below 1"),
    "target confidence NaN": solve("--target-confidence", "nan", says="above 0 and below 1"),
    "target confidence in words": solve("--target-confidence", "high", says="not a valid float"),
    "target confidence where nothing estimates it": solve(
        "--target-confidence", "0.9", "--policy", "best_of_n", says="has no estimate of its confidence"
    ),
    # names
    "unknown command": Case("unknown command 'sovle'", ("sovle", "1+1")),
    "unknown option": solve("--polcy", "single", says="No such option"),
    "unknown policy": solve("--policy", "nope", says="known: a_star, ab_mcts, adaptive_consistency"),
    "empty policy": solve("--policy", "", says="unknown policy ''"),
    "policy that is no policy": solve("--policy", "os:getcwd", says="must be a generator function"),
    "policy in no module": solve("--policy", "nomodule:x", says="No module named 'nomodule'"),
    "unknown verifier": solve("--policy", "best_of_n", "--verifier", "nope", says="known: generative, majority"),
    "verifier where none is used": solve("--verifier", "majority", says="uses no verifier"),
    "unknown answer kind": solve("--answer", "poem", says="known: auto, boxed"),
    "invalid pattern": solve("--answer", "regex:(", says="pattern cannot be used"),
    "unknown script": Case("unknown script 'x'", ("solve", "1+1", "--model", "scripted:x")),
    # parameters
    "unknown parameter": solve("--set", "nope=1", says="has no parameter 'nope'; it has: model"),
    "parameter of the wrong type": solve("--set", "max_samples=lots", says="max_samples='lots' is not valid"),
    "parameter without a value": solve("--set", "max_samples", says="write --set name=value"),
    "parameter given twice": solve("-n", "3", "--set", "max_samples=4", says="set already"),
    "no samples": solve("-n", "0", says="greater than or equal to 1"),
    "too many samples": solve("-n", "1000000000", says="less than or equal to 200"),
    "samples in words": solve("-n", "many", says="not a valid integer"),
    "samples of a search": solve("-n", "4", "--policy", "a_star", says="has no number of samples for -n"),
    "temperature out of range": solve("--temperature", "9", says="temperature=9.0 is not valid"),
    "temperature NaN": solve("--temperature", "nan", says="temperature=nan is not valid"),
    "no tokens per sample": solve("--max-sample-tokens", "0", says="at least 1"),
    "negative seed": solve("--seed", "-1", says="seed must be a whole number from 0"),
    "seed in words": solve("--seed", "lucky", says="not a valid integer"),
    # models
    "unknown model": with_model("nope", "known: qwen2.5-coder-0.5b", 2),
    "empty model": with_model("", "--model is empty", 2),
    "cascade without a large model": solve("--policy", "cascade", says="pass one with --large"),
    "server without an address": with_model("openai:gpt", "TTC_OPENAI__BASE_URL", 2),
    "missing model file": with_model("m.gguf", "no model file at 'm.gguf'", 6),
    "model file is a folder": with_model("m.gguf", "no model file at 'm.gguf'", 6, m_gguf=None),
    "garbage for a model": with_model("m.gguf", "not a GGUF file", 6, m_gguf=b"\x8f\x01" * 500),
    "empty model file": with_model("m.gguf", "not a GGUF file", 6, m_gguf=b""),
    "model not pulled, offline": with_model("smollm2-135m", "TTC_OFFLINE is set", 6),
    # JSON Lines
    "line that is no JSON": rows(ONE_ROW + "{oops\n", "in.jsonl, line 2 is not JSON", "--strict"),
    "line that is no object": rows("[1]\n", "line 1 must be an object", "--strict"),
    "problem that is no text": rows('{"problem": 7}\n', "'problem' must be text, not int", "--strict"),
    "row without a problem": rows('{"x": 1}\n', "none of the fields problem, question", "--strict"),
    "row with an empty problem": rows('{"question": " "}\n', "'question' is empty", "--strict"),
    "repeated id": rows('{"id":1,"problem":"1"}\n{"id":1,"problem":"2"}\n', "that of line 1 already", "--strict"),
    "row in Latin-1": rows(b'{"problem":"\xff"}\n', "line 1 is not valid UTF-8", "--strict"),
    "no rows": rows("\n\n", "holds no problem"),
    "malformed row without --strict": rows("{oops\n", "1 problems: 0 answered, 1 with errors", code=5),
    "concurrency of 0": rows(ONE_ROW, "--concurrency must be from 1", "--concurrency", "0"),
    "out in no folder": rows(ONE_ROW, "cannot write --out", "--out", "no/such/folder"),
    "out on a full disk": rows(ONE_ROW, "No space left", "--out", "/dev/full", code=9),
    # contradictions
    "store and no store": solve("--store", "x", says="--store and --no-store contradict"),
    "out for one problem": solve("--out", "x", says="--out is for JSON Lines"),
    "strict for one problem": solve("--strict", says="--strict is for JSON Lines"),
    "argument as JSON Lines": solve("--jsonl", says="not from an argument"),
    "trace of many": rows(ONE_ROW, "--trace shows one job", "--trace", "t.html"),
    "JSON twice": rows(ONE_ROW, "leave --json away", "--json", "--out", "x"),
    # stores, jobs, files
    "store is a folder": Case("is a folder", ("solve", "1+1", *SCRIPTED, "--store", "s"), 9, {"s": None}),
    "store is another file": Case("not a store", ("solve", "1+1", *SCRIPTED, "--store", "s"), 9, {"s": b"hi" * 99}),
    "store cannot be made": Case("cannot be opened", ("solve", "1+1", *SCRIPTED, "--store", "/proc/s"), 9),
    "store of an unknown kind": Case("memory:, sqlite:PATH", ("solve", "1+1", *SCRIPTED, "--store", "ftp://x")),
    "empty store": Case("--store is empty", ("solve", "1+1", *SCRIPTED, "--store", "")),
    "missing store": Case("there is no store at 's'", ("jobs", "list", "--store", "s"), 9),
    "unknown job to show": Case("unknown job 'nope'", ("jobs", "show", "nope")),
    "unknown job to resume": Case("unknown job 'nope'", ("jobs", "resume", "nope")),
    "unknown job to remove": Case("unknown job 'nope'", ("jobs", "rm", "nope")),
    "unknown job to replay": Case("unknown job 'nope'", ("replay", "nope")),
    "age in words": Case("a number and a unit", ("jobs", "purge", "--older-than", "long")),
    "trace in no folder": solve("--trace", "no/t.html", says="cannot write --trace"),
    "trace is a folder": solve("--trace", "t", says="cannot write --trace", files={"t": None}),
    # configuration
    "config is no TOML": solve(says="not valid TOML", env={"TTC_CONFIG": "c"}, files={"c": b"model = = 3"}),
    "config is no text": solve(says="not valid TOML", env={"TTC_CONFIG": "c"}, files={"c": b"\xff\xfe"}),
    "config missing": solve(says="TTC_CONFIG='c' is not a file", env={"TTC_CONFIG": "c"}),
    "config value": solve(says="max_sample_tokens", env={"TTC_CONFIG": "c"}, files={"c": b"max_sample_tokens = -3"}),
    "variable": solve(says="TTC_MAX_SAMPLE_TOKENS) = 'lots'", env={"TTC_MAX_SAMPLE_TOKENS": "lots"}),
    "nested variable": solve(says="llama_cpp.num_threads", env={"TTC_LLAMA_CPP__NUM_THREADS": "0"}),
    "variable that must be JSON": solve(says="cannot be read", env={"TTC_LLAMA_CPP": "x"}),
    "policy from a variable": solve(says="unknown policy 'nope'", env={"TTC_POLICY": "nope"}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name: str, shell: Shell) -> None:
    case = CASES[name]
    for file, content in case.files.items():
        if content is None:
            (shell.folder / file).mkdir()
        else:
            (shell.folder / file).write_bytes(content)
    done = shell(*case.args, stdin=case.stdin, env=case.env)
    assert case.says in done.err, done
    assert done.code == case.code
    assert "Traceback" not in done.err + done.out
    assert len(done.err.strip().splitlines()) <= 2  # the error, and a hint


def test_there_are_forty_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("content", [b"GGUF\x03\x00\x00\x00", b"GGUF" + bytes(range(256)) * 8], ids=["header", "body"])
def test_a_truncated_model_file_is_refused(content: bytes, shell: Shell) -> None:
    pytest.importorskip("llama_cpp")
    (shell.folder / "m.gguf").write_bytes(content)
    done = shell.run("solve", "1+1", "--no-store", "--model", "m.gguf")
    assert done.code == 6, done
    assert "cannot be loaded" in done.err
    assert "Traceback" not in done.err


def test_a_full_disk_under_the_store_fails_with_the_store(shell: Shell) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = shell.run("solve", "1+1", *SCRIPTED, "--store", "s.sqlite", preexec_fn=little_room)
    assert done.code == 9, done
    assert "the disk is full" in done.err
    assert "Traceback" not in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_refused(shell: Shell) -> None:
    assert shell("solve", "1+1", *SCRIPTED, "--store", "s.sqlite").code == 0
    (shell.folder / "s.sqlite").chmod(0o400)
    done = shell("solve", "1+1", *SCRIPTED, "--store", "s.sqlite")
    assert done.code == 9, done


def test_a_finished_job_cannot_be_resumed_or_answered(shell: Shell) -> None:
    job_id = shell("solve", "1+1", *SCRIPTED, "--json").json["job_id"]
    for args in (("resume", job_id), ("reply", job_id, "yes")):
        done = shell("jobs", *args)
        assert done.code == 4
        assert "is succeeded" in done.err


def test_with_json_errors_are_one_object_on_stderr(shell: Shell) -> None:
    done = shell("solve", "1+1", *SCRIPTED, "--json", "--policy", "nope")
    assert done.out == ""
    import json

    told = json.loads(done.err)
    assert told["exit_code"] == done.code == 2
    assert told["error"]["code"] == "unknown_name"
    assert "single" in told["error"]["known"]


def test_a_bug_ends_in_one_line_and_its_stack_trace_in_the_log(shell: Shell) -> None:
    (shell.folder / "buggy.py").write_text("def policy(query, ctx):\n    raise KeyError('kaboom')\n    yield\n")
    done = shell.run("solve", "1+1", *SCRIPTED, "--policy", "buggy:policy", "--quiet")
    assert done.code == 7, done
    assert "KeyError: 'kaboom'" in done.err
    assert "Traceback" not in done.err


# -- verifiers that people write ---------------------------------------------------------------------------------


def raises(problem: str) -> float:
    raise ValueError("no idea")


class NotANumber:
    name = "not_a_number"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        return [float("nan")] * len(candidates)


class TooFew:
    name = "too_few"

    async def score(self, candidates: Sequence[Candidate], meter: Meter) -> Sequence[float | None]:
        return [0.5]


@pytest.mark.parametrize(
    ("verifier", "says"),
    [
        (raises, "no idea"),
        (lambda problem: float("nan"), "nan"),
        (lambda problem: 7.0, "7"),
        (lambda problem: "good", "good"),
        (NotANumber(), "nan"),
        (TooFew(), "1"),
    ],
    ids=["raises", "NaN", "out of range", "no number", "object with NaN", "too few scores"],
)
async def test_a_verifier_that_fails_leaves_scores_missing_and_the_majority_answers(
    verifier: Callable[..., object], says: str
) -> None:
    problems: list[str] = []

    def note(event: object) -> None:
        data = getattr(event, "data", {})
        problems.extend(data.get("outcome", {}).get("problems", ()) if isinstance(data, dict) else ())

    async with Orchestrator("scripted:arithmetic") as ttc:
        result = await ttc.solve("1+1", policy="best_of_n", params={"n": 4}, verifier=verifier, on_event=note)
    assert (result.text, result.state, result.confidence) == ("2", JobState.SUCCEEDED, None)
    assert problems
    assert says in problems[0].lower()


async def test_a_verifier_that_hangs_ends_with_the_deadline(tmp_path: Path) -> None:
    def hangs(problem: str) -> float:
        time.sleep(4)
        return 1.0

    started = time.monotonic()
    async with Orchestrator("scripted:arithmetic") as ttc:
        result = await ttc.solve("1+1", policy="best_of_n", params={"n": 2}, verifier=hangs, budget="seconds=1.5")
        took = time.monotonic() - started
    assert result.text == "2"
    assert took < 3.5


async def test_a_verifier_that_keeps_hanging_fails_the_job() -> None:
    def hangs(problem: str) -> float:
        time.sleep(3)
        return 1.0

    async with Orchestrator("scripted:arithmetic") as ttc:
        with pytest.raises(VerifierHung):
            await ttc.solve("1+1", policy="best_of_n", params={"n": 4}, verifier=hangs, budget="seconds=0.6")
