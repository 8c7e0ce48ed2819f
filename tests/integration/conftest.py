"""Real models and real servers for the integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ModelUnavailable
from orchestrator.workers.catalogue import Catalogue


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The smallest model of the catalogue, pulled if the cache lacks it."""
    try:
        return Catalogue.from_environment().pull("smollm2-135m")
    except ModelUnavailable as error:
        pytest.skip(str(error))
