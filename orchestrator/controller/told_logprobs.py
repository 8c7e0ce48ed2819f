"""Log probabilities of generated tokens in the form in which watchers are told them: texts, not ids."""

from __future__ import annotations

from typing import Any

from orchestrator.engine import Delta, Engine, TokenAlternatives, Tokenizes


def told_logprobs(engine: Engine, delta: Delta) -> list[dict[str, Any]]:  # Any: JSON values
    """One entry for each token: ``token``, ``logprob``, and ``top``, pairs of the likeliest tokens and theirs.

    Empty where the engine gave none, or its tokens have no texts.
    """
    texts = delta.token_texts
    if texts is None and delta.token_ids is not None and isinstance(engine, Tokenizes):
        texts = tuple(engine.detokenize([token]) for token in delta.token_ids)
    if delta.logprobs is None or texts is None:
        return []
    tops = delta.alternatives or (TokenAlternatives((), ()),) * len(texts)
    return [
        {"token": text, "logprob": logprob, "top": _top(engine, top)}
        for text, logprob, top in zip(texts, delta.logprobs, tops, strict=False)
    ]


def _top(engine: Engine, top: TokenAlternatives) -> list[list[str | float]]:
    def text(token: int | str) -> str:
        if isinstance(token, str):
            return token
        return engine.detokenize([token]) if isinstance(engine, Tokenizes) else ""

    return [[text(token), value] for token, value in zip(top.tokens, top.logprobs, strict=True)]
