"""Journals made by hand, for what reads them."""

from __future__ import annotations

import random

from orchestrator.budget import Budget
from orchestrator.engine import Message
from orchestrator.job import JobSpec
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.usage import Usage

HOSTILE = "</script><script>alert(1)</script><!--{{data}}-->\u202egnp.exe\u2028\x00\"'&\n"


class Journal:
    """Rows in the order in which they are added."""

    def __init__(self) -> None:
        self.rows: list[JournalRow] = []

    def add(self, kind: str, **data: object) -> None:
        self.rows.append(JournalRow(len(self.rows), kind, data))


REASON = "not among the best"


def search(
    num_nodes: int, *, seed: int = 0, width: int = 12, text: str = HOSTILE
) -> tuple[JobRecord, list[JournalRow]]:
    """A finished tree search that scores every step and releases all but ``width`` of them; every text in it holds
    ``text``."""
    rng = random.Random(seed)
    journal, frontier, made, position = Journal(), ["0"], 1, 0
    best: str | None = None
    while made < num_nodes:
        counts = [rng.randint(1, 4) for _ in frontier]
        action = {"type": "Expand", "nodes": frontier, "num_samples": counts, "model": "small"}
        journal.add("begin", a=position, action=action)
        parents = [parent for parent, count in zip(frontier, counts, strict=True) for _ in range(count)]
        units = []
        going_on = []
        for index, parent in enumerate(parents):
            answer = rng.choice(["384", "394", f"7{text}"]) if rng.random() < 0.2 else None
            node = {
                "id": f"{position}.{index}",
                "parent": parent,
                "text": f"Step {position}. {text}",
                "finish": "end" if answer else rng.choice(["stop", "length", "cancelled", "monitor"]),
                "output_tokens": 10,
                "model": "m",
            }
            usage = {"output_tokens": 10} | ({"prompt_tokens": 40} if parent == "0" and index == 0 else {})
            journal.add("sample", a=position, i=index, usage=usage, node=node | {"answer": answer})
            units.append([index, answer])
            if answer is None and node["finish"] != "cancelled":
                going_on.append(node["id"])
            best = best or (node["id"] if answer == "384" else None)
        ids = [f"{position}.{index}" for index in range(len(parents))]
        journal.add("done", a=position, action=action, outcome={"units": units}, t=float(position))
        score = {"type": "Score", "nodes": ids, "verifier": "judge"}
        scores = [rng.random() if rng.random() < 0.9 else None for _ in ids]
        journal.add("done", a=position + 1, action=score, outcome={"scores": scores, "problems": []}, t=position + 0.5)
        made += len(ids)
        frontier = rng.sample(going_on, min(len(going_on), width)) or ["0"]
        release = {"type": "Release", "all_but": frontier, "reason": f"{REASON}{text}"}
        journal.add("done", a=position + 2, action=release, outcome={}, t=position + 0.5)
        position += 3
    return finished(text, best, made), journal.rows


def finished(text: str, best: str | None, made: int) -> JobRecord:
    """The record of a job that succeeded, with ``best`` as the node it chose."""
    spec = JobSpec(
        problem=f"How many? {text}",
        messages=(Message("user", f"How many? {text}"),),
        policy="search",
        budget=Budget(max_output_tokens=50_000, max_usd=0.02),
    )
    result = {
        "answer": "384",
        "confidence": 0.8,
        "confidence_kind": "verifier",
        "alternatives": [{"answer": f"7{text}", "share": 0.2}],
        "node": best,
        "stop_reason": "completed",
        "limited_by": None,
        "num_samples": made,
        "usage": Usage(output_tokens=10 * made, wall_s=9.5).to_json(),
        "error": None,
        "question": None,
    }
    return JobRecord(id="job", spec=spec.to_json(), state=JobState.SUCCEEDED, created_at=1.8e9, result=result)
