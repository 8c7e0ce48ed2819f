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


def search(num_nodes: int, *, seed: int = 0, text: str = HOSTILE) -> tuple[JobRecord, list[JournalRow]]:
    """A finished tree search with scores; every text in it holds ``text``."""
    rng = random.Random(seed)
    journal, frontier, made, position = Journal(), ["0"], 1, 0
    best: str | None = None
    while made < num_nodes:
        counts = [rng.randint(1, 4) for _ in frontier]
        action = {"type": "Expand", "nodes": frontier, "num_samples": counts, "model": "small"}
        journal.add("begin", a=position, action=action)
        parents = [parent for parent, count in zip(frontier, counts, strict=True) for _ in range(count)]
        units = []
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
            journal.add("sample", a=position, i=index, usage={"output_tokens": 10}, node=node | {"answer": answer})
            units.append([index, answer])
            best = best or (node["id"] if answer == "384" else None)
        ids = [f"{position}.{index}" for index in range(len(parents))]
        journal.add("done", a=position, action=action, outcome={"units": units}, t=float(position))
        score = {"type": "Score", "nodes": ids, "verifier": "judge"}
        scores = [rng.random() if rng.random() < 0.9 else None for _ in ids]
        journal.add("done", a=position + 1, action=score, outcome={"scores": scores, "problems": []}, t=position + 0.5)
        made += len(ids)
        position += 2
        frontier = rng.sample(ids, min(len(ids), 12))
    return _finished(text, best, made), journal.rows


def _finished(text: str, best: str | None, made: int) -> JobRecord:
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
