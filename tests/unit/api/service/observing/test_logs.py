from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from orchestrator.api.service.observing.context import JOB, REQUEST_ID, mark_job
from orchestrator.api.service.observing.logs import JsonFormatter, log_as_json, log_job
from orchestrator.store import JobRecord

from .watched import run_watched

SECRET = "the secret text of a prompt"


def formatted(**options: Any) -> dict[str, Any]:
    details = options.pop("details", False)
    error = options.pop("error", None)
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.WARNING, "file.py", 1, "it %s", ("failed",), info)
    vars(record).update(options)
    line = JsonFormatter(shows_details=details).format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def raised(error: Exception) -> Exception:
    """The error with a trace and a cause."""
    cause = ValueError(SECRET)
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


def test_a_record_is_one_json_object_with_its_fields() -> None:
    line = formatted(model="m", number=3, odd=object)
    assert (line["level"], line["logger"], line["message"]) == ("warning", "x", "it failed")
    assert (line["model"], line["number"]) == ("m", 3)
    assert line["time"].endswith("Z")
    assert not {"args", "exc_info", "levelno", "pathname"} & line.keys()


def test_the_request_and_the_job_at_work_are_named() -> None:
    async_tokens = REQUEST_ID.set("r1"), JOB.set(None)
    mark_job(JobRecord(id="j1", tenant="acme"))
    try:
        line = formatted()
    finally:
        REQUEST_ID.reset(async_tokens[0])
        JOB.reset(async_tokens[1])
    assert (line["request_id"], line["job_id"], line["tenant"]) == ("r1", "j1", "acme")


def test_an_exception_is_told_without_what_it_says() -> None:
    line = formatted(error=raised(RuntimeError(SECRET)))
    assert line["exception"]["type"] == "RuntimeError"
    assert line["exception"]["cause"]["type"] == "ValueError"
    assert any("raised" in frame for frame in line["exception"]["frames"])
    assert SECRET not in json.dumps(line)


def test_debugging_tells_more() -> None:
    assert formatted(error=raised(RuntimeError(SECRET)), details=True)["exception"]["message"] == SECRET


def test_a_group_of_exceptions_is_told_one_by_one() -> None:
    line = formatted(error=ExceptionGroup(SECRET, [KeyError(SECRET), ValueError(SECRET)]))
    assert [inner["type"] for inner in line["exception"]["exceptions"]] == ["KeyError", "ValueError"]
    assert SECRET not in json.dumps(line)


async def test_a_jobs_lines_say_what_came_of_it_and_nothing_of_what_was_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    problem = f"{SECRET}: what is 3 + 4 * 2 - 5?"
    result = await run_watched([log_job], problem=problem, policy="self_consistency", params={"n": 3})
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    started, ended = (line for line in lines if line["logger"] == "orchestrator.jobs")
    assert (started["message"], started["job_id"], started["policy"]) == ("job started", "job-1", "self_consistency")
    assert (ended["state"], ended["stop_reason"]) == ("succeeded", "completed")
    assert ended["output_tokens"] == result.usage.output_tokens
    assert SECRET not in json.dumps(lines)
    assert result.text is not None
    assert all(result.text != field for line in lines for field in line.values())


def test_all_records_of_the_process_go_to_one_stream() -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:
        root.removeHandler(handler)
    stream = io.StringIO()
    try:
        log_as_json(stream=stream)
        logging.getLogger("uvicorn.error").warning("started", extra={"color_message": "x"})
        logging.getLogger("uvicorn.access").warning("GET /secret")
        logging.getLogger("httpx").info("HTTP Request: GET http://user:secret@host")
    finally:
        for handler in list(root.handlers):
            root.removeHandler(handler)
        for handler in before:
            root.addHandler(handler)
        root.setLevel(level)
        logging.getLogger("uvicorn.access").disabled = False
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "started"
    assert "color_message" not in line
