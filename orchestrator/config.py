"""The configuration: one tree, read once, from ``TTC_`` variables and a TOML file, with the variables in front.

A nested field is written with two underscores: ``TTC_LLAMA_CPP__NUM_THREADS=4``.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from orchestrator.budget import Budget
from orchestrator.errors import InvalidRequest


class LlamaCppSettings(BaseModel):
    """The embedded engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_gpu_layers: int | None = Field(None, ge=-1, description="Layers kept on the GPU; -1 for all, none by default")
    num_threads: int | None = Field(None, ge=1, description="Threads for decoding; cores - 1 by default")
    context_cells: int | None = Field(None, ge=256, description="Cells of the KV cache")
    max_sequences: int | None = Field(None, ge=1, le=256, description="Sequences decoded at once")
    max_branches: int | None = Field(None, ge=1, le=256, description="Prefixes decoded or kept at once")
    share_prefixes: bool | None = Field(None, description="Start from what other requests left in the KV cache")


class OpenAISettings(BaseModel):
    """Servers that speak the OpenAI protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = Field(None, description="Used when a model specification names no address")
    api_key: SecretStr | None = Field(None, description="Sent to base_url only, never to an address given elsewhere")
    options: dict[str, Any] = Field(  # Any: checked by the engine, which knows their types
        default_factory=dict,
        description="More options of the engine, as JSON: context_length, prompt_usd, output_usd, api, fan_out, ...",
    )


class SpeculationSettings(BaseModel):
    """Speculative decoding in vLLM: a cheap guess of the next tokens, which the model checks in one step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["draft_model", "ngram", "suffix", "eagle", "eagle3", "mtp"] = Field(
        "draft_model", description="Who guesses: a smaller model, repeated text, or heads that were trained for it"
    )
    model: str | None = Field(None, description="The draft model or the heads; of the same vocabulary")
    num_tokens: int = Field(4, ge=1, le=64, description="Tokens guessed at a time")
    by_batch: tuple[tuple[int, int, int], ...] = Field(
        (), description="(first, last, tokens): so many guessed while that many sequences run; 0 for none"
    )
    options: dict[str, Any] = Field(  # Any: checked by vLLM, which knows their types
        default_factory=dict, description="More of vLLM's speculative_config, for instance prompt_lookup_max"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method in {"draft_model", "eagle", "eagle3"} and not self.model:
            raise ValueError(f"method {self.method!r} needs a model")
        expected = 1
        for first, last, tokens in self.by_batch:
            if first != expected or last < first or not 0 <= tokens <= 64:
                raise ValueError("by_batch must be ranges (first, last, tokens) that begin at 1 and leave no gap")
            expected = last + 1
        return self


class VllmSettings(BaseModel):
    """vLLM in this process; fields with names of vLLM's engine arguments are those."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str | None = Field(None, description="Of weights and activations: auto, bfloat16, float16, float32")
    quantization: str | None = Field(None, description="How the weights are quantised, where the model does not say")
    max_model_len: int | None = Field(None, ge=16, description="Tokens of prompt and reply; the model's own by default")
    max_num_seqs: int | None = Field(None, ge=1, le=65_536, description="Sequences decoded at once")
    max_num_queued_reqs: int | None = Field(None, ge=1, description="Samples waiting or running; more are refused")
    max_num_queued_tokens: int | None = Field(None, ge=1, description="Prompt tokens waiting to be read; as above")
    block_size: int | None = Field(None, ge=1, description="Tokens of a KV block: what prefixes are shared in")
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1, description="Share of the accelerator's memory")
    kv_cache_gib: float | None = Field(None, gt=0, description="Memory for the KV cache, in GiB")
    tensor_parallel_size: int | None = Field(None, ge=1, le=1024, description="Accelerators that share the model")
    enable_prefix_caching: bool = Field(True, description="Start from what other requests left in the KV cache")
    enforce_eager: bool | None = Field(None, description="No compilation and no CUDA graphs: a faster start")
    runner: Literal["auto", "generate", "pooling"] = Field("auto", description="What the model is run for")
    speculation: SpeculationSettings | None = Field(None, description="Speculative decoding")
    step_tag: str | None = Field(None, description="Of process reward models: the text after each step")
    step_good: str | None = Field(None, description="Of the step-tag form: the token that says a step is good")
    step_bad: str | None = Field(None, description="Of the step-tag form: the token that says a step is bad")
    good_class: int = Field(1, ge=0, le=1000, description="Of classifying reward models: the class of good steps")
    cpu_cores: str | None = Field(None, description="CPU build: cores to bind to, for instance 0-7; nobind for none")
    prompt_usd: float = Field(0.0, ge=0, description="US dollars per million prompt tokens")
    output_usd: float = Field(0.0, ge=0, description="US dollars per million output tokens")
    cached_prompt_usd: float | None = Field(None, ge=0, description="US dollars per million cached prompt tokens")
    log: Path | None = Field(None, description="File that vLLM's log is added to; without one it is not kept")
    engine_args: dict[str, Any] = Field(  # Any: checked by vLLM, which knows their types
        default_factory=dict, description="More of vLLM's engine arguments, as JSON; they win over the fields above"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        answers = (self.step_good, self.step_bad)
        if any(answers) and not (all(answers) and self.step_tag):
            raise ValueError("step_tag, step_good and step_bad belong together")
        return self


class RaySettings(BaseModel):
    """Where ``ray:NAME`` finds the cluster that runs the models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field("", description="HOST:PORT or auto; by default RAY_ADDRESS, or the Ray of this machine")
    namespace: str = Field("ttc", min_length=1, max_length=63, description="That of the fleet on the cluster")
    isolated: bool = Field(
        True, description="Join the cluster in a process of its own: one that loses its cluster is ended by Ray"
    )
    open_s: float = Field(600.0, gt=0, description="A model may take so long until its first replica is ready")
    wait_s: float = Field(600.0, gt=0, description="A request waits so long for a replica, if it has no deadline")


class ServiceSettings(BaseModel):
    """The service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 for any free one")
    concurrency: int = Field(8, ge=0, le=10_000, description="Queued jobs that one process runs at once; 0 for none")
    chat_concurrency: int = Field(64, ge=1, le=10_000, description="Chat requests that one process runs at once")
    max_chat_waiting: int = Field(256, ge=0, description="Chat requests that may wait for their turn in one process")
    max_waiting: int = Field(10_000, ge=1, description="Jobs that may wait in the queue")
    max_waiting_per_tenant: int | None = Field(None, ge=1, description="Jobs of one tenant that may wait in the queue")
    max_running_per_tenant: int | None = Field(None, ge=1, description="None is taken while so many (with chats) run")
    default_budget: str | None = Field(None, description="Caps of jobs that name none, for instance tokens=20000")
    max_batch: int = Field(1000, ge=1, le=100_000, description="Most jobs in a batch")
    max_wait_s: float = Field(300.0, gt=0, le=3600, description="Longest ?wait= of a request")
    heartbeat_s: float = Field(15.0, gt=0, description="A silent event stream says so often that it is alive")
    lease_s: float = Field(60.0, ge=1, le=3600, description="A process silent for so long has lost its jobs to others")
    grace_s: float = Field(20.0, ge=0, description="What runs may go on so long when the service is told to stop")
    keep_days: float | None = Field(None, gt=0, description="Jobs that ended so long ago are deleted; never by default")
    key_cache_s: float = Field(2.0, ge=0, le=60, description="A revoked API key may still work for so long")
    allowed_origins: tuple[str, ...] = Field((), description="Web pages from these origins may call (CORS); none may")
    allowed_hosts: tuple[str, ...] = Field((), description="Host names that requests must be sent to; any by default")
    max_body_bytes: int = Field(8 << 20, ge=1024, description="Most bytes in the body of a request")
    body_timeout_s: float = Field(20.0, gt=0, description="A request's body has to arrive within")
    header_timeout_s: float = Field(10.0, gt=0, description="A request's headers have to arrive within")
    max_json_depth: int = Field(64, ge=8, le=500, description="Deepest nesting of JSON that is sent")
    max_json_items: int = Field(100_000, ge=1000, description="Most keys and elements of JSON that is sent")
    allows_patterns: bool = Field(False, description="Callers may give regex: answers; each pattern costs a process")
    log: Literal["auto", "json", "file"] = Field("auto", description="auto: JSON on stderr unless it is a terminal")
    metrics_access: Literal["loopback", "token", "open"] = Field("loopback", description="Who may read /metrics")
    controller_metrics_port: int | None = Field(None, ge=1, le=65535, description="Where ttc controller tells metrics")
    metrics_token: SecretStr | None = Field(None, description="Bearer token of those who read /metrics, for 'token'")

    @field_validator("default_budget")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        try:
            Budget.parse(value or "")
        except InvalidRequest as error:
            raise ValueError(error.message) from None
        return value


class Settings(BaseSettings):
    """All settings with their defaults."""

    model_config = SettingsConfigDict(env_prefix="TTC_", env_nested_delimiter="__", extra="ignore", frozen=True)
    file: ClassVar[Path | None] = None

    model: str = Field("qwen2.5-coder-0.5b", description="The small model")
    large: str | None = Field(None, description="The large model")
    policy: str = Field("adaptive_consistency", description="Policy of jobs that name none")
    max_sample_tokens: int = Field(1024, ge=1, le=1_000_000, description="Most tokens per sample")
    cache_dir: Path | None = Field(None, description="Folder of what is downloaded; the platform's by default")
    catalogue: Path | None = Field(None, description="A TOML file of models, added to ours")
    offline: bool = Field(False, description="Never download anything")
    store: str | None = Field(
        None, description="Where jobs are kept: a path, sqlite:PATH, memory: or redis://HOST:PORT/DB"
    )
    llama_cpp: LlamaCppSettings = LlamaCppSettings()
    openai: OpenAISettings = OpenAISettings()
    vllm: VllmSettings = VllmSettings()
    ray: RaySettings = RaySettings()
    service: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # part of the hook's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments go before variables, variables before the file."""
        path = config_path()
        toml = (TomlConfigSettingsSource(settings_cls, path),) if path.is_file() else ()
        return (init_settings, env_settings, *toml)


def config_path() -> Path:
    """The configuration file: ``$TTC_CONFIG``, or ``ttc/config.toml`` in the user's configuration folder."""
    if given := os.environ.get("TTC_CONFIG"):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "ttc" / "config.toml"


def read_settings(**overrides: Any) -> Settings:  # Any: values of several types; pydantic checks them
    """The configuration as it stands now.

    Raises:
        InvalidRequest: A value cannot be used; names the variable or key and the value.
    """
    path = config_path()
    if os.environ.get("TTC_CONFIG") and not path.is_file():
        raise InvalidRequest(f"TTC_CONFIG={str(path)!r} is not a file", field="TTC_CONFIG", value=str(path))
    try:
        if path.is_file():
            _refuse_unknown_keys(path)
        return Settings(**overrides)
    except ValidationError as error:
        problem = error.errors()[0]
        parts = [str(part) for part in problem["loc"]]
        name = "TTC_" + "__".join(parts).upper()
        is_secret = "KEY" in name or name.endswith(("TOKEN", "STORE"))
        shown = "..." if is_secret else repr(problem.get("input"))
        reason = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            reason = "there is no such setting"
        raise InvalidRequest(
            f"setting {'.'.join(parts)} ({name}) = {shown} is not valid: {reason}", field=name
        ) from None
    except SettingsError as error:
        raise InvalidRequest(f"a TTC_ variable cannot be read: {error}", field="TTC_") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}", field="TTC_CONFIG", value=str(path)) from None


def _refuse_unknown_keys(path: Path) -> None:
    """A key of the file that is no setting is a slip of the pen; a variable may belong to another part of ``ttc``."""
    for key in tomllib.loads(path.read_text(encoding="utf-8")):
        if key not in Settings.model_fields:
            known = ", ".join(sorted(Settings.model_fields))
            raise InvalidRequest(f"{path} has no setting {key!r}; known: {known}", field=key)
