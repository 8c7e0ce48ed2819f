"""`VerifiedAnswer`: a runnable that solves a problem and says how sure it is, and of what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig

from orchestrator.client import JobResult
from orchestrator.errors import InvalidRequest
from orchestrator.in_process import Orchestrator
from orchestrator.job import Result
from orchestrator.langchain.asking import message_of
from orchestrator.langchain.local import LocalSource
from orchestrator.langchain.replies import sent_messages
from orchestrator.langchain.sources import ServiceSource
from orchestrator.store import JobState
from orchestrator.usage import Usage

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An answer and what speaks for it.

    Attributes:
        answer: Its text; None if there is none.
        confidence: How sure the policy is, in [0, 1]; None if it cannot say.
        confidence_kind: What `confidence` is the probability of.
        alternatives: Rival answers with their shares of the votes or their scores, best first.
        usage: Everything spent.
        stop_reason: Why the search ended.
        state: Of the job; ``waiting`` if it asks a question.
        question: What it asks.
        job_id: The job.
        trace_url: Where the service has all that was sampled, as JSON; None in process, where the store has it.
    """

    answer: str | None
    confidence: float | None
    confidence_kind: str | None
    alternatives: tuple[tuple[str, float], ...]
    usage: Usage
    stop_reason: str
    state: JobState
    question: str | None
    job_id: str
    trace_url: str | None = None

    @classmethod
    def of(cls, result: Result | JobResult, *, base_url: str | None = None) -> Self:
        """The verdict that a result holds."""
        return cls(
            answer=result.text,
            confidence=result.confidence,
            confidence_kind=result.answer.confidence_kind,
            alternatives=result.answer.alternatives,
            usage=result.usage,
            stop_reason=result.stop_reason,
            state=result.state,
            question=result.question,
            job_id=result.job_id,
            trace_url=None if base_url is None else f"{base_url}/v1/jobs/{result.job_id}/tree",
        )


class VerifiedAnswer(Runnable[LanguageModelInput, Verdict]):
    """Solves its input (a text, a prompt or messages) as a job, and returns a `Verdict`.

    .. code-block:: python

        solve = VerifiedAnswer(base_url="http://127.0.0.1:8000", policy="adaptive_consistency", budget="tokens=4000")
        verdict = solve.invoke("What is 17 * 23?")
        print(verdict.answer, verdict.confidence, verdict.confidence_kind)

    A text is shown to models with an instruction on how to state the answer; messages are shown as they are.
    Cancelling the task that awaits it cancels the job.

    Args:
        base_url: Where the service is; see `orchestrator.client.Client`.
        api_key: See `orchestrator.client.Client`.
        orchestrator: An open `Orchestrator`, instead of a service.
        **options: See `orchestrator.client.asking.JobOptions`, or `Orchestrator.solve`.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        orchestrator: Orchestrator | None = None,
        **options: Any,  # Any: see above
    ) -> None:
        self._options = options
        self._source: LocalSource | ServiceSource
        if orchestrator is not None:
            self._source = LocalSource(orchestrator)
        else:
            self._source = ServiceSource(base_url, api_key=api_key, timeout_s=None, max_retries=None)

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Verdict:
        """Solves it; keyword arguments go before the options.

        Raises:
            TtcError: It could not be solved.
        """
        return self._call_with_config(lambda given: self._solve(given, kwargs), input, config, run_type="chain")

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Verdict:
        """Solves it; keyword arguments go before the options.

        Raises:
            TtcError: It could not be solved.
        """

        async def solve(given: LanguageModelInput) -> Verdict:
            return await self._asolve(given, kwargs)

        return await self._acall_with_config(solve, input, config, run_type="chain")

    def _solve(self, given: LanguageModelInput, more: Json) -> Verdict:
        problem, options = self._asked(given, more)
        if isinstance(self._source, LocalSource):
            return Verdict.of(self._source.solve(problem, **options))
        client = self._source.client
        return Verdict.of(client.solve(problem, **options), base_url=client.base_url)

    async def _asolve(self, given: LanguageModelInput, more: Json) -> Verdict:
        problem, options = self._asked(given, more)
        if isinstance(self._source, LocalSource):
            return Verdict.of(await self._source.asolve(problem, **options))
        client = self._source.aclient
        return Verdict.of(await client.solve(problem, **options), base_url=client.base_url)

    def _asked(self, given: LanguageModelInput, more: Json) -> tuple[str, Json]:
        """The problem, and the options."""
        options = self._options | more
        if isinstance(given, str):
            return given, options
        turns = [message_of(turn) for turn in sent_messages(_messages(given))]
        problem = next((turn.content for turn in reversed(turns) if turn.role == "user"), None)
        if problem is None:
            raise InvalidRequest("the messages hold none of a person; what is to be solved?", field="input")
        return problem, {"messages": turns, **options}


def _messages(given: PromptValue | Sequence[Any]) -> list[BaseMessage]:  # Any: what LangChain takes for a message
    return given.to_messages() if isinstance(given, PromptValue) else convert_to_messages(given)
