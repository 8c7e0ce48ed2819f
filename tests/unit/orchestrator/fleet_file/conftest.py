"""A fleet file from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.fleet_file import FleetFile, read_fleet


@pytest.fixture
def read(tmp_path: Path):
    """Reads text as a fleet file, with ``HEAD`` set and ``KEY`` not."""

    def reading(text: str) -> FleetFile:
        file = tmp_path / "fleet.toml"
        file.write_text(text, encoding="utf-8")
        return read_fleet(file, environ={"HEAD": "head.example"})

    return reading
