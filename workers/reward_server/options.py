"""What can be set on a reward server, checked when it is opened, and how a model's name says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from yarl import URL

from orchestrator.cost import ModelCost, TokenPrices
from orchestrator.errors import InvalidRequest
from orchestrator.workers.openai.options import OpenAIOptions

FormName = Literal["json", "pooling", "step_tag"]

_TAGS: Mapping[FormName, str] = {"json": "", "pooling": "<extra_0>", "step_tag": " ки"}
_IN_NAMES = frozenset(
    {"model", "name", "tag", "after_tag", "template", "good_class", "values", "good", "bad", "num_logprobs"}
    | {"prompt_logprobs", "context_length", "prompt_usd", "cached_prompt_usd"}
)
"""Options that a model's name may set: names come from anywhere and are written down, so no keys, headers or limits."""


class RewardServerOptions(BaseModel):
    """Options of `open_engine`.

    Attributes:
        url: The whole address for ``json``; else the server's, with or without ``/v1``.
        form: ``json``: a server that speaks our contract. ``pooling``: a token classifier behind vLLM's ``/pooling``.
            ``step_tag``: a language model that answers a tag after each step, behind any ``/v1/completions``.
        model: As the server calls it; may be left out if it serves one.
        name: As the fleet calls it; the model's name, or the server's address, if left out.
        tag: What is put after each step. By default Qwen2.5-Math-PRM's for ``pooling``, Math-Shepherd's for
            ``step_tag``.
        after_tag: What stands between a tag and the next step. By default a line break for ``step_tag``.
        template: The text that the model reads, with ``{problem}`` and ``{steps}``; ``chatml`` for that template;
            empty for the server's own chat template, which only ``pooling`` can use.
        good_class: For ``pooling``: which class of a row says that the step is good.
        values: For ``pooling``: whether rows hold probabilities, as vLLM gives them unless told otherwise, or logits.
        good, bad: For ``step_tag``: the tokens that answer the tag.
        num_logprobs: For ``step_tag``: how many of the likeliest answers are looked at.
        prompt_logprobs: For ``step_tag``: how the answers to many tags are had in one pass: ``vllm`` (its
            ``prompt_logprobs``), ``echo`` (OpenAI's), or ``off``, one request a tag. By default ``vllm`` if it is one.
        context_length: Tokens that it reads, for servers that do not say; 1,048,576 stands for "not known".
        api_key: Sent to ``url`` and to no other.
        api_key_env: Name of a variable that holds the key.
        cost: Parameters, shape and prices; the two prices below may be given alone.
        prompt_usd, cached_prompt_usd: US dollars per million tokens.
        connect_timeout_s: For a connection.
        idle_timeout_s: Longest silence.
        max_connections: Requests under way at once; more wait.
        max_retries: Further attempts at a request.
        headers: Sent with each request.
        extra_body: Merged into each request; null removes a field.
        probe: Whether opening asks for the rewards of a small solution, so that what is wrong is found out before
            anything is spent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    form: FormName = "json"
    model: str = ""
    name: str | None = None
    tag: str = ""
    after_tag: str | None = None
    template: str | None = None
    good_class: int = Field(default=1, ge=0)
    values: Literal["probabilities", "logits"] = "probabilities"
    good: str = Field(default="+", min_length=1)
    bad: str = Field(default="-", min_length=1)
    num_logprobs: int = Field(default=20, ge=2, le=1000)
    prompt_logprobs: Literal["auto", "vllm", "echo", "off"] = "auto"
    context_length: int = Field(default=1 << 20, ge=2)
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    cost: ModelCost | None = None
    prompt_usd: float = Field(default=0.0, ge=0)
    cached_prompt_usd: float | None = Field(default=None, ge=0)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    idle_timeout_s: float = Field(default=60.0, gt=0)
    max_connections: int = Field(default=64, ge=1)
    max_retries: int = Field(default=4, ge=0, le=20)
    headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = Field(default_factory=dict)  # Any: JSON values
    probe: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> RewardServerOptions:
        template = self.text_template
        if template not in {"", "chatml"} and not ("{problem}" in template and "{steps}" in template):
            raise ValueError("template must hold {problem} and {steps}, or be chatml")
        if self.form == "step_tag" and not template:
            raise ValueError("template must not be empty for step_tag: the completions API has no chat template")
        if self.good == self.bad:
            raise ValueError("good and bad must be different tokens")
        return self

    @property
    def step_tag(self) -> str:
        """What is put after each step."""
        return self.tag or _TAGS[self.form]

    @property
    def separator(self) -> str:
        """What stands between a tag and the next step."""
        return self.after_tag if self.after_tag is not None else "\n" if self.form == "step_tag" else ""

    @property
    def text_template(self) -> str:
        """The template; empty for the server's own."""
        return self.template if self.template is not None else "{problem} {steps}" if self.form == "step_tag" else ""

    def connection(self, name: str = "") -> OpenAIOptions:
        """Address, key and limits, with the rules of the openai engine for all of them.

        Args:
            name: What the model is called in errors.

        Raises:
            ValidationError: The address or the key is none.
        """
        return OpenAIOptions(
            name=name or self.name or self.model,
            base_url=self.url if self.form == "json" else self.url.rstrip("/").removesuffix("/v1"),
            api_key=self.api_key,
            api_key_env=self.api_key_env,
            connect_timeout_s=self.connect_timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            max_connections=self.max_connections,
            max_retries=self.max_retries,
            headers=self.headers,
        )

    @property
    def model_cost(self) -> ModelCost:
        """What the cost models need."""
        if self.cost is not None:
            return self.cost
        return ModelCost(prices=TokenPrices(prompt_usd=self.prompt_usd, cached_prompt_usd=self.cached_prompt_usd))


