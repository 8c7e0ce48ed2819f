"""Keeps a sample inside a grammar: JSON schemas become GBNF, GBNF is checked here, llama.cpp matches tokens against it.

llama.cpp prints complaints about a bad grammar to stderr and recurses as deep as the grammar does, so a grammar is
checked for syntax, size and depth before it gets there.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from orchestrator.errors import InvalidRequest
from orchestrator.workers.llama_cpp.json_schema import schema_grammar
from orchestrator.workers.llama_cpp.model import Model
from orchestrator.workers.llama_cpp.sampler import FloatRow

_MAX_CHARS = 65_536
_MAX_DEPTH = 100
_MAX_REPEATS = 1000
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+|\#[^\n]*)
      | (?P<define>[A-Za-z0-9-]+\s*::=)
      | (?P<name>[A-Za-z0-9-]+)
      | (?P<literal>"(?:[^"\\\n]|\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[tnr\\"\[\]]))*")
      | (?P<set>\[\^?(?:[^\]\\\n]|\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[tnr\\"\[\]-]))*\])
      | (?P<repeat>[*+?]|\{\s*\d+\s*(?:,\s*\d*\s*)?\})
      | (?P<open>\() | (?P<close>\)) | (?P<or>\|) | (?P<any>\.)""",
    re.VERBOSE,
)


def schema_to_grammar(schema: Mapping[str, Any]) -> str:  # Any: JSON Schema
    """GBNF of the JSON values of a schema.

    Raises:
        InvalidRequest: The schema cannot be used; the field is ``json_schema``.
    """
    try:
        grammar = schema_grammar(schema)
        grammar.encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"json_schema cannot be used: {error}", field="json_schema", value=schema) from error
    check_grammar(grammar, field="json_schema")
    return grammar


def check_grammar(grammar: str, *, field: str) -> None:
    """Refuses text that is no GBNF, or more than llama.cpp should be asked to handle.

    Raises:
        InvalidRequest: Saying where and why.
    """

    def refuse(reason: str, position: int) -> InvalidRequest:
        line = grammar.count("\n", 0, position) + 1
        return InvalidRequest(f"{field} is no usable GBNF grammar: line {line}: {reason}", field=field, value=grammar)

    if len(grammar) > _MAX_CHARS:
        raise refuse(f"longer than {_MAX_CHARS} characters", 0)
    position, depth, has_item = 0, 0, False
    defined: set[str] = set()
    used: dict[str, int] = {}
    while position < len(grammar):
        match = _TOKEN.match(grammar, position)
        if match is None:
            raise refuse(f"unexpected {grammar[position : position + 10]!r}", position)
        kind, text = match.lastgroup, match.group()
        if kind == "define":
            if depth:
                raise refuse("a parenthesis is not closed", position)
            defined.add(text[:-3].strip())
        elif not defined and kind != "space":
            raise refuse("a rule begins with its name and '::='", position)
        elif kind == "name":
            used.setdefault(text, position)
        elif kind == "open":
            depth += 1
        elif kind == "close":
            depth -= 1
        elif kind == "repeat":
            if not has_item:
                raise refuse(f"nothing before {text!r} to repeat", position)
            if any(int(number) > _MAX_REPEATS for number in re.findall(r"\d+", text)):
                raise refuse(f"more than {_MAX_REPEATS} repetitions", position)
        if not 0 <= depth <= _MAX_DEPTH:
            raise refuse("parentheses do not match" if depth < 0 else "nested too deeply", position)
        if kind != "space":
            has_item = kind in {"name", "literal", "set", "close", "any", "repeat"}
        position = match.end()
    if depth:
        raise refuse("a parenthesis is not closed", position)
    if "root" not in defined:
        raise refuse("there is no rule 'root'", 0)
    for name, where in used.items():
        if name not in defined:
            raise refuse(f"rule {name!r} is not defined", where)


class GrammarGuard:
    """The state of one sample in a grammar.

    Raises:
        InvalidRequest: llama.cpp refuses the grammar, for instance for left recursion.
    """

    def __init__(self, model: Model, grammar: str, *, field: str) -> None:
        self._api = model.handle.api
        self._end_ids = model.vocabulary.end_ids
        model.handle.library.take_errors()
        self._sampler = self._api.llama_sampler_init_grammar(model.handle.vocab, grammar.encode(), b"root")
        if not self._sampler:
            reason = model.handle.library.take_errors() or "llama.cpp gives no reason"
            raise InvalidRequest(f"{field} is no usable grammar: {reason}", field=field, value=grammar)

    def choose(self, token: int, logits: FloatRow, draw: Callable[[FloatRow], int]) -> int | None:
        """The next token: the one that was drawn freely, or if the grammar forbids it one of those it allows.

        A token the grammar allows is as likely this way as when all others are ruled out first, and checking one
        token is cheap.

        Args:
            token: Drawn from ``logits``.
            logits: Of all tokens.
            draw: Draws again from logits that are -inf for forbidden tokens.

        Returns:
            None when no token is allowed.
        """
        if not self._allows(np.array([token], np.int32))[0]:
            allowed = self._allows(np.arange(len(logits), dtype=np.int32))
            if not allowed.any():
                return None
            token = draw(np.where(allowed, logits, np.float32(-np.inf)))
        if token not in self._end_ids:
            self._api.llama_sampler_accept(self._sampler, token)
        return token

    def _allows(self, tokens: np.ndarray[tuple[int], np.dtype[np.int32]]) -> np.ndarray[tuple[int], np.dtype[np.bool]]:
        fields = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        candidates = np.zeros(len(tokens), fields)
        candidates["id"] = tokens
        array = self._api.llama_token_data_array()
        array.data = candidates.ctypes.data_as(ctypes.POINTER(self._api.llama_token_data))
        array.size = len(tokens)
        array.selected = -1
        array.sorted = False
        self._api.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return np.asarray(candidates["logit"] > -1)

    def free(self) -> None:
        """Frees the native state; safe to call twice."""
        if self._sampler:
            self._api.llama_sampler_free(self._sampler)
            self._sampler = None
