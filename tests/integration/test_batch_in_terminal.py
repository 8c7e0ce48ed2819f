"""Many problems in front of a terminal: the bar is shown there, and results go where they were sent."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import threading

import pytest

from .shell import SCRIPTED, Shell

pytestmark = pytest.mark.server


def test_results_go_to_a_file_while_the_bar_is_on_the_terminal(shell: Shell) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60)]
    (shell.folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    command = shell.command("solve", "--file", "p.jsonl", *SCRIPTED, "--no-store", "--budget", "tokens=2000")
    terminal, screen = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the terminal is closed when the command has ended
            while data := os.read(terminal, 4096):
                shown.append(data)

    reader = threading.Thread(target=read)
    try:
        with (shell.folder / "rows.jsonl").open("wb") as out:
            env = {**shell.env, "TERM": "xterm", "COLUMNS": "80"}
            with subprocess.Popen(command, stdout=out, stderr=screen, cwd=shell.folder, env=env) as process:
                os.close(screen)
                reader.start()
                assert process.wait(60) == 0
    finally:
        reader.join(10)
        os.close(terminal)
    found = [json.loads(line) for line in (shell.folder / "rows.jsonl").read_text().splitlines()]
    assert len(found) == 60
    screen_text = b"".join(shown).decode(errors="replace")
    assert "60 problems: 60 answered" in screen_text
    assert '"status"' not in screen_text
