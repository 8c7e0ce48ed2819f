"""Drives a policy by hand: plays the controller without budgets, engines or I/O.

    driver = PolicyDriver(best_of_n, params={"n": 3})
    driver.send(driver.samples("12", "12", None))

Whatever a policy must not do (yield something else than an action, expand a node it was never given, leave a stream
open) is an AssertionError that says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.actions import (
    Action,
    Answer,
    Cancel,
    Commit,
    Compute,
    Conclude,
    Embed,
    Expand,
    Next,
    Propose,
    Release,
    Samples,
    Score,
    ScoreList,
    Snapshot,
    Start,
    Stream,
)
from orchestrator.engine import FinishReason, Message
from orchestrator.errors import BudgetExhausted
from orchestrator.policy import PolicyContext, PolicyFunction, PolicySpec, Query, as_policy
from orchestrator.testing.scripted_abilities import bags_of_words
from orchestrator.tree import Node

MOST_ACTIONS = 10_000
"""A policy that wants more is taken for one that never ends."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A sample as a test wants it; a plain string or None stands for a finished one with this answer.

    Attributes:
        answer: The answer found in it; None for none.
        text: What it says; None for a sentence with the answer.
        finish: Why it ended.
        output_tokens: How long it is.
        logprob: Sum of log probabilities; None as if not asked for.
        answer_class: The class of its answer; None for the answer itself.
    """

    answer: str | None = None
    text: str | None = None
    finish: FinishReason = FinishReason.END
    output_tokens: int = 10
    logprob: float | None = None
    answer_class: str | None = None


AnySample = Sampled | str | None
SampleSource = Iterable[AnySample] | Callable[[Action], AnySample]
"""Samples in the order they are used, or a function of the action that wants one."""
ScoreSource = Iterable[float | None] | Callable[[Node], float | None]
"""Scores in the order they are used, or a function of the node."""


def out_of_budget() -> BudgetExhausted:
    """What the controller raises at a ``yield`` when not even one sample can be paid for."""
    return BudgetExhausted(limit="max_model_calls", remaining=0, requested=1)


class PolicyDriver:
    """A running policy whose actions are answered by a test.

    Args:
        policy: A declared policy or a plain generator function.
        problem: The query.
        params: Its parameters, checked as for a job.
        seed: Of `PolicyContext.rng`.
        cue: The answer cue; empty for none.
        target_confidence: As in the job's budget.
        roles: Model roles of the pretended fleet.
        token_cap: As in `PolicyContext`.

    Attributes:
        query: What the policy was given.
        context: Its context.
        actions: All actions so far, the pending one included.
        num_requested: Samples asked for so far; those of a stream count when it is started.
        num_delivered: Samples delivered so far.
    """

    def __init__(
        self,
        policy: PolicySpec | PolicyFunction,
        *,
        problem: str = "What is 6 times 7?",
        params: Mapping[str, Any] | None = None,
        seed: int = 0,
        cue: str = "\nThe answer is ",
        target_confidence: float | None = None,
        roles: Iterable[str] = ("small", "large"),
        token_cap: int | None = None,
    ) -> None:
        self.spec = as_policy(policy)
        self.query = Query(problem, Node("root", messages=(Message("user", problem),)), cue)
        self.context: PolicyContext[Any] = PolicyContext(
            self.spec.params(dict(params or {})),
            np.random.default_rng(seed),
            target_confidence=target_confidence,
            roles=frozenset(roles),
            token_cap=token_cap,
        )
        self.actions: list[Action] = []
        self.num_requested = 0
        self.num_delivered = 0
        self._streams: dict[int, _OpenStream] = {}
        self._num_streams = 0
        self._num_nodes = 0
        self._result: Answer | None = None
        self._is_finished = False
        self._generator = self.spec.function(self.query, self.context)
        self._step(lambda: next(self._generator))

    @property
    def action(self) -> Action:
        """The pending action."""
        assert not self._is_finished, f"policy {self.spec.name!r} has returned {self._result!r}; no action is pending"
        return self.actions[-1]

    @property
    def is_finished(self) -> bool:
        """Whether the policy has returned or raised."""
        return self._is_finished

    @property
    def answer(self) -> Answer:
        """What the policy returned; a node or text is wrapped, None gives an answer without text."""
        assert self._is_finished, f"policy {self.spec.name!r} has not returned; it waits for {self.actions[-1]!r}"
        assert self._result is not None, f"policy {self.spec.name!r} raised, so it returned no answer"
        return self._result

    @property
    def proposals(self) -> list[Answer]:
        """The answers it proposed so far."""
        return [action.answer for action in self.actions if isinstance(action, Propose)]

    def is_open(self, stream: Stream) -> bool:
        """Whether a stream has samples left and was not cancelled."""
        return stream.id in self._streams

    def send(self, outcome: Any = None) -> None:
        """Answers the pending action. Any: outcomes depend on the action, and are checked against it."""
        self._check_outcome(self.action, outcome)
        if isinstance(outcome, Samples):
            self.num_delivered += len(outcome)
        elif isinstance(outcome, Node):
            self.num_delivered += isinstance(self.action, Next)
        self._step(lambda: self._generator.send(outcome))

    def throw(self, error: BaseException | None = None) -> None:
        """Raises ``error`` (BudgetExhausted unless given) at the policy's ``yield``.

        It comes back out if the policy does not catch it.
        """
        assert not self._is_finished, "the policy is not waiting for anything"
        raised = out_of_budget() if error is None else error
        self._step(lambda: self._generator.throw(raised))

    def close(self) -> None:
        """Ends the policy as a cancelled job does; it may clean up but not go on."""
        try:
            self._generator.close()
        except RuntimeError as exc:
            raise AssertionError(f"policy {self.spec.name!r} yields after it was closed") from exc
        self._is_finished = True

    def samples(
        self, *replies: AnySample, snapshot: Snapshot | None = None, num_requested: int | None = None
    ) -> Samples:
        """Children for the pending `Expand`: node by node, as many of each as it asked for; fewer make it partial."""
        action = self.action
        assert isinstance(action, Expand), f"{action!r} is pending; samples() answers Expand, sample() the others"
        wanted = [node for node, count in zip(action.nodes, action.counts(), strict=True) for _ in range(count)]
        assert len(replies) <= len(wanted), f"{len(replies)} samples for an Expand that asks for {len(wanted)}"
        nodes = tuple(
            self._node(parent, reply, forced=action.forced, model=action.model)
            for parent, reply in zip(wanted, replies, strict=False)
        )
        return Samples(nodes, len(wanted) if num_requested is None else num_requested, snapshot or Snapshot())

    def sample(self, reply: AnySample) -> Node:
        """A child for the pending `Next` or `Conclude`."""
        match self.action:
            case Next(stream):
                open_stream = self._streams.get(stream.id)
                assert open_stream is not None, f"stream {stream.id} is used up; send None"
                expand = open_stream.expand
                return self._node(open_stream.parents[0], reply, forced=expand.forced, model=expand.model)
            case Conclude(node, model):
                return self._node(node, reply, forced=self.query.cue, model=model)
            case other:
                raise AssertionError(f"{other!r} is pending; sample() answers Next and Conclude")

    def embeddings(self) -> npt.NDArray[np.float32]:
        """Unit vectors for the pending `Embed`; texts that share words are near each other."""
        action = self.action
        assert isinstance(action, Embed), f"{action!r} is pending, not Embed"
        return bags_of_words([node.text for node in action.nodes])

    def stream(self) -> Stream:
        """The handle for the pending `Start`."""
        action = self.action
        assert isinstance(action, Start), f"{action!r} is pending, not Start"
        return Stream(self._num_streams)

    def run(self, answers: SampleSource = (), *, scores: ScoreSource = (), most_actions: int = MOST_ACTIONS) -> Answer:
        """Answers all actions until the policy returns.

        Args:
            answers: For the samples of `Expand`, `Next` and `Conclude`. When they run out, so does the budget: an
                `Expand` is partial, `Next` gives None, and what gets nothing at all raises BudgetExhausted.
            scores: For the nodes of `Score`; missing ones are None.
            most_actions: More are a failure.

        Returns:
            The policy's answer; if it let BudgetExhausted through, its last proposal.
        """
        replies = _source(answers)
        marks = _source(scores)
        while not self._is_finished:
            assert len(self.actions) <= most_actions, f"policy {self.spec.name!r} has not ended after {most_actions}"
            try:
                outcome = self._automatic(self.action, replies, marks)
            except _RunOut:
                try:
                    self.throw()
                except BudgetExhausted:
                    return self.proposals[-1] if self.proposals else Answer(None)
            else:
                self.send(outcome)
        return self.answer

    def _automatic(
        self, action: Action, replies: Callable[[Action], AnySample], marks: Callable[[Node], float | None]
    ) -> Any:  # Any: the outcome of any action
        match action:
            case Expand():
                drawn: list[AnySample] = []
                for _ in range(sum(action.counts())):
                    try:
                        drawn.append(replies(action))
                    except _RunOut:
                        if not drawn:
                            raise
                        break
                return self.samples(*drawn)
            case Start():
                return self.stream()
            case Next(stream):
                try:
                    return self.sample(replies(action)) if self.is_open(stream) else None
                except _RunOut:
                    return None
            case Conclude():
                return self.sample(replies(action))
            case Score(nodes):
                return ScoreList(tuple(_mark(marks, node) for node in nodes))
            case Embed():
                return self.embeddings()
            case Compute(function, args):
                return function(*args)
            case Propose() | Commit() | Cancel() | Release():
                return None
            case other:
                raise AssertionError(f"run() cannot answer {other!r}; drive it by hand")

    def _step(self, advance: Callable[[], Any]) -> None:
        try:
            action = advance()
        except StopIteration as stop:
            self._is_finished = True
            self._result = _as_answer(stop.value, self.spec.name)
            left = sorted(self._streams)
            assert not left, f"policy {self.spec.name!r} returned and left streams {left} open; yield Cancel first"
            return
        except BaseException:
            self._is_finished = True
            raise
        self._check_action(action)
        self.actions.append(action)

    def _check_action(self, action: Any) -> None:  # Any: a policy may yield anything
        name = self.spec.name
        assert isinstance(action, Action), f"policy {name!r} yields {action!r}, which is no action"
        match action:
            case Expand():
                self._check_expand(action)
                self.num_requested += sum(action.counts())
            case Start(expand, parallel):
                self._check_expand(expand)
                assert parallel >= 1, f"policy {name!r} starts a stream with parallel={parallel}"
                self.num_requested += sum(expand.counts())
            case Next(stream):
                known = 0 <= stream.id < self._num_streams
                assert known, f"policy {name!r} asks for the next sample of {stream!r}, which it did not start"
            case Cancel(stream):
                known = 0 <= stream.id < self._num_streams
                assert known, f"policy {name!r} cancels {stream!r}, which it did not start"
                self._streams.pop(stream.id, None)
            case Score(nodes) | Embed(nodes):
                assert len(nodes) > 0, f"policy {name!r} asks for nothing in {action!r}"
            case _:
                pass

    def _check_expand(self, action: Expand) -> None:
        name, counts = self.spec.name, action.counts()
        assert len(counts) == len(action.nodes), f"policy {name!r}: {len(counts)} counts, {len(action.nodes)} nodes"
        assert sum(counts) > 0, f"policy {name!r} asks for no sample in {action!r}"
        assert min(counts) >= 0, f"policy {name!r} asks for a negative number of samples in {action!r}"
        assert action.max_tokens is None or action.max_tokens > 0, f"policy {name!r}: max_tokens={action.max_tokens}"
        for node in action.nodes:
            assert isinstance(node, Node), f"policy {name!r} expands {node!r}, which is no node"

    def _check_outcome(self, action: Action, outcome: Any) -> None:
        fits: bool
        match action:
            case Expand():
                fits = isinstance(outcome, Samples)
            case Score(nodes):
                fits = isinstance(outcome, ScoreList) and len(outcome) == len(nodes)
            case Embed(nodes):
                fits = isinstance(outcome, np.ndarray) and outcome.ndim == 2 and len(outcome) == len(nodes)
            case Start(expand):
                fits = isinstance(outcome, Stream)
                if fits:
                    self._streams[outcome.id] = _OpenStream(expand)
                    self._num_streams += 1
            case Next(stream):
                fits = outcome is None or isinstance(outcome, Node)
                self._take(stream, is_end=outcome is None)
            case Conclude():
                fits = isinstance(outcome, Node)
            case Propose() | Commit() | Cancel() | Release():
                fits = outcome is None
            case _:
                fits = True
        assert fits, f"{outcome!r} is no outcome of {action!r}"

    def _take(self, stream: Stream, *, is_end: bool) -> None:
        open_stream = self._streams.get(stream.id)
        if open_stream is None:
            assert is_end, f"stream {stream.id} is used up; send None"
            return
        if not is_end:
            open_stream.parents.pop(0)
        if is_end or not open_stream.parents:
            del self._streams[stream.id]

    def _node(self, parent: Node, reply: AnySample, *, forced: str, model: str) -> Node:
        if not isinstance(reply, Sampled):
            reply = Sampled(answer=reply)
        text = reply.text
        if text is None:
            text = " I am not sure." if reply.answer is None else f" So it is {reply.answer}."
        self._num_nodes += 1
        return Node(
            id=f"{len(self.actions)}.{self._num_nodes}",
            parent=parent,
            forced=forced,
            text=forced + text,
            model=model,
            finish=reply.finish,
            output_tokens=reply.output_tokens,
            logprob=reply.logprob,
            answer=reply.answer,
            answer_class=reply.answer if reply.answer_class is None else reply.answer_class,
        )


class _OpenStream:
    def __init__(self, expand: Expand) -> None:
        self.expand = expand
        self.parents = [node for node, count in zip(expand.nodes, expand.counts(), strict=True) for _ in range(count)]


class _RunOut(Exception):
    """No replies are left."""


def _source(values: Iterable[Any] | Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One function for both forms of `SampleSource` and `ScoreSource`. Any: replies or scores."""
    if callable(values):
        return values
    remaining: Iterator[Any] = iter(values)

    def following(_: object) -> Any:
        try:
            return next(remaining)
        except StopIteration:
            raise _RunOut from None

    return following


def _mark(marks: Callable[[Node], float | None], node: Node) -> float | None:
    try:
        return marks(node)
    except _RunOut:
        return None


def _as_answer(value: Any, name: str) -> Answer:
    match value:
        case Answer():
            return value
        case Node():
            return Answer(value.trajectory if value.answer is None else value.answer, value)
        case str() | None:
            return Answer(value)
        case _:
            raise AssertionError(f"policy {name!r} returns {value!r}; it must be an Answer, a Node, a string or None")
