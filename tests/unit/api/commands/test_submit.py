"""``ttc submit`` against a job server that a test can make misbehave; the real one is in the integration tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestrator.api.cli import main
from orchestrator.api.commands.submit import address_of
from orchestrator.errors import EngineFailed

from .fake_job_server import FakeJob, FakeJobServer, row_of, running_job_server


class Said(NamedTuple):
    code: int
    out: str
    err: str


Ttc = Callable[..., Said]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeJobServer]:
    with running_job_server(tmp_path) as server:
        yield server


@pytest.fixture
def ttc(
    tmp_path: Path, server: FakeJobServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ttc:
    """``ttc submit`` in a folder with a file of three problems, for the fake cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("RAY_", "TTC_"))]:
        monkeypatch.delenv(name)
    lines = [json.dumps({"question": "2 + 2?", "answer": "4"}), "", json.dumps({"id": "b", "question": "1 + 3?"})]
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, json.dumps({"question": "0 + 4?"})]) + "\n")

    def run(*args: str, address: str | None = None) -> Said:
        capsys.readouterr()
        code = main(["submit", *args, "--address", address or server.address])
        return Said(code, *capsys.readouterr())

    return run


ASKED = ("p.jsonl", "--model", "scripted:arithmetic", "--budget", "tokens=500")


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def never_ends(job: FakeJob) -> None:
    job.writer.write_record("start", num_problems=len(job.sent), distribution="0")


def failing(status: str = "FAILED", exit_code: int | None = 1, message: str = "", said: str = "") -> Any:
    def behave(job: FakeJob) -> None:
        job.writer.write(row_of("1"))
        job.say(said)
        job.end(status, exit_code, message)

    return behave


# What is sent, and what comes back


def test_results_come_back_and_a_line_that_is_empty_keeps_the_numbers(ttc: Ttc, server: FakeJobServer) -> None:
    said = ttc(*ASKED, "--out", "r.jsonl")
    assert said.code == 0, said.err
    assert [row["id"] for row in rows("r.jsonl")] == ["1", "b", "4"] == server.last.sent
    assert "3 problems: 3 answered" in said.err
    assert "21 output tokens, $1.5" in said.err


def test_without_out_results_go_to_stdout(ttc: Ttc) -> None:
    said = ttc(*ASKED, "--quiet")
    assert [json.loads(line)["id"] for line in said.out.splitlines()] == ["1", "b", "4"]
    assert said.err == ""


def test_the_job_is_told_what_was_asked(ttc: Ttc, server: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "s3cret")
    arguments = ("--policy", "self_consistency", "-n", "5", "--set", "stop=false", "--seed", "7", "--concurrency", "3")
    ttc(*ASKED, *arguments[:4], *arguments[6:], "--env", "SECRET_OF_MINE", "--env", "OTHER=x=y", "--cpus", "2")
    request, order = server.last.request, server.last.order
    assert request["entrypoint"] == "ttc submit --job job.json"
    assert request["entrypoint_num_cpus"] == 2
    assert (
        request["runtime_env"]["env_vars"] | {"SECRET_OF_MINE": "s3cret", "OTHER": "x=y"}
        == (request["runtime_env"]["env_vars"])
    )
    assert order.asking["policy"] == "self_consistency"
    assert (order.asking["count"], order.asking["seed"], order.concurrency) == (5, 7, 3)
    assert order.asking["budget"] == "tokens=500"


def test_a_fleet_file_travels_with_the_job(ttc: Ttc, server: FakeJobServer) -> None:
    Path("fleet.toml").write_text('[models.little]\nmodel = "scripted:arithmetic"\n[cluster]\nray = "auto"\n')
    said = ttc("p.jsonl", "--fleet", "fleet.toml", "--budget", "tokens=500")
    assert said.code == 0, said.err
    assert server.last.order.has_fleet
    assert server.last.order.model is None


def test_a_file_on_the_cluster_is_named_and_not_sent(ttc: Ttc, server: FakeJobServer) -> None:
    Path("r.jsonl").write_text(json.dumps(row_of("done before")) + "\n")
    said = ttc("/shared/p.jsonl", "--in-place", *ASKED[1:], "--out", "r.jsonl")
    assert said.code == 0, said.err
    assert server.last.order.problems == "/shared/p.jsonl"
    assert server.last.order.done == ("done before",)
    assert server.last.sent == []


def test_a_prompt_of_200_kb_and_an_answer_as_long_arrive_whole(ttc: Ttc, server: FakeJobServer) -> None:
    Path("long.jsonl").write_text(json.dumps({"question": "x" * 200_000}) + "\n")

    def behave(job: FakeJob) -> None:
        job.writer.write(row_of("1", text="ü" * 200_000))
        job.writer.write_record("end")
        job.end()

    server.behave = behave
    assert ttc("long.jsonl", *ASKED[1:], "--out", "r.jsonl").code == 0
    assert rows("r.jsonl")[0]["text"] == "ü" * 200_000