def checked_options(options: Mapping[str, object]) -> RewardServerOptions:
    """The options, checked.

    Raises:
        InvalidRequest: Names the option; a value is shown unless it may be a secret.
    """
    try:
        checked = RewardServerOptions.model_validate(options)
        url = URL(checked.connection().base_url)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, problem["loc"])).replace("base_url", "url") or "template"
        is_secret = field.startswith(("api_key", "headers", "url")) or not problem["loc"]
        shown = "" if is_secret else f"={problem['input']!r:.100}"
        raise InvalidRequest(
            f"option {field}{shown} of the reward server: {problem['msg']}",
            field=field,
            value=None if is_secret else str(problem["input"])[:100],
        ) from None  # the original error prints the values
    if url.raw_query_string or url.raw_fragment or not url.host:
        raise InvalidRequest(
            "option url of the reward server: must be an http address without a query, for instance "
            "http://127.0.0.1:8000",
            field="url",
        )
    return checked


def read_target(target: str) -> tuple[str, dict[str, object]]:
    """The address and the options that a model's name holds: ``[FORM@]URL[#NAME=VALUE&NAME=VALUE]``.

    Values are percent-encoded.

    Raises:
        InvalidRequest: It is no such name, or sets an option that a name must not set.
    """
    address, _, fragment = target.partition("#")
    form, at, url = address.partition("@")
    if not at or "/" in form:  # no form, or an @ inside the address
        form, url = "json", address
    if "://" not in url:
        raise InvalidRequest(
            f"cannot read the reward server {target!r}; write reward:pooling@http://HOST:PORT, "
            "reward:step_tag@http://HOST:PORT, or reward:http://HOST:PORT/PATH",
            field="model",
            value=target,
        )
    options: dict[str, object] = {"form": form}
    for pair in filter(None, fragment.split("&")):
        name, _, value = pair.partition("=")
        if name not in _IN_NAMES:
            raise InvalidRequest(
                f"the name of a reward server cannot set {name!r}; it can set: {', '.join(sorted(_IN_NAMES))}",
                field="model",
                value=name,
            )
        options[name] = unquote(value)
    return url, options
