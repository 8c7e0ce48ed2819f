"""The trace page in a real browser, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .shell import SCRIPTED, Shell

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--virtual-time-budget=4000", "--dump-dom"),
)
HOSTILE = "17*23+5 </script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def drawn(page: Path, profile: Path) -> str:
    """The page's elements after its script has run."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.mark.server
@pytest.mark.skipif(CHROMIUM is None, reason="no browser here")
def test_the_tree_is_drawn_and_hostile_text_does_nothing(shell: Shell, tmp_path: Path) -> None:
    options = ("--policy", "best_of_n", "--verifier", "majority", "-n", "12", "--budget", "tokens=4000")
    assert shell("solve", HOSTILE, *SCRIPTED, *options, "--trace", "t.html").code == 0
    page = drawn(shell.folder / "t.html", tmp_path / "profile")
    assert len(re.findall(r'role="treeitem"', page)) == 13
    assert page.count('class="vote"') >= 1
    assert "4,000" in page
    assert "<img" not in page
    assert "<title>owned" not in page
    assert "17*23+5 &lt;/script&gt;" in page
