"""Why a start has failed, from what the core's log says."""

from __future__ import annotations

import pytest

from orchestrator.errors import EngineFailed, InvalidRequest, ModelUnavailable
from orchestrator.workers.vllm import open_engine
from orchestrator.workers.vllm.failures import closed, died, of_start, root_cause, shortened

LOG = """2026-01-01 INFO 7 vllm.v1.engine.core Initializing
2026-01-01 ERROR 7 vllm.v1.engine.core EngineCore failed to start.
Traceback (most recent call last):
  File "core.py", line 1, in run
    raise ValueError("no")
ValueError: Available memory on node 0 (1.0/2.0 GiB) is less than requested (9.0 GiB).
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above.
"""
VAGUE = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")


def test_the_root_cause_is_the_first_error_that_says_something():
    assert root_cause(LOG) == "ValueError: Available memory on node 0 (1.0/2.0 GiB) is less than requested (9.0 GiB)."
    assert root_cause("INFO all is well\n") is None


def test_too_little_memory_is_told_with_the_way_out():
    error = of_start(VAGUE, LOG, model="m")
    assert isinstance(error, EngineFailed)
    assert not error.is_retryable
    assert "not enough memory for model 'm'" in error.message
    assert "9.0 GiB" in error.message
    assert "max_model_len" in error.message


def test_a_core_that_was_killed_had_no_memory():
    error = of_start(RuntimeError(f"{VAGUE} Failed core proc(s): {{'EngineCore': -9}}"), "", model="m")
    assert "not enough memory" in error.message


def test_other_failures_are_told_as_they_are():
    assert "CUDA driver" in of_start(RuntimeError("CUDA driver not found"), "", model="m").message
    assert isinstance(of_start(OSError("no such folder"), "", model="m"), ModelUnavailable)
    mine = InvalidRequest("mine", field="x")
    assert of_start(mine, LOG, model="m") is mine


def test_settings_that_vllm_does_not_take_are_the_callers_mistake():
    unknown = of_start(TypeError("__init__() got an unexpected keyword argument 'no_such'"), "", model="m")
    assert isinstance(unknown, InvalidRequest)
    assert "no engine argument 'no_such'" in unknown.message
    refused = of_start(ValueError("max_model_len (100000) is greater than 256"), "", model="m")
    assert isinstance(refused, InvalidRequest)
    assert "100000" in refused.message


async def test_a_folder_that_is_not_there_is_told_before_anything_starts():
    with pytest.raises(ModelUnavailable, match="no folder '/no/such/folder'"):
        await open_engine("/no/such/folder")


def test_the_dead_may_come_back_but_the_closed_do_not():
    assert died("m").is_retryable
    assert not died("m", is_for_good=True).is_retryable
    assert not closed("m").is_retryable


def test_messages_are_one_short_line():
    assert shortened("a\n  b") == "a b"
    assert len(shortened("x" * 10_000)) < 500
