"""`ChatOrchestrator`: test-time compute as a LangChain chat model, over HTTP or in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from orchestrator.budget import Budget
from orchestrator.errors import InvalidRequest
from orchestrator.in_process import Orchestrator
from orchestrator.langchain.asking import AUTO_MODEL
from orchestrator.langchain.local import LocalSource
from orchestrator.langchain.replies import chunk_of, result_of, sent_messages
from orchestrator.langchain.sources import ServiceSource, Source
from orchestrator.langchain.structured import structured

Json = dict[str, Any]  # Any: JSON values

_STANDARD = ("model", "temperature", "top_p", "seed", "max_tokens", "n", "stop", "reasoning_effort")
_OURS = ("policy", "params", "target_confidence", "verifier", "answer", "labels")
_WITH_USAGE: Json = {"stream_options": {"include_usage": True}}


class ChatOrchestrator(BaseChatModel):
    """A chat model whose replies are searched, voted on and verified under a budget.

    .. code-block:: python

        llm = ChatOrchestrator(base_url="http://127.0.0.1:8000", policy="self_consistency", budget="tokens=4000")
        llm.invoke("What is 17 * 23?").content

    Leaving a stream early, or cancelling the task that awaits a reply, ends the spending. What a reply cost and how
    sure it is are in ``response_metadata["ttc"]``; ``usage_metadata`` counts everything spent, samples that were not
    chosen included.
    """

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    model: str = Field(AUTO_MODEL, alias="model_name", description="ttc/auto, ttc/POLICY, or a model of the service")
    base_url: str | None = Field(None, description="Where the service is; None for $TTC_BASE_URL, else this machine")
    api_key: SecretStr | None = Field(None, description="None for $TTC_API_KEY, else none")
    orchestrator: Any = Field(None, exclude=True, repr=False, description="An open Orchestrator, instead of a service")
    timeout_s: float | None = Field(None, alias="timeout", description="Per request; see `orchestrator.client.Client`")
    max_retries: int | None = None

    policy: str | None = Field(None, description="How the budget is spent; by default what the model's name says")
    params: dict[str, Any] | None = Field(None, description="Parameters of the policy")  # Any: JSON values
    budget: Budget | str | None = Field(None, description="Caps on each reply as a whole")
    target_confidence: float | None = Field(None, description="Stop once this sure")
    verifier: str | None = Field(None, description="Who scores, for policies that ask")
    answer: str | None = Field(None, description="How final answers are found in replies")
    labels: dict[str, str] | None = Field(None, description="Kept with the jobs")

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = Field(None, description="Most tokens of each candidate")
    n: int | None = Field(None, description="Choices per reply; from a service only")
    stop: list[str] | str | None = Field(None, alias="stop_sequences", description="A reply ends before one of these")
    reasoning_effort: str | None = Field(None, description="How wide to search")
    streaming: bool = Field(False, description="Ask for streams even where a whole reply is wanted")

    _source: Source = PrivateAttr()

    @model_validator(mode="after")
    def _open_source(self) -> ChatOrchestrator:
        self._source = self._opened_source()
        return self

    def _opened_source(self) -> Source:
        if isinstance(self.orchestrator, Orchestrator):
            return LocalSource(self.orchestrator)
        if self.orchestrator is not None:
            raise ValueError(f"orchestrator must be an orchestrator.Orchestrator, not {type(self.orchestrator)!r}")
        key = None if self.api_key is None else self.api_key.get_secret_value()
        return ServiceSource(self.base_url, api_key=key, timeout_s=self.timeout_s, max_retries=self.max_retries)

    @property
    def source(self) -> Source:
        """Where replies come from."""
        return self._source

    # -- what LangChain asks of a chat model -------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "ttc-orchestrator"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        where = "in process" if self.orchestrator is not None else self.base_url
        return {"base_url": where, **self._defaults()}

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Which variable holds which secret."""
        return {"api_key": "TTC_API_KEY"}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or _as_list(self.stop), **kwargs)
        params["ls_provider"] = "ttc"
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002  # LangChain tells them itself
        **kwargs: Any,
    ) -> ChatResult:
        return result_of(self._source.complete(self._body(messages, stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return result_of(await self._source.acomplete(self._body(messages, stop, kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        body = self._body(messages, stop, kwargs) | _WITH_USAGE
        with closing(self._source.stream(body)) as chunks:
            for raw in chunks:
                chunk = chunk_of(raw)
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        body = self._body(messages, stop, kwargs) | _WITH_USAGE
        async with aclosing(self._source.astream(body)) as chunks:
            async for raw in chunks:
                chunk = chunk_of(raw)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The same model with tools that it may ask for.

        Args:
            tools: Functions, pydantic models, LangChain tools or OpenAI's descriptions of them.
            tool_choice: ``auto``, ``none``, ``any`` (or ``required``, or True), the name of the one that must be
                called, or OpenAI's form of that.
            strict: Whether arguments must have the schema exactly.
            parallel_tool_calls: Whether one reply may ask for several calls.
            **kwargs: Bound as well.
        """
        bound: Json = {"tools": [convert_to_openai_tool(tool, strict=strict) for tool in tools], **kwargs}
        if tool_choice is not None and tool_choice is not False:
            bound["tool_choice"] = _choice(tool_choice, bound["tools"])
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**bound)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A runnable whose replies are values of a schema.

        Args:
            schema: A pydantic class (gives instances of it), a TypedDict, a JSON schema or a function's description
                (give dicts).
            method: ``json_schema`` has the service hold the schema; ``function_calling`` makes it the arguments of a
                tool; ``json_mode`` asks for any JSON object, whose form the prompt has to describe.
            include_raw: Give ``{"raw", "parsed", "parsing_error"}`` instead, and raise no error of parsing.
            strict: Whether values must have the schema exactly.
            **kwargs: Bound as well.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    # -- how ---------------------------------------------------------------------------------------------------

    def _defaults(self) -> Json:
        body: Json = {name: value for name in _STANDARD if (value := getattr(self, name)) is not None}
        ttc: Json = {name: value for name in _OURS if (value := getattr(self, name)) is not None}
        if self.budget is not None:
            ttc["budget"] = self.budget.to_json() if isinstance(self.budget, Budget) else self.budget
        return body | ({"ttc": ttc} if ttc else {})

    def _body(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]) -> Json:
        given = {name: value for name, value in kwargs.items() if value is not None and not name.startswith("ls_")}
        body = self._defaults() | given | ({} if stop is None else {"stop": stop})
        if "ttc" in given:
            body["ttc"] = self._defaults().get("ttc", {}) | given["ttc"]
        return body | {"messages": sent_messages(messages)}


def _choice(wanted: str | bool | Mapping[str, Any], tools: Sequence[Json]) -> Any:  # Any: JSON value
    """The choice in OpenAI's form."""
    if isinstance(wanted, Mapping):
        return dict(wanted)
    if wanted is True or wanted == "any":
        return "required"
    if wanted in {"auto", "none", "required"}:
        return wanted
    names = [tool["function"]["name"] for tool in tools]
    if wanted not in names:
        raise InvalidRequest(f"tool_choice names {wanted!r}; the tools are {', '.join(names)}", field="tool_choice")
    return {"type": "function", "function": {"name": wanted}}


def _as_list(stop: Sequence[str] | str | None) -> list[str] | None:
    return [stop] if isinstance(stop, str) else list(stop) if stop else None