def test_what_the_job_says_besides_is_shown_without_what_could_steer_a_terminal(
    ttc: Ttc, server: FakeJobServer
) -> None:
    def behave(job: FakeJob) -> None:
        job.say("\x1b[36m(worker pid=7)\x1b[0m loading\x1b]0;title\x07\n::ttc ttc-0000 0 1/1 {}\n")
        failing("SUCCEEDED", 0)(job)
        job.writer.write_record("end")

    server.behave = behave
    said = ttc(*ASKED)
    assert "(worker pid=7) loading" in said.err
    assert "\x1b" not in said.err
    assert "ttc-0000" in said.err, "another job's mark is text like any other"


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"question": ', "p.jsonl, line 3 is not JSON"),
        ('{"quest": "x"}', "p.jsonl, line 3 has none of the fields"),
        ('{"id": "1", "question": "x"}', "p.jsonl, line 3: the id '1' is that of line 1 already"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_nothing_is_sent(
    ttc: Ttc, server: FakeJobServer, line: str, words: str
) -> None:
    given = Path("p.jsonl").read_text().splitlines()
    Path("p.jsonl").write_text("\n".join([given[0], "", line]) + "\n")
    said = ttc(*ASKED, "--out", "r.jsonl")
    assert said.code == 2
    assert words in said.err
    assert server.seen == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "there is nothing to do"),
        (("p.jsonl",), "name the models: --fleet"),
        ((*ASKED, "--stop", "x"), "FILE and --stop contradict each other"),
        ((*ASKED, "--concurrency", "0"), "--concurrency must be from 1"),
        ((*ASKED, "--json"), "add --out FILE"),
        ((*ASKED, "--budget", "tokens=many"), "tokens"),
        ((*ASKED, "--policy", "none_such"), "unknown policy"),
        ((*ASKED, "--env", "NOT_SET_ANYWHERE"), "is not set here"),
        ((*ASKED, "--env", "not a name=1"), "is no name of a variable"),
        ((*ASKED, "--out", "no/such/folder/r.jsonl"), "cannot write --out"),
        (("p.jsonl", "--fleet", "none.toml"), "none.toml"),
        (("none.jsonl", *ASKED[1:]), "cannot read 'none.jsonl'"),
        (("--follow", "x", "--no-wait"), "--no-wait is for submitting"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_cluster_is_asked(
    ttc: Ttc, server: FakeJobServer, args: tuple[str, ...], words: str
) -> None:
    said = ttc(*args)
    assert said.code == 2
    assert words in said.err
    assert server.seen == []


def test_a_file_of_something_else_is_not_added_to(ttc: Ttc, server: FakeJobServer) -> None:
    Path("r.jsonl").write_text("a diary\n")
    assert ttc(*ASKED, "--out", "r.jsonl").code == 2
    assert Path("r.jsonl").read_text() == "a diary\n"
    assert server.seen == []


# Exit codes


def test_a_problem_without_an_answer_gives_5(ttc: Ttc, server: FakeJobServer) -> None:
    def behave(job: FakeJob) -> None:
        for row_id, status in zip(job.sent, ["ok", "no_answer", "error"], strict=True):
            job.writer.write(row_of(row_id, status=status))
        job.writer.write_record("end")
        job.end()

    server.behave = behave
    said = ttc(*ASKED, "--out", "r.jsonl", "--json")
    assert said.code == 5
    counts = json.loads(said.out)
    assert (counts["num_answered"], counts["num_errors"], counts["status"]) == (1, 1, "SUCCEEDED")


def test_the_jobs_own_error_decides_the_exit_code(ttc: Ttc, server: FakeJobServer) -> None:
    def behave(job: FakeJob) -> None:
        job.writer.write_record("error", error=EngineFailed("no replica is left", model="little").fields())
        job.end("FAILED", 6)

    server.behave = behave
    said = ttc(*ASKED, "--out", "r.jsonl", "--json")
    assert said.code == 6
    assert json.loads(said.err.splitlines()[-1])["error"]["code"] == "engine_failed"
    assert "no replica is left" in said.err


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (failing(exit_code=-9), "killed by signal 9"),
        (failing(exit_code=1, said="MemoryError\n"), "exit code 1; it said last: 'MemoryError'"),
        (failing(exit_code=127, said="ttc: not found\n"), "the cluster's machines have no command ttc"),
        (failing(exit_code=None, message="The node died."), "The node died."),
        (failing("SUCCEEDED", 0), "its log, which holds the results, could not be read to the end"),
        (failing("STOPPED", None), "was stopped"),
    ],
)
def test_a_job_that_breaks_down_gives_1_and_keeps_what_it_found(
    ttc: Ttc, server: FakeJobServer, behave: Any, words: str
) -> None:
    server.behave = behave
    said = ttc(*ASKED, "--out", "r.jsonl")
    assert said.code == 1
    assert words in said.err
    assert "the same command again runs only what is missing" in said.err
    assert [row["id"] for row in rows("r.jsonl")] == ["1"]
    server.behave = type(server)(server.folder).behave
    assert ttc(*ASKED, "--out", "r.jsonl").code == 0
    assert server.last.sent == ["b", "4"]
    assert [row["id"] for row in rows("r.jsonl")] == ["1", "b", "4"]


