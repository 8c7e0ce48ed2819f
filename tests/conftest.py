"""What holds for all tests."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings

# A machine that runs other work too is no reason to fail; pytest-timeout ends what hangs.
settings.register_profile("ttc", deadline=None)
settings.load_profile("ttc")


@pytest.fixture(autouse=True)
def repeatable_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat that names no seed draws one: the same ones in each run, so that no test fails once in a hundred."""
    monkeypatch.setattr("secrets.randbelow", random.Random(0).randrange)
