"""Chooses tokens from logits, for all rows of a batch in one step: truncation, temperature, draws; log probabilities.

All in numpy, exact, and without sorting the vocabulary: the likeliest k tokens lie in the k blocks with the highest
maxima, a token too rare to be in the nucleus is recognised without its neighbours, and a draw looks for its block
first. Randomness comes in as one uniform number per row, so a row's token never depends on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from orchestrator.sampling import Sampling

FloatRow = npt.NDArray[np.float32]
FloatMatrix = npt.NDArray[np.float32]
IntRow = npt.NDArray[np.intp]
IntMatrix = npt.NDArray[np.intp]

_BLOCK = 128
_CHUNK_LOGITS = 1 << 16
"""Logits worked on at once, so that what comes in between stays in the processor's cache."""
_COLDEST = 1e30
"""Logits are multiplied by at most this, which is greedy in all but name, so that no product overflows."""


class TopTokens(NamedTuple):
    """The chosen token's log probability and the likeliest tokens with theirs, best first."""

    chosen: float
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def draw(logits: FloatMatrix, sampling: Sampling, uniforms: Sequence[float]) -> IntRow:
    """The next token of each row.

    Args:
        logits: Unnormalised log probabilities [rows, vocabulary]; -inf marks forbidden tokens.
        sampling: How to choose.
        uniforms: A number in [0, 1) for each row; greedy rows do not use theirs.
    """
    if sampling.is_greedy:
        return _first_largest(logits)
    chunk = max(_CHUNK_LOGITS // logits.shape[1], 1)
    drawn = [
        _draw_chunk(logits[start : start + chunk], sampling, np.asarray(uniforms[start : start + chunk]))
        for start in range(0, len(logits), chunk)
    ]
    return drawn[0] if len(drawn) == 1 else np.concatenate(drawn)


def top_indices(logits: FloatMatrix, count: int) -> IntMatrix:
    """Ids [rows, count] of each row's likeliest tokens, best first (fewer if the vocabulary is smaller)."""
    rows = _rows(logits)
    tokens = _tokens_of_top_blocks(logits, count)
    values = logits if tokens is None else logits[rows, tokens]
    if count < values.shape[1]:
        best = np.argpartition(values, -count, axis=1)[:, -count:]
        tokens = best if tokens is None else tokens[rows, best]
        values = values[rows, best]
    order = np.argsort(-values, axis=1, kind="stable")
    return order if tokens is None else tokens[rows, order]


def log_normaliser(logits: FloatRow) -> float:
    """Logarithm of the sum of exponentials: subtract it from a logit for its log probability."""
    return float(_log_normalisers(logits[np.newaxis])[0])


def top_tokens(logits: FloatMatrix, chosen: Sequence[int], count: int) -> list[TopTokens]:
    """Log probabilities before truncation and temperature, for each row."""
    normalisers = _log_normalisers(logits)
    best = top_indices(logits, count)
    rows = _rows(logits)
    logprobs = logits[rows, best] - normalisers[:, np.newaxis]
    own = logits[np.arange(len(logits)), chosen] - normalisers
    found = zip(own.tolist(), best.tolist(), logprobs.tolist(), strict=True)
    return [TopTokens(one, tuple(tokens), tuple(values)) for one, tokens, values in found]


def _log_normalisers(logits: FloatMatrix) -> npt.NDArray[np.float64]:
    peaks = logits.max(axis=1)
    sums = np.exp(logits - peaks[:, np.newaxis]).sum(axis=1, dtype=np.float64)
    return np.asarray(peaks + np.log(sums), np.float64)


def _tokens_of_top_blocks(logits: FloatMatrix, count: int) -> IntMatrix | None:
    """A superset [rows, tokens] of the ``count`` likeliest: the blocks with the highest maxima.

    None for all tokens, where choosing blocks would take longer than it saves.
    """
    rows, vocabulary = logits.shape
    num_blocks = vocabulary // _BLOCK
    if 4 * count > num_blocks:
        return None
    whole = num_blocks * _BLOCK
    peaks = logits[:, :whole].reshape(rows, num_blocks, _BLOCK).max(axis=2)
    blocks = np.argpartition(peaks, -count, axis=1)[:, -count:]
    inside = (blocks[:, :, np.newaxis] * _BLOCK + np.arange(_BLOCK)).reshape(rows, count * _BLOCK)
    rest = np.broadcast_to(np.arange(whole, vocabulary), (rows, vocabulary - whole))
    return np.concatenate((inside, rest), axis=1)


def _draw_chunk(logits: FloatMatrix, sampling: Sampling, uniforms: npt.NDArray[np.float64]) -> IntRow:
    tokens, values = _truncated(logits, sampling)
    rows, width = values.shape
    weights = np.zeros((rows, -(-width // _BLOCK) * _BLOCK), np.float32)
    values *= np.float32(min(1 / sampling.temperature, _COLDEST))
    np.exp(values, out=weights[:, :width])
    places = _places(weights, uniforms)
    return places if tokens is None else tokens[np.arange(rows), places]


def _truncated(logits: FloatMatrix, sampling: Sampling) -> tuple[IntMatrix | None, FloatMatrix]:
    """Tokens that may be drawn (None: all, by id) and their logits less the row's largest; -inf for those cut off."""
    if not sampling.top_k and sampling.top_p >= 1:
        tokens, values = None, logits - logits.max(axis=1, keepdims=True)
    else:
        tokens, total = _ranked(logits, sampling)
        values = logits[_rows(logits), tokens]
        values = values - values[:, :1]
        ends = np.exp(values).cumsum(axis=1, dtype=np.float64)
        last = _first_reaching(ends, sampling.top_p * (ends[:, -1] if total is None else total))
        values[np.arange(values.shape[1]) > last[:, np.newaxis]] = -np.inf
    if sampling.min_p > 0:
        values[values < math.log(sampling.min_p)] = -np.inf
    return tokens, values


def _ranked(logits: FloatMatrix, sampling: Sampling) -> tuple[IntMatrix, FloatRow | None]:
    """The tokens [rows, k] that top-k keeps, or those the nucleus may need and the sum of all weights; best first.

    Tokens below (1 - top_p) / V add up to less than 1 - top_p, so the nucleus never needs them.
    """
    if sampling.top_k:
        return top_indices(logits, sampling.top_k), None
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    total = weights.sum(axis=1)
    is_likely = weights >= (1 - sampling.top_p) / logits.shape[1] * total[:, np.newaxis]
    return top_indices(logits, max(int(is_likely.sum(axis=1).max()), 1)), total


def _places(weights: FloatMatrix, uniforms: npt.NDArray[np.float64]) -> IntRow:
    """Where each row's running sum first exceeds its share ``uniforms`` of the total."""
    blocks = weights.reshape(len(weights), -1, _BLOCK)
    ends = blocks.sum(axis=2).cumsum(axis=1, dtype=np.float64)
    targets = uniforms * ends[:, -1]
    chosen = _first_beyond(ends, targets)
    rows = np.arange(len(weights))
    targets -= np.where(chosen > 0, ends[rows, chosen - 1], 0)
    inside = blocks[rows, chosen].cumsum(axis=1, dtype=np.float64)
    return chosen * _BLOCK + _first_beyond(inside, targets)


def _first_beyond(sums: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> IntRow:
    """Where each row of running sums first exceeds its target; where it ends if rounding kept it below."""
    return _first_reaching(sums, np.nextafter(targets, np.inf))


def _first_reaching(sums: npt.NDArray[np.float64], targets: npt.NDArray[np.floating]) -> IntRow:
    """Where each row of running sums first reaches its target, or else its last value."""
    return _first_largest(sums >= np.minimum(targets, sums[:, -1])[:, np.newaxis])


def _rows(matrix: npt.NDArray[np.generic]) -> IntMatrix:
    """Numbers of its rows [rows, 1], to index it with columns of each."""
    return np.arange(len(matrix))[:, np.newaxis]


def _first_largest(values: npt.NDArray[np.generic]) -> IntRow:
    return np.asarray(values.argmax(axis=1), np.intp)
