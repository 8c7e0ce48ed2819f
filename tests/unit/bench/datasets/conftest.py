"""Excerpts of public sets, and files that a test writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

EXCERPTS = Path(__file__).with_name("excerpts")


@pytest.fixture(scope="session")
def excerpt() -> Callable[[str], Path]:
    """The path of an excerpt."""
    return EXCERPTS.joinpath


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes entries as JSON lines; texts and bytes are written as they are."""

    def write(*entries: object, name: str = "set.jsonl") -> Path:
        path = tmp_path / name
        lines = (entry if isinstance(entry, str | bytes) else json.dumps(entry) for entry in entries)
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return path

    return write