@pytest.mark.parametrize("version", ["2.9.0", "2.61.0", "3.0.0", "2.6"])
def test_a_cluster_of_another_version_is_refused(ttc: Ttc, server: FakeJobServer, version: str) -> None:
    server.version = version
    said = ttc(*ASKED)
    assert said.code == 6
    assert f"runs Ray {version}, and this ttc is made for Ray 2.60" in said.err
    assert server.jobs == {}


def test_no_cluster_gives_6_and_says_what_to_look_at(ttc: Ttc, tmp_path: Path) -> None:
    said = ttc(*ASKED, address="127.0.0.1:1")
    assert said.code == 6
    assert "no Ray job server answers at http://127.0.0.1:1" in said.err
    assert "goes on without this command" not in said.err


def test_a_full_disk_here_gives_9_and_says_that_the_job_goes_on(ttc: Ttc) -> None:
    said = ttc(*ASKED, "--out", "/dev/full")
    if "cannot write '/dev/full.job'" in said.err:
        pytest.skip("/dev is not ours to write to")
    Path("/dev/full.job").unlink()
    assert said.code == 9
    assert "cannot write to '/dev/full'" in said.err
    assert "ttc submit --follow ttc-" in said.err


# Once, although something went wrong on the way


def test_a_log_that_breaks_off_is_read_again_and_nothing_is_written_twice(ttc: Ttc, server: FakeJobServer) -> None:
    server.breaks = 2
    assert ttc(*ASKED, "--out", "r.jsonl").code == 0
    assert [row["id"] for row in rows("r.jsonl")] == ["1", "b", "4"]
    assert sum(path.endswith("/tail") for _, path in server.seen) == 3


def test_a_submission_whose_answer_is_lost_starts_one_job(ttc: Ttc, server: FakeJobServer) -> None:
    server.swallows = True
    assert ttc(*ASKED, "--out", "r.jsonl").code == 0
    assert len(server.jobs) == 1


def test_connections_that_the_server_closes_are_made_anew(ttc: Ttc, server: FakeJobServer) -> None:
    server.hangs_up_on = {("GET", "/api/packages"), ("PUT", "/api/packages"), ("POST", "/api/jobs/")}
    said = ttc(*ASKED, "--out", "r.jsonl")
    assert said.code == 0, said.err
    assert len(server.jobs) == 1
    assert [row["id"] for row in rows("r.jsonl")] == ["1", "b", "4"]


def test_what_is_done_is_not_asked_for_again(ttc: Ttc, server: FakeJobServer) -> None:
    ttc(*ASKED, "--out", "r.jsonl")
    said = ttc(*ASKED, "--out", "r.jsonl")
    assert said.code == 0
    assert "3 from an earlier run" in said.err
    assert len(server.jobs) == 1
    assert len(rows("r.jsonl")) == 3


def test_a_torn_last_line_is_mended(ttc: Ttc, server: FakeJobServer) -> None:
    ttc(*ASKED, "--out", "r.jsonl")
    whole = Path("r.jsonl").read_bytes()
    Path("r.jsonl").write_bytes(whole[:-20])
    assert ttc(*ASKED, "--out", "r.jsonl").code == 0
    assert [row["id"] for row in rows("r.jsonl")] == ["1", "b", "4"]
    assert len(server.jobs) == 1, "the row was in the first job's log"


