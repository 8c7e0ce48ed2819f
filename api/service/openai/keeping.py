"""Responses that are kept: each is a job, with labels by which it is known again."""

from __future__ import annotations

from orchestrator.api.service.openai.planning import Plan
from orchestrator.api.service.openai.replies import valid_choices
from orchestrator.api.service.openai.response_reply import (
    BACKGROUND,
    EFFORT,
    INSTRUCTIONS,
    METADATA,
    MODEL,
    PREFIX,
    PREVIOUS,
    Stored,
    stored,
)
from orchestrator.api.service.openai.response_request import ResponseRequest
from orchestrator.api.service.openai.running import shown_choices
from orchestrator.api.service.openai.watching import Watch
from orchestrator.api.service.requests import MessageBody, ToolCallBody
from orchestrator.api.service.security.principal import Principal
from orchestrator.api.service.service import Service
from orchestrator.errors import JobConflict, TtcError, UnknownName
from orchestrator.job import JobSpec
from orchestrator.store import JobRecord


class Keeping:
    """One caller's responses.

    Args:
        service: Has their jobs.
        who: The caller.
    """

    def __init__(self, service: Service, who: Principal) -> None:
        self._service = service
        self._who = who

    async def conversation(self, response_id: str | None) -> tuple[MessageBody, ...]:
        """What was said up to the end of an earlier response, its instructions left out.

        Raises:
            UnknownName: The caller has no such response.
            JobConflict: It has not been given yet, or failed.
        """
        if response_id is None:
            return ()
        known = await self.stored(response_id)
        if not known.choices:
            raise JobConflict(f"response {response_id!r} has no reply to go on from", response_id=response_id)
        spec = JobSpec.from_json(known.record.spec)
        said = spec.messages[1:] if INSTRUCTIONS in spec.labels else spec.messages
        turns = [
            MessageBody(
                role=turn.role,
                content=turn.content,
                tool_calls=tuple(ToolCallBody(id=c.id, name=c.name, arguments=c.arguments) for c in turn.tool_calls),
                tool_call_id=turn.tool_call_id,
            )
            for turn in said
        ]
        choice = known.choices[0]
        calls = tuple(ToolCallBody(id=c.id, name=c.name, arguments=c.arguments) for c in choice.tool_calls)
        return (*turns, MessageBody(role="assistant", content=choice.text, tool_calls=calls))

    async def stored(self, response_id: str) -> Stored:
        """What the store has of a response.

        Raises:
            UnknownName: The caller has no such response.
        """
        return await self.of_record(await self._service.record(self._who, self.job_id(response_id)))

    async def of_record(self, record: JobRecord) -> Stored:
        """What the store has of a job's response."""
        rows = await self._service.orchestrator.store.read(record.id) if record.state.is_terminal else []
        known = stored(record, rows)
        if known.result is None or not known.choices:
            return known
        form = JobSpec.from_json(record.spec).form
        try:
            choices = await valid_choices(known.choices, form, self._service.orchestrator.pool)
        except TtcError as error:
            return Stored(record=record, result=known.result, error=error)
        return Stored(record=record, result=known.result, choices=choices)

    async def live(self, watch: Watch, plan: Plan) -> Stored:
        """What is known of a response whose job runs here, or has just ended."""
        record = await self._service.record(self._who, watch.job_id)
        if watch.result is None:
            return Stored(record=record)
        try:
            choices = await shown_choices(watch.result, plan, self._service.orchestrator.pool)
        except TtcError as error:
            return Stored(record=record, result=watch.result, error=error)
        return Stored(record=record, result=watch.result, choices=choices)

    @staticmethod
    def job_id(response_id: str) -> str:
        """The job behind a response.

        Raises:
            UnknownName: This is no response's id.
        """
        if not response_id.startswith(PREFIX):
            raise UnknownName(kind="response", name=response_id, known=(), hint=f"ids begin with {PREFIX}")
        return response_id.removeprefix(PREFIX)


def labels_of(body: ResponseRequest) -> dict[str, str]:
    """What a job has to remember of the response that it is."""
    labels = {METADATA + name: value for name, value in body.metadata.items()}
    labels[MODEL] = body.model
    if body.reasoning.effort is not None:
        labels[EFFORT] = body.reasoning.effort
    if body.previous_response_id is not None:
        labels[PREVIOUS] = body.previous_response_id
    if body.instructions:
        labels[INSTRUCTIONS] = "first message"
    if body.background:
        labels[BACKGROUND] = "true"
    return labels
