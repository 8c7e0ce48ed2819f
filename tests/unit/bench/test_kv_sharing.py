"""What the searches with and without shared KV come to: means, pairs, the page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator.bench.kv_sharing import read_policy
from orchestrator.bench.kv_sharing_analysis import Job, analysis, page, read_jobs
from orchestrator.bench.report import machine
from orchestrator.usage import Usage


def a_job(problem: str, policy: str, arm: str, *, read: int, kept: int, wall_s: float, is_correct: bool) -> Job:
    usage = Usage(
        prompt_tokens=1000,
        cached_prompt_tokens=1000 - read,
        num_levels=4,
        kept_kv_tokens=4 * kept,
        kept_logical_kv_tokens=12 * kept,
    )
    return Job(
        set="sums",
        problem=problem,
        seed=1,
        width=8,
        cap=100,
        policy=policy,
        arm=arm,
        is_correct=is_correct,
        wall_s=wall_s,
        cpu_s=wall_s,
        usage=usage.to_json(),
    )


def some_jobs() -> list[Job]:
    jobs = []
    for number in range(10):
        problem, is_right = f"p{number}", number < 6
        jobs += [
            a_job(problem, "rebase", "shared", read=100, kept=60, wall_s=1.0, is_correct=is_right),
            a_job(problem, "rebase", "unshared", read=1000, kept=60, wall_s=4.0, is_correct=is_right),
            a_job(problem, "ets", "shared", read=50, kept=20, wall_s=0.5, is_correct=is_right),
        ]
    return jobs


def test_arms_are_compared_with_the_first_and_policies_with_the_baseline() -> None:
    found = analysis(some_jobs(), ["rebase", "ets", "beam_search"], ["shared", "unshared", "capped"])
    assert found["problems"] == {"sums": 10}
    assert [(row["policy"], row["arm"]) for row in found["means"]] == [
        ("rebase", "shared"),
        ("rebase", "unshared"),
        ("ets", "shared"),
    ]
    shared = found["means"][0]
    assert (shared["jobs"], shared["accuracy"], shared["read_tokens"]) == (10, 0.6, 100)
    assert (shared["kept_kv_tokens"], shared["kept_unshared_tokens"]) == (60, 180)
    (arm,) = found["arms"]
    assert (arm["arm"], arm["against"]) == ("unshared", "shared")
    assert arm["read_tokens"]["mean"] == 10
    assert arm["wall_s"]["mean"] == 4
    assert arm["accuracy"]["mean"] == 0
    (policy,) = found["policies"]
    assert (policy["policy"], policy["against"]) == ("ets", "rebase")
    assert policy["kept_kv_tokens"]["mean"] == pytest.approx(1 / 3, abs=1e-5)


def test_the_page_has_a_row_for_each_and_survives_json() -> None:
    found = analysis(some_jobs(), ["rebase", "ets"], ["shared", "unshared", "capped"])
    result = {
        "machine": machine(),
        "command": "python -m this",
        "generator": "a",
        "rewards": "b",
        "split": "test",
        "width": 8,
        "cells": 1000,
        "cap": 100,
        **found,
    }
    text = page(json.loads(json.dumps(result)))
    assert "| rebase | unshared | 10 | 0.600 |" in text
    assert "| rebase | unshared | shared | +0.000" in text
    assert "10 of sums" in text


def test_rows_are_read_back_without_a_last_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_jobs(path) == []
    jobs = some_jobs()[:2]
    lines = [json.dumps(asdict(job)) + "\n" for job in jobs]
    path.write_text("".join(lines) + lines[0][:40], encoding="utf-8")
    assert read_jobs(path) == jobs
    assert path.read_text(encoding="utf-8") == "".join(lines)


def test_a_policy_is_read_with_its_parameters() -> None:
    assert read_policy("ets:lambda_b=2,node_cost=tokens") == ("ets", {"lambda_b": "2", "node_cost": "tokens"})
    assert read_policy("rebase") == ("rebase", {})
    for text in ("etc", "ets:lambda_b"):
        with pytest.raises(ValueError):
            read_policy(text)
