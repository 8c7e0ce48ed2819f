"""What a job's events tell of it while its answer is not yet there, in one line each."""

from __future__ import annotations

from orchestrator.events import Event

_MOST_CHARS = 80


class Progress:
    """Counts samples and turns rows of the journal into lines."""

    def __init__(self) -> None:
        self._num_samples = 0

    def line(self, event: Event) -> str | None:
        """What an event says; None where it says nothing that a reader would miss."""
        if event.kind == "sample" and "node" in event.data:
            self._num_samples += 1
            answer = event.data["node"].get("answer")
            tokens = event.data["node"].get("output_tokens", 0)
            said = "no answer" if answer is None else f"answer {_short(answer)}"
            return f"sample {self._num_samples}: {said} ({tokens} tokens)"
        if event.kind != "done":
            return None
        action = event.data.get("action") or {}
        if action.get("type") == "Propose":
            answer = action["answer"]
            sure = f", confidence {answer['confidence']:.2f}" if answer.get("confidence") is not None else ""
            return f"best so far: {_short(answer['text'] or '')}{sure}"
        if action.get("type") == "Score":
            return f"scored {len(action['nodes'])} candidates with {action['verifier']}"
        return None


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MOST_CHARS else flat[:_MOST_CHARS] + "..."
