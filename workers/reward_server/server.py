"""One reward server: what is posted and what comes back, with the session, retries and secrets of the openai engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from orchestrator.clock import Clock
from orchestrator.errors import ContextOverflow, EngineFailed
from orchestrator.workers.openai.chunks import usage_of
from orchestrator.workers.openai.dialect import DIALECTS, Dialect, dialect_of, served_models
from orchestrator.workers.openai.failures import PromptTooLong, UpstreamFailed
from orchestrator.workers.openai.transport import Transport
from orchestrator.workers.reward_server.options import RewardServerOptions

_HAS_NO_SUCH_ADDRESS = frozenset({404, 405, 501})
_MOST_TOKENS = 1 << 40


class Counted(NamedTuple):
    """Tokens of one reading: all that were read, those of them that were cached, and those that were written."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Served(NamedTuple):
    """What a server says of itself: its dialect, and of each model its name and context length (None if not said)."""

    dialect: Dialect
    models: Mapping[str, int | None]


class Server:
    """Requests to one reward server.

    Args:
        options: Address, key, limits.
        name: The model, as errors call it.
        context_length: Of the model, for errors.
        clock: Waits between attempts.
    """

    def __init__(self, options: RewardServerOptions, *, name: str, context_length: int, clock: Clock) -> None:
        self._name = name
        self._options = options
        self._context_length = context_length
        self._transport = Transport(options.connection(name), clock=clock)
        self._is_closed = False

    @property
    def host(self) -> str:
        """Name and port, for people."""
        return self._transport.host

    async def aclose(self) -> None:
        """Closes all connections; requests under way fail. Safe to call twice."""
        self._is_closed = True
        await self._transport.aclose()

    async def post(self, path: str, body: Mapping[str, Any], *, estimate: int) -> Mapping[str, Any]:  # Any: JSON values
        """The object that the server answers with, tried again like the openai engine's requests.

        Args:
            path: Below the server's root; with a leading slash, below its host.
            body: JSON values; null removes a field.
            estimate: Tokens of the text, in case the server says no more than that they are too many.

        Raises:
            ContextOverflow: The server says that the text is too long.
            EngineFailed: No attempt brought an answer, or it is no object.
        """
        sent = {**body, **self._options.extra_body}
        sent = {name: value for name, value in sent.items() if value is not None}
        try:
            reply = await self._transport.post_json(path, sent)
        except EngineFailed as error:
            if not isinstance(error.__cause__, PromptTooLong):
                raise
            known = error.__cause__
            length = known.context_length or self._context_length
            num_tokens = known.prompt_tokens or estimate
            raise ContextOverflow(model=self._name, prompt_tokens=num_tokens, context_length=length) from error
        except RuntimeError as error:  # of the HTTP client: the session was closed between two attempts
            if not self._is_closed:
                raise
            raise self.closed() from error
        if not isinstance(reply, dict):
            raise self.malformed("an answer that is no JSON object", reply)
        return reply

    async def served(self) -> Served:
        """What the server says that it serves; nothing if it has no ``/v1/models``.

        Raises:
            EngineFailed: It cannot be reached, or refuses the key.
        """
        attempt = 0
        while True:
            try:
                listing = await self._transport.get_json("v1/models")
                break
            except PromptTooLong:
                listing = None
                break
            except UpstreamFailed as error:
                if error.status in _HAS_NO_SUCH_ADDRESS:
                    return Served(DIALECTS["generic"], {})
                await self._transport.pause(attempt, error)
                attempt += 1
        models = {str(entry.get("id")): _context_length(entry) for entry in served_models(listing)}
        return Served(dialect_of(listing, host=self.host), models)

    async def trouble(self, path: str) -> str:
        """Why the server would not answer now, from one ``GET``; empty if it would."""
        if self._is_closed:
            return "closed"
        try:
            await self._transport.get_json(path)
        except UpstreamFailed as error:
            is_answer = isinstance(error.__cause__, ValueError)  # a page that is no JSON
            if is_answer or error.status in _HAS_NO_SUCH_ADDRESS:
                return ""
            return self._transport.failures.shown(str(error))
        except PromptTooLong:
            pass
        return ""

    def counted(self, reply: Mapping[str, Any], *, estimate: int) -> Counted:  # Any: JSON values
        """The tokens that an answer says it took, else ``estimate`` of them.

        Raises:
            EngineFailed: It holds counts that are none.
        """
        try:
            usage = usage_of(reply.get("usage"))
        except (TypeError, ValueError, OverflowError):
            raise self.malformed("a usage without counts", reply.get("usage")) from None
        if usage is None:
            return Counted(max(1, estimate), 0, 0)
        if max(usage.prompt_tokens, usage.completion_tokens) > _MOST_TOKENS:
            raise self.malformed("a usage that cannot be", reply.get("usage"))
        return Counted(usage.prompt_tokens, min(usage.cached_tokens, usage.prompt_tokens), usage.completion_tokens)

    def malformed(self, what: str, value: object, *, hint: str = "") -> EngineFailed:
        """The error of an answer that cannot be used; no reward is ever made up for it."""
        shown = self._transport.failures.shown(repr(value)[:200])
        return EngineFailed(
            f"reward model {self._name!r} at {self.host} sends {what}: {shown}{'; ' if hint else ''}{hint}",
            model=self._name,
            is_retryable=False,
        )

    def closed(self) -> EngineFailed:
        """The error of work after closing."""
        return EngineFailed("the engine is closed", model=self._name, is_retryable=False)


def _context_length(entry: Mapping[str, Any]) -> int | None:  # Any: JSON values
    stated = entry.get("max_model_len")
    return stated if isinstance(stated, int) and stated >= 2 else None
