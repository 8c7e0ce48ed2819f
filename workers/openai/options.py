"""What can be set on an OpenAI-compatible engine, checked when it is opened; owns the rule where the key may go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from yarl import URL

from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.errors import InvalidRequest
from orchestrator.workers.openai.dialect import DialectName, GrammarField

_DEFAULT_BASE_URL = "https://api.openai.com/v1"


class OpenAIOptions(BaseModel):
    """Options of `open_engine`.

    Attributes:
        model: As the server calls it; may be left out if the server has one.
        name: As the fleet calls it; the model's name if left out.
        base_url: Up to and with ``/v1``. By default ``OPENAI_BASE_URL``, else OpenAI's own.
        api_key: Sent to ``base_url``'s host and to no other. By default, ``OPENAI_API_KEY`` if ``base_url`` was left
            out or is OpenAI's own: a stored key never goes to an address that came with the request.
        api_key_env: Name of another variable that holds the key.
        api: ``chat``, or ``completions`` with prompts that this side renders by ``chat_template``.
        chat_template: ``chatml``, or ``plain`` for base models (contents with empty lines between).
        dialect: Which server it is; found out if left out.
        fan_out: How several samples of a prompt are asked for. ``requests``: one request each, so that each has its
            own seed, and one can be cut without the others; the server reads the prompt once if it shares prefixes,
            and bills it once per sample if it bills. ``n``: one request, the prompt is billed once, seeds are the
            server's own. ``auto``: requests where prefixes are shared, or where stop strings or monitors have to be
            watched from here; else ``n``.
        stream: Whether replies are streamed. Whole ones cost this process much less CPU time, but nothing is known of
            them before they are there: nobody sees their text grow, nothing of them is left at a deadline, and one
            that is cancelled or lost is charged all the tokens it was granted. Requests with monitors, or with stop
            strings that have to be watched from here, are streamed all the same.
        continue_mode: Whether partial replies can be continued. ``probe`` asks the server to continue one and looks;
            ``auto`` does so where the dialect knows a way.
        context_length: Tokens of prompt and reply; needed where the server does not say.
        cost: Parameters, shape and prices; the three prices below may be given alone.
        prompt_usd, cached_prompt_usd, output_usd: US dollars per million tokens.
        logprobs: Whether the server gives log probabilities; by default what its dialect usually does.
        structured_output: Whether it takes JSON schemas; without them, grammars are refused as well.
        grammar_field: Where grammars go, if not where its dialect says.
        embeddings: Whether to serve embeddings as well (`OpenAIEmbeddingEngine`).
        connect_timeout_s: For a connection.
        idle_timeout_s: Longest silence, the wait for the first token (or the whole reply) included.
        max_connections: Requests under way at once; more wait.
        max_retries: Further attempts before the first token.
        headers: Sent with each request.
        extra_body: Merged into each generation request; null removes a field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = ""
    name: str | None = None
    base_url: str = ""
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    api: Literal["chat", "completions"] = "chat"
    chat_template: Literal["chatml", "plain"] = "chatml"
    dialect: DialectName | Literal["auto"] = "auto"
    fan_out: Literal["auto", "n", "requests"] = "auto"
    stream: bool = True
    continue_mode: Literal["auto", "probe", "on", "off"] = "auto"
    context_length: int | None = Field(default=None, ge=2)
    cost: ModelCost | None = None
    prompt_usd: float = Field(default=0.0, ge=0)
    cached_prompt_usd: float | None = Field(default=None, ge=0)
    output_usd: float = Field(default=0.0, ge=0)
    logprobs: bool | None = None
    structured_output: bool = True
    grammar_field: GrammarField | None = None
    embeddings: bool = False
    connect_timeout_s: float = Field(default=10.0, gt=0)
    idle_timeout_s: float = Field(default=300.0, gt=0)
    max_connections: int = Field(default=256, ge=1)
    max_retries: int = Field(default=4, ge=0, le=20)
    headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = Field(default_factory=dict)  # Any: JSON values

    @field_validator("base_url")
    @classmethod
    def _is_plain_http(cls, value: str) -> str:
        if not value:
            return value
        url = URL(value)
        if url.scheme not in {"http", "https"} or not url.host:
            raise ValueError("must be an http address, for instance http://127.0.0.1:8000/v1")
        if url.user or url.password:
            raise ValueError("must not hold credentials; pass them as api_key")
        return value.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not (value.get_secret_value().isascii() and value.get_secret_value().isprintable()):
            raise ValueError("holds characters that no key has")
        return value

    @property
    def url(self) -> str:
        """The base of all addresses, without a slash at its end."""
        return self.base_url or os.environ.get("OPENAI_BASE_URL", "").rstrip("/") or _DEFAULT_BASE_URL

    @property
    def key(self) -> str:
        """The key to send; empty for none."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        if self.api_key_env is not None:
            return os.environ.get(self.api_key_env, "").strip()
        is_own_choice = not self.base_url or URL(self.base_url).host == URL(_DEFAULT_BASE_URL).host
        return os.environ.get("OPENAI_API_KEY", "").strip() if is_own_choice else ""

    @property
    def model_cost(self) -> ModelCost:
        """What the cost models need."""
        if self.cost is not None:
            return self.cost
        prices = TokenPrices(
            prompt_usd=self.prompt_usd, output_usd=self.output_usd, cached_prompt_usd=self.cached_prompt_usd
        )
        return ModelCost(prices=prices)


def checked_options(options: Mapping[str, object]) -> OpenAIOptions:
    """The options, checked.

    Raises:
        InvalidRequest: Names the option; a value is shown unless it may be a secret.
    """
    try:
        return OpenAIOptions.model_validate(options)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, problem["loc"]))
        is_secret = field.startswith(("api_key", "headers", "base_url"))
        shown = "" if is_secret else f"={problem['input']!r}"
        raise InvalidRequest(
            f"option {field}{shown} of the openai engine: {problem['msg']}",
            field=field,
            value=None if is_secret else str(problem["input"]),
        ) from None  # the original error prints the values
