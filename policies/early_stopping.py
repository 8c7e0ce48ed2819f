"""Early-stopping self-consistency: sample window by window, stop at the first window that agrees."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from orchestrator.actions import Propose, Samples
from orchestrator.policies.sample_params import SampleParams
from orchestrator.policies.voting import Votes
from orchestrator.policy import Policy, PolicyContext, Query, policy


class EarlyStoppingParams(SampleParams):
    """Parameters of `early_stopping`; the defaults are the paper's."""

    window: int = Field(5, ge=1, le=200, description="Samples per window; all must agree to stop")
    max_samples: int = Field(40, ge=1, le=1000, description="Most samples; the last window may be smaller")


@policy("early_stopping", params=EarlyStoppingParams, source="Li et al., 2024 (ESC), arXiv:2401.10480")
def early_stopping(query: Query, ctx: PolicyContext[EarlyStoppingParams]) -> Policy:
    """Samples in windows until one is unanimous, else takes the majority of all.

    A window that holds a sample without an answer is not unanimous, nor is one that is not full. The answer of a
    unanimous window wins even where earlier windows favoured another, as in the paper; confidence is the
    posterior that the winner beats its closest rival among all votes. If no sample has an answer, see `Votes.answer`.
    """
    params = ctx.params
    votes = Votes()
    while (num_left := params.max_samples - votes.num_samples) > 0:
        samples: Samples = yield params.expand([query.root], min(params.window, num_left))
        for sample in samples:
            votes.add(sample)
        agreed = _unanimous([sample.answer_class for sample in samples], window=params.window)
        answer = votes.answer(winner=agreed, confidence=votes.majority_posterior(agreed))
        if answer.text is not None:
            yield Propose(answer)
        if agreed is not None or samples.is_partial:  # partial: the budget has no room for more
            break
    return answer


def _unanimous(classes: Sequence[str | None], *, window: int) -> str | None:
    """The one class of a full window; None if there are several, or samples without an answer."""
    return classes[0] if len(classes) == window and len(set(classes)) == 1 else None


def expected_samples(probabilities: Sequence[float], *, window: int = 5, max_samples: int = 40) -> float:
    """Samples that `early_stopping` draws on average when answer j comes with probability p_j.

    With q = sum_j p_j^w and K = L / w windows: w sum_{k < K} (1 - q)^k, which is the paper's
    w (sum_{i <= K-2} q (1 - q)^i (i + 1) + (1 - q)^{K-1} K).

    Args:
        probabilities: Of the answers; what is missing to 1 is the chance of a sample without an answer.
        window: Samples per window.
        max_samples: A multiple of ``window``.
    """
    if max_samples % window:
        raise ValueError(f"max_samples={max_samples} must be a multiple of window={window}")
    agree = sum(probability**window for probability in probabilities)
    return float(window * sum((1 - agree) ** index for index in range(max_samples // window)))
