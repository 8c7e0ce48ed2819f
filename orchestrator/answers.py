"""What the controller expects of whoever reads answers: find one in a text, say whether two are the same.

Implementations live in `orchestrator.verifiers` and are found by name in the entry points `orchestrator.answers`.
`AnswerClasses` groups the answers of one job; votes count classes, never strings.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class AnswerReader(Protocol):
    """Reads final answers."""

    @property
    def instruction(self) -> str:
        """What to ask of a model so that its answer can be found."""
        ...

    @property
    def cue(self) -> str:
        """Text that makes a model that has been cut off state its answer next."""
        ...

    def extract(self, text: str) -> str | None:
        """The final answer in ``text``; None if there is none."""
        ...

    def key(self, answer: str) -> str | None:
        """A canonical form, when the answer is plain (a number, a choice, a word): equal keys mean equal answers.

        None means that only `equivalent` can tell.
        """
        ...

    async def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers mean the same; False when that cannot be decided in time."""
        ...

    async def aclose(self) -> None:
        """Frees what it holds; safe to call twice."""
        ...


class AnswerClasses:
    """Equivalence classes of the answers of one job, in the order in which they came.

    A class is named by its first member, so that names are the same whenever answers come in the same order.
    """

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._by_answer: dict[str, str] = {}
        self._by_key: dict[str, str] = {}
        self._representatives: dict[str, bool] = {}  # in order; whether it is plain, as its key tells
        self._turn = asyncio.Lock()  # held from the search for a class until the answer is in one: no class twice

    async def classify(self, answer: str) -> str:
        """The class of ``answer``: an earlier answer that means the same, or itself."""
        async with self._turn:
            if (known := self._by_answer.get(answer)) is not None:
                return known
            return await self._classified(answer)

    async def _classified(self, answer: str) -> str:
        key = self._reader.key(answer)
        found = self._by_key.get(key) if key is not None else None
        if found is None:
            found = await self._search(answer, key)
        if found is None:
            found = answer
            self._representatives[answer] = key is not None
        self._by_answer[answer] = found
        if key is not None:
            self._by_key.setdefault(key, found)
        return found

    def restore(self, answer: str, answer_class: str) -> None:
        """Notes what `classify` said in an earlier life of the job, without deciding it again."""
        for member in (answer_class, answer):
            if member not in self._by_answer:
                self._by_answer[member] = answer_class
                if (key := self._reader.key(member)) is not None:
                    self._by_key.setdefault(key, answer_class)
        if answer_class not in self._representatives:
            self._representatives[answer_class] = self._reader.key(answer_class) is not None

    async def _search(self, answer: str, key: str | None) -> str | None:
        for representative, is_plain in tuple(self._representatives.items()):
            if key is not None and is_plain:
                continue  # two plain answers with different keys differ
            if await self._reader.equivalent(representative, answer):
                return representative
        return None
