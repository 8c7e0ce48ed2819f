"""The best answer of a job whose policy gave none: a majority, a conclusion of what was thought, or a whole text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from orchestrator.actions import Action, Answer, Conclude
from orchestrator.controller.answer_reserve import conclusion_amount, main_role
from orchestrator.controller.context import RunContext
from orchestrator.controller.expansion import SHORTEST_GRANT_TOKENS
from orchestrator.controller.purchase import prompt_bound
from orchestrator.errors import NoAnswer, TtcError
from orchestrator.tree import Node, Tree

_MOST_COMPARED, _MOST_WORDS = 32, 2000
"""Of texts without an answer, so many are compared, and so many words of each: a tenth of a second at most."""


class Concluded(NamedTuple):
    """What came of stating an answer: the answer, or what went wrong last; neither if a text stated none."""

    answer: Answer | None = None
    error: TtcError | None = None


class Conclusions:
    """Has a model state the answer, after the policy has ended.

    Args:
        run: The job.
        perform: Carries out the job's next action.
    """

    def __init__(
        self,
        run: RunContext,
        perform: Callable[[Action], Awaitable[Any]],  # Any: outcomes differ by action
    ) -> None:
        self._run = run
        self._perform = perform

    async def forced(self) -> Concluded:
        """States an answer after the longest text that there is money and room for, else after the problem itself."""
        role = main_role(self._run.fleet)
        _, engine = self._run.fleet.resolve(role)
        cue = self._run.reader.cue
        partials = sorted(
            (leaf for leaf in self._run.tree.leaves() if self._run.tree.answers_query(leaf)),
            key=lambda leaf: leaf.trajectory_tokens,
            reverse=True,
        )
        last_error: TtcError | None = None
        for node in (*partials[:1], self._run.tree.root):
            context = prompt_bound(engine, node.prompt(forced=cue))
            amount = conclusion_amount(engine, context, SHORTEST_GRANT_TOKENS // 2)
            if context >= engine.describe().context_length or self._run.ledger.shortfall(amount, may_use_hold=True):
                continue
            answer, error = await self._concluded(Conclude(node, role))
            if answer is not None:
                return Concluded(answer)
            last_error = error or last_error
        return Concluded(error=last_error)

    async def recorded(self, position: int) -> Concluded:
        """On replay: what the journal says was done after the policy, from action ``position`` on."""
        last_error: TtcError | None = None
        while (recorded := self._run.recording.actions.get(position)) is not None:
            action = recorded.action
            if action is None or action["type"] != Conclude.__name__ or action["node"] not in self._run.tree:
                break
            answer, error = await self._concluded(Conclude(self._run.tree[action["node"]], action["model"]))
            if answer is not None:
                return Concluded(answer)
            last_error = error or last_error
            position += 1
        return Concluded(error=last_error)

    async def _concluded(self, action: Conclude) -> Concluded:
        try:
            concluded: Node | None = await self._perform(action)
        except TtcError as error:
            return Concluded(error=error)
        if concluded is None or concluded.answer is None:
            return Concluded()
        return Concluded(Answer(concluded.answer, concluded))


def majority(tree: Tree) -> Answer | None:
    """The answer that most samples give, with its rivals; None if none gives any."""
    voters = [node for node in tree if node.answer_class is not None and tree.answers_query(node)]
    votes = Counter(node.answer_class for node in voters)
    if not votes:
        return None
    winner, _ = votes.most_common(1)[0]
    total = votes.total()
    best = next(node for node in voters if node.answer_class == winner)
    rivals = tuple((name or "", count / total) for name, count in votes.most_common() if name != winner)
    return Answer(best.answer, best, alternatives=rivals)


def whole_text(tree: Tree) -> Answer | None:
    """Without any extractable answer, a finished text is the answer (an open question, a poem).

    It is the likeliest one where log probabilities are known, else the one that is most like the others.
    """
    finished = [node for node in tree if node.is_final and tree.answers_query(node)]
    if not finished:
        return None
    known = [node for node in finished if node.logprob is not None]
    best = max(known, key=lambda node: node.logprob or 0.0) if known else most_alike(finished[:_MOST_COMPARED])
    return Answer(best.trajectory, best)


def most_alike(nodes: Sequence[Node]) -> Node:
    """The medoid of texts by the words that they share: the highest sum of F1 with the others, the first of equals."""
    words = [Counter(node.trajectory.split()[:_MOST_WORDS]) for node in nodes]
    sizes = [max(1, bag.total()) for bag in words]
    sums = [0.0] * len(nodes)
    for left, right in combinations(range(len(nodes)), 2):
        f1 = 2 * (words[left] & words[right]).total() / (sizes[left] + sizes[right])
        sums[left] += f1
        sums[right] += f1
    return nodes[max(range(len(nodes)), key=lambda place: (sums[place], -place))]


def no_answer(run: RunContext) -> NoAnswer:
    """The error of a job that has nothing to show."""
    texts = sum(not node.is_root for node in run.tree)
    limit = run.limited_by
    reason = f" before {limit} ran out" if limit else ""
    return NoAnswer(
        f"none of {texts} texts states an answer{reason}; raise the budget, or choose how answers are read",
        num_texts=texts,
        limited_by=limit,
    )
