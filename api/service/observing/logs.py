"""Structured logs: one JSON object a line, with the request and the job that it is about; never text of prompts.

What an exception says may quote what it was given, so only its type and where it was raised are written down;
``TTC_DEBUG=1`` adds the rest.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

from orchestrator.api.service.observing.context import JOB, REQUEST_ID
from orchestrator.events import Event, Publish
from orchestrator.job import Result
from orchestrator.store import JobRecord

ACCESS_LOG = logging.getLogger("orchestrator.access")
_JOB_LOG = logging.getLogger("orchestrator.jobs")

_OWN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's, for terminals
}
_MAX_CHARS = 1000
_MAX_FRAMES = 12


class JsonFormatter(logging.Formatter):
    """A record as a JSON object on one line.

    Args:
        shows_details: Also say what exceptions say.
    """

    def __init__(self, *, shows_details: bool = False) -> None:
        super().__init__()
        self._shows_details = shows_details

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {  # Any: JSON values
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MAX_CHARS],
        }
        if (request := REQUEST_ID.get()) is not None:
            line["request_id"] = request
        if (job := JOB.get()) is not None:
            line |= {"job_id": job.job_id, "tenant": job.tenant}
        line |= {name: _short(value) for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = self._told(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=False)

    def _told(self, error: BaseException) -> dict[str, Any]:  # Any: JSON values
        frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
        told: dict[str, Any] = {
            "type": type(error).__qualname__,
            "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }
        if self._shows_details:
            told["message"] = str(error)[:_MAX_CHARS]
        if isinstance(error, BaseExceptionGroup):
            told["exceptions"] = [self._told(inner) for inner in error.exceptions]
        elif error.__cause__ is not None:
            told["cause"] = self._told(error.__cause__)
        return told


def log_as_json(*, level: int = logging.INFO, stream: TextIO | None = None, shows_details: bool = False) -> None:
    """Sends all log records of the process to a stream as JSON, in place of where they went before.

    Args:
        level: The least that is told.
        stream: stderr by default.
        shows_details: Also say what exceptions say.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(shows_details=shows_details))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in ("httpcore", "httpx"):  # they would tell every address that is asked
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True  # `ACCESS_LOG` says more, and nothing of the path's text


def log_job(record: JobRecord) -> Publish:
    """An observer that says when a job starts and how it ends; chats start when they are asked for, which is told."""
    if not record.spec.get("is_bound"):
        policy = record.spec.get("policy")
        _JOB_LOG.info("job started", extra={"job_id": record.id, "tenant": record.tenant, "policy": policy})

    def publish(event: Event) -> None:
        if event.kind == "result":
            result: Result = event.data["result"]
            _JOB_LOG.info("job ended", extra={"job_id": record.id, "tenant": record.tenant, **_outcome(result)})

    return publish


def _outcome(result: Result) -> dict[str, Any]:  # Any: JSON values
    return {
        "state": result.state.value,
        "stop_reason": result.stop_reason.value,
        "limited_by": result.limited_by,
        "error": None if result.error is None else result.error.code,
        "num_samples": result.num_samples,
        "output_tokens": result.usage.output_tokens,
        "total_tokens": result.usage.total_tokens,
        "usd": result.usage.usd,
        "wall_s": result.usage.wall_s,
    }


def _short(value: object) -> object:
    return value[:_MAX_CHARS] if isinstance(value, str) else value
