"""What jobs use beside models: answer readers, verifiers, processes; opened when first asked for, closed together."""

from __future__ import annotations

from orchestrator import registry
from orchestrator.answers import AnswerReader
from orchestrator.isolation import KillablePool
from orchestrator.scoring_guard import GuardedVerifier, guarded
from orchestrator.verifier import open_verifier

_MAX_READERS = 256
_OF_CALLERS = "json:"
"""Kinds that hold a name of the caller's, so that there is no end of them; their readers start nothing to be closed."""


class Equipment:
    """Readers, verifiers and processes that all jobs of one `orchestrator.Orchestrator` share."""

    def __init__(self) -> None:
        self._readers: dict[str, AnswerReader] = {}
        self._verifiers: dict[str, GuardedVerifier] = {}
        self._pool: KillablePool | None = None

    def reader(self, kind: str) -> AnswerReader:
        """What reads answers of a kind: auto, boxed, number, ... (see `orchestrator.verifiers.answers`)."""
        if (known := self._readers.get(kind)) is not None:
            return known
        reader: AnswerReader = registry.load("answer reader", "default")(kind)
        if len(self._readers) < _MAX_READERS or not kind.startswith(_OF_CALLERS):
            self._readers[kind] = reader
        return reader

    def verifier(self, name: str) -> GuardedVerifier:
        """The verifier that was added under the name, else the registered one.

        Raises:
            UnknownName: There is none.
        """
        if name not in self._verifiers:
            self._verifiers[name] = guarded(open_verifier(name))
        return self._verifiers[name]

    def add_verifier(self, name: str, verifier: GuardedVerifier) -> None:
        """Makes a verifier available under a name."""
        self._verifiers[name] = verifier

    def pool(self) -> KillablePool:
        """Processes for the functions of policies."""
        if self._pool is None:
            self._pool = KillablePool(num_workers=1)
        return self._pool

    async def aclose(self) -> None:
        """Closes what was opened."""
        for closable in (*self._readers.values(), *self._verifiers.values(), self._pool):
            if closable is not None and (close := getattr(closable, "aclose", None)) is not None:
                await close()
        self._readers.clear()
        self._verifiers.clear()
        self._pool = None
