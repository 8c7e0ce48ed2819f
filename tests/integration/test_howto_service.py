"""The Python on the pages about the service's clients works as printed, against the real application."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.testing import ScriptedEngine, arithmetic

from .app_in_thread import running_app

pytestmark = pytest.mark.server

FOLDER = Path(__file__).parents[2] / "docs" / "howto"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_app(ScriptedEngine(arithmetic(accuracy=0.9))) as app:
        yield app.address


def run_page(name: str) -> None:
    page = FOLDER / f"{name}.md"
    namespace = {"__name__": f"howto_{name}"}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("python_client", ["11 ", "37 ", "policy bset_of_n is none of"]),
        ("langchain", ["11 0.", "/tree", "rounds"]),
        ("mcp", ["11 0."]),
    ],
)
def test_the_page_works_as_printed(
    name: str, said: list[str], address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TTC_BASE_URL", address)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    run_page(name)
    printed = capfd.readouterr().out
    assert all(text in printed for text in said), printed
