"""What a job does with its order, in this process, with a scripted model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.terminal.cluster_job import Order, fleet_here, run_job
from orchestrator.api.terminal.job_log import JobLogReader
from orchestrator.api.terminal.problems import read_problems
from orchestrator.api.terminal.submission import Batch, Feeding, new_job_id
from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import FleetFile
from orchestrator.workers.ray.jobs import JobState

ASKING = {
    "policy": "self_consistency",
    "count": 3,
    "parameters": [],
    "budget": "tokens=2000",
    "target_confidence": None,
    "verifier": None,
    "answer": "auto",
    "temperature": None,
    "max_sample_tokens": None,
    "seed": 0,
}
FLEET = '[models.little]\nmodel = "scripted:arithmetic"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's working folder, with two problems."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": "What is 2 + 3?", "answer": "5"}, {"id": "b", "question": "What is 4 + 4?", "answer": "9"}]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return tmp_path


def batch_of(**changes: Any) -> Batch:
    order = {"asking": ASKING, "model": "scripted:arithmetic", "concurrency": 2}
    values: dict[str, Any] = {
        "file": "problems.jsonl",
        "problems": read_problems("problems.jsonl"),
        "order": order,
        "fleet": None,
        "env": {},
    }
    return Batch(**values | changes)


def unpacked(batch: Batch, done: frozenset[str] = frozenset()) -> Order:
    """The order, after the package was opened in the working folder."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(batch.package("ttc-1", done))) as files:
        files.extractall()
    return Order.model_validate_json(Path("job.json").read_bytes())


def done_by(folder: Path) -> tuple[int, list[Any]]:
    """The exit code and the records of the job in a folder."""
    fd = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        code = run_job("job.json", fd=fd)
    finally:
        os.close(fd)
    return code, list(JobLogReader("ttc-1").take((folder / "log").read_text()))


def rows_of(records: list[Any]) -> dict[str, Any]:
    return {record["row"]["id"]: record["row"] for record in records if record["kind"] == "row"}


def test_a_job_solves_what_it_was_sent(folder: Path) -> None:
    unpacked(batch_of())
    code, records = done_by(folder)
    assert code == 0
    assert [record["kind"] for record in records][:2] == ["start", "ready"]
    assert records[-1]["kind"] == "end"
    rows = rows_of(records)
    assert (rows["1"]["answer"], rows["1"]["is_correct"], rows["1"]["line"]) == ("5", True, 1)
    assert (rows["b"]["answer"], rows["b"]["is_correct"], rows["b"]["line"]) == ("8", False, 2)


def test_what_is_done_is_not_sent_and_lines_keep_their_numbers(folder: Path) -> None:
    unpacked(batch_of(), frozenset({"1"}))
    rows = rows_of(done_by(folder)[1])
    assert list(rows) == ["b"]
    assert rows["b"]["line"] == 2


def test_what_is_done_is_left_out_of_a_file_on_the_cluster(folder: Path) -> None:
    (folder / "shared.jsonl").write_bytes((folder / "problems.jsonl").read_bytes())
    unpacked(batch_of(file="shared.jsonl", problems=None), frozenset({"b"}))
    assert list(rows_of(done_by(folder)[1])) == ["1"]


def test_a_fleet_is_opened_in_the_job_where_it_has_no_cluster(folder: Path) -> None:
    unpacked(batch_of(fleet=FLEET, order={"asking": ASKING, "concurrency": 2}))
    code, records = done_by(folder)
    assert code == 0
    assert rows_of(records)["1"]["answer"] == "5"


def test_a_job_uses_the_cluster_that_it_runs_on() -> None:
    fleet = FleetFile.model_validate(
        {"models": {"little": {"model": "scripted:arithmetic"}}, "cluster": {"ray": "head:6379"}}
    )
    assert fleet_here(fleet).cluster.ray == "auto"
    assert fleet_here(fleet).cluster.namespace == fleet.cluster.namespace


@pytest.mark.parametrize(
    ("order", "code", "words"),
    [
        ({"asking": ASKING | {"policy": "none_such"}}, 2, "unknown policy"),
        ({"model": "scripted:none_such"}, 2, "unknown script"),
        ({"model": "llama_cpp:/no/such/file.gguf"}, 6, "/no/such/file.gguf"),
    ],
)
def test_what_cannot_be_done_is_a_record_and_an_exit_code(
    folder: Path, order: dict[str, Any], code: int, words: str
) -> None:
    unpacked(batch_of(order={"asking": ASKING, "model": "scripted:arithmetic", "concurrency": 2} | order))
    ended, records = done_by(folder)
    assert records[-1]["kind"] == "error"
    assert words in records[-1]["error"]["message"]
    assert ended == code


def test_a_file_on_the_cluster_with_a_line_that_cannot_be_used_costs_nothing(folder: Path) -> None:
    (folder / "shared.jsonl").write_text('{"question": "What is 1 + 1?"}\n{"question": 7}\n')
    unpacked(batch_of(file="shared.jsonl", problems=None))
    code, records = done_by(folder)
    assert code == 2
    assert [record["kind"] for record in records] == ["error"]
    assert "shared.jsonl, line 2" in records[0]["error"]["message"]


def test_another_version_of_this_distribution_is_refused(folder: Path) -> None:
    order = unpacked(batch_of())
    Path("job.json").write_text(order.model_copy(update={"distribution": "0.0.1"}).model_dump_json())
    code, records = done_by(folder)
    assert code == 2
    assert "version 0.0.1 submitted the job" in records[0]["error"]["message"]


@pytest.mark.parametrize("text", ["", "[]", '{"job_id": "x"}'])
def test_an_order_that_cannot_be_read_is_refused(folder: Path, text: str) -> None:
    Path("job.json").write_text(text)
    with pytest.raises(InvalidRequest, match="cannot read the order"):
        run_job("job.json")


# What stands beside a file of results


def test_the_same_batch_is_known_again(folder: Path) -> None:
    order = {"asking": ASKING, "model": "scripted:arithmetic", "concurrency": 2}
    assert batch_of().digest == batch_of(order=order | {"concurrency": 9}).digest
    assert batch_of().digest != batch_of(order=order | {"asking": ASKING | {"seed": 1}}).digest
    assert batch_of().digest != batch_of(fleet=FLEET).digest


def test_a_package_is_the_same_for_the_same_content(folder: Path) -> None:
    assert batch_of().package("ttc-1", frozenset()) == batch_of().package("ttc-1", frozenset())


def test_ids_of_jobs_cannot_be_guessed() -> None:
    assert len({new_job_id() for _ in range(100)}) == 100
    assert len(new_job_id()) == len("ttc-") + 16


def test_which_job_feeds_a_file_is_kept_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert Feeding.of(out) is None
    feeding = Feeding("ttc-1", "http://head:8265", "digest")
    feeding.write_beside(out)
    assert Feeding.of(out) == feeding
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl.job"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "\x00"])
def test_a_broken_note_beside_a_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.jsonl.job").write_text(text)
    with pytest.raises(InvalidRequest, match=r"r\.jsonl\.job"):
        Feeding.of(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("status", "is_over"), [("PENDING", False), ("RUNNING", False), ("STOPPED", True), ("FAILED", True)]
)
def test_states_of_a_job(status: str, is_over: bool) -> None:
    assert JobState(id="x", status=status, message="", exit_code=None, metadata={}).is_over is is_over
