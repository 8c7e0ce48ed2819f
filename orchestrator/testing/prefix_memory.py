"""What a scripted engine pretends to hold in its prefix cache: everything it has ever read or written, per tenant."""

from __future__ import annotations

from orchestrator.engine import Prompt

_MOST_PREFIXES = 65_536
"""After so many it forgets them all; hashes only, so this is a few megabytes."""


class PrefixMemory:
    """Remembers conversations with partial replies, at span ends only."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def add(self, salt: str, prompt: Prompt, text: str = "") -> None:
        """``prompt``, and ``text`` written after it, are in the cache now."""
        if len(self._seen) >= _MOST_PREFIXES:
            self._seen.clear()
        self._seen.add(hash((salt, prompt.messages, prompt.continuation_text + text)))

    def longest(self, salt: str, prompt: Prompt) -> Prompt | None:
        """The longest prefix of whole spans that is in the cache; None if nothing is."""
        for num_spans in range(len(prompt.continuation), -1, -1):
            prefix = Prompt(prompt.messages, prompt.continuation[:num_spans])
            if hash((salt, prefix.messages, prefix.continuation_text)) in self._seen:
                return prefix
        return None
