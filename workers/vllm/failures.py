"""vLLM's exceptions as ours: what the caller did, what may be tried again, and why a start has failed."""

from __future__ import annotations

import re

from orchestrator.errors import EngineFailed, InvalidRequest, ModelUnavailable, TtcError

_ERROR_LINE = re.compile(r"^(?:.*\s)?((?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)): ?(.*)$")
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_VAGUE = ("Engine core initialization failed", "WorkerProc initialization failed")
_MEMORY = re.compile(
    r"out of memory|outofmemory|memoryerror|can't allocate memory|cannot allocate memory|no available memory"
    r"|memory on node|kv cache.*(?:memory|larger than)|free memory on device|not enough (?:free )?memory|-9\b",
    re.IGNORECASE,
)
_WAY_OUT = (
    "lower max_model_len, max_num_seqs or kv_cache_gib, free memory, or take more accelerators (tensor_parallel_size)"
)


def of_request(error: Exception, *, model: str) -> TtcError:
    """What a request's exception means."""
    from vllm.exceptions import GracefulHTTPError, VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, TtcError):
        return error
    if isinstance(error, EngineDeadError):
        return died(model)
    if isinstance(error, GracefulHTTPError):
        return EngineFailed(f"vLLM has no room for more requests to model {model!r}: {error}", model=model)
    if isinstance(error, VLLMClientError | ValueError):
        return InvalidRequest(f"vLLM refuses the request to model {model!r}: {shortened(str(error))}", field="request")
    cause = error.__cause__ or error
    if isinstance(cause, VLLMClientError | ValueError | NotImplementedError):
        return InvalidRequest(f"vLLM refuses the request to model {model!r}: {shortened(str(cause))}", field="request")
    said = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
    return EngineFailed(f"vLLM failed on a request to model {model!r}: {shortened(said)}", model=model)


def died(model: str, *, is_for_good: bool = False) -> EngineFailed:
    """The process that runs the model is gone."""
    what = "has died too often, and is not started again" if is_for_good else "has died"
    return EngineFailed(f"vLLM's engine core for model {model!r} {what}", model=model, is_retryable=not is_for_good)


def closed(model: str) -> EngineFailed:
    """The engine was closed here."""
    return EngineFailed(f"the engine of model {model!r} is closed", model=model, is_retryable=False)


def of_start(error: Exception, log: str, *, model: str) -> TtcError:
    """Why the model could not be opened: the root cause stands in the log, since it happened in another process."""
    if isinstance(error, TtcError):
        return error
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    cause = root_cause(log) if any(vague in said for vague in _VAGUE) else None
    reason = shortened(cause or said)
    if _MEMORY.search(f"{cause or ''} {said}"):
        return EngineFailed(
            f"there is not enough memory for model {model!r}: {reason}; {_WAY_OUT}", model=model, is_retryable=False
        )
    if isinstance(error, OSError):
        return ModelUnavailable(f"model {model!r} cannot be read: {reason}", name=model)
    if isinstance(error, ValueError | TypeError) and cause is None:  # checked here, before a process was started
        unknown = _UNKNOWN.search(said)
        told = f"it has no engine argument {unknown[1]!r}" if unknown else reason
        return InvalidRequest(f"vLLM does not take the settings of model {model!r}: {told}", field="engine_args")
    return EngineFailed(f"vLLM could not start model {model!r}: {reason}", model=model, is_retryable=False)


def root_cause(log: str) -> str | None:
    """The first error line of the last traceback that says more than that the start failed."""
    found = [
        f"{match[1]}: {match[2]}"
        for line in log.splitlines()
        if (match := _ERROR_LINE.match(line)) and not any(vague in line for vague in _VAGUE)
    ]
    return found[0] if found else None


def shortened(text: str, *, limit: int = 400) -> str:
    """One line of it, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