def test_a_job_that_runs_is_followed_and_no_other_started(ttc: Ttc, server: FakeJobServer) -> None:
    server.behave = never_ends
    left = ttc(*ASKED, "--out", "r.jsonl", "--no-wait")
    (job_id,) = server.jobs
    assert (left.code, left.out.strip()) == (0, job_id)
    assert f"ttc submit --follow {job_id}" in left.err
    again = ttc(*ASKED, "--out", "r.jsonl", "--no-wait", "--json")
    assert json.loads(again.out)["job_id"] == job_id
    server.last.writer.write(row_of("b"))
    server.last.writer.write_record("end")
    server.last.end()
    server.behave = type(server)(server.folder).behave
    said = ttc(*ASKED, "--out", "r.jsonl")
    assert said.code == 0, said.err
    assert server.last.sent == ["1", "4"], "what the first job did not find"
    assert sorted(row["id"] for row in rows("r.jsonl")) == ["1", "4", "b"]


def test_a_running_job_that_was_asked_otherwise_is_a_conflict(ttc: Ttc, server: FakeJobServer) -> None:
    server.behave = never_ends
    ttc(*ASKED, "--out", "r.jsonl", "--no-wait")
    said = ttc(*ASKED, "--seed", "9", "--out", "r.jsonl")
    assert said.code == 4
    assert "ttc submit --stop ttc-" in said.err
    Path("r.jsonl").unlink()
    assert ttc(*ASKED, "--out", "r.jsonl").code == 4


def test_results_of_other_options_are_not_taken_for_these(ttc: Ttc, server: FakeJobServer) -> None:
    ttc(*ASKED, "--out", "r.jsonl", "--no-wait")
    assert rows("r.jsonl") == []
    assert ttc(*ASKED, "--seed", "9", "--out", "r.jsonl").code == 0
    assert len(server.jobs) == 2
    assert server.last.sent == ["1", "b", "4"]


def test_a_job_that_the_cluster_forgot_is_started_anew(ttc: Ttc, server: FakeJobServer) -> None:
    ttc(*ASKED, "--out", "r.jsonl", "--no-wait")
    server.jobs.clear()
    assert ttc(*ASKED, "--out", "r.jsonl").code == 0
    assert len(rows("r.jsonl")) == 3


# Following and stopping


def test_a_job_can_be_followed_by_its_id_from_elsewhere(ttc: Ttc, server: FakeJobServer) -> None:
    ttc(*ASKED, "--no-wait")
    said = ttc("--follow", server.last.order.job_id)
    assert said.code == 0
    assert [json.loads(line)["id"] for line in said.out.splitlines()] == ["1", "b", "4"]
    for _ in range(2):
        assert ttc("--follow", server.last.order.job_id, "--out", "r.jsonl").code == 0
    assert len(rows("r.jsonl")) == 3


def test_a_job_is_stopped_by_its_id(ttc: Ttc, server: FakeJobServer) -> None:
    server.behave = never_ends
    ttc(*ASKED, "--no-wait")
    job_id = server.last.order.job_id
    assert "is being stopped" in ttc("--stop", job_id).err
    assert server.last.details["status"] == "STOPPED"
    assert json.loads(ttc("--stop", job_id, "--json").out)["was_running"] is False


@pytest.mark.parametrize("option", ["--follow", "--stop"])
def test_jobs_of_others_are_left_alone(ttc: Ttc, server: FakeJobServer, option: str) -> None:
    server.behave = never_ends
    ttc(*ASKED, "--no-wait")
    server.last.details["metadata"] = {}
    said = ttc(option, server.last.order.job_id)
    assert said.code == 2
    assert "was not submitted by ttc submit" in said.err
    assert server.last.details["status"] == "RUNNING"


def test_an_unknown_job_is_answered_with_those_that_are_known(ttc: Ttc, server: FakeJobServer) -> None:
    ttc(*ASKED, "--no-wait")
    said = ttc("--follow", "ttc-../../etc")
    assert said.code == 2
    assert server.last.order.job_id in said.err


# Where the cluster is


@pytest.mark.parametrize(
    ("given", "env", "address"),
    [
        ("head:8265", {"RAY_API_SERVER_ADDRESS": "http://other:1"}, "head:8265"),
        (None, {"RAY_API_SERVER_ADDRESS": "http://api:1", "RAY_ADDRESS": "http://other:1"}, "http://api:1"),
        (None, {"RAY_ADDRESS": "http://other:1"}, "http://other:1"),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        (None, {}, "http://127.0.0.1:8265"),
    ],
)
def test_the_address_is_found_as_rays_own_commands_find_it(
    given: str | None, env: dict[str, str], address: str
) -> None:
    assert address_of(given, env) == address


def test_a_cluster_with_tokens_is_given_one(ttc: Ttc, server: FakeJobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token = "t0ken"
    refused = ttc(*ASKED)
    assert refused.code == 6
    assert "RAY_AUTH_TOKEN" in refused.err
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t0ken")
    assert ttc(*ASKED).code == 0
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    Path("token").write_text("t0ken\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "token")
    assert ttc(*ASKED).code == 0
