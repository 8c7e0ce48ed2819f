"""``fleet.toml``: which models there are, who plays which role, how many replicas of each, on what, at which price.

Pure data, checked as it is read: nothing is opened here and nothing of Ray is imported. One file serves a laptop (no
``[cluster]``: every model is opened in this process), a machine with accelerators, and a cluster. What the file means
for opening models is `orchestrator.fleet_file.opening`'s business; what fits where, ``ttc fleet check``'s.

.. code-block:: toml

    [models.small]
    model = "vllm:Qwen/Qwen2.5-1.5B-Instruct"
    roles = ["small"]
    replicas = { min = 1, max = 4 }
    accelerator = { kind = "A10G", gpus = 1 }

    [cluster]
    ray = "auto"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from orchestrator.cost import TokenPrices
from orchestrator.fleet import ROLES
from orchestrator.fleet_file.secrets import refuse_secrets

MAX_REPLICAS = 10_000
MIN_GPU_SHARE = 0.0001
"""The smallest share of an accelerator that Ray can set aside."""
LOCAL = "local"
"""``cluster.ray`` of a cluster that ``ttc fleet up`` starts on this machine."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}\Z")
_SECONDS_PER_HOUR = 3600


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Replicas(_Part):
    """How many copies of a model run; written as a number, or as ``{ min = 1, max = 4 }``.

    Attributes:
        min: Always there; 0 for a model that is loaded when it is asked for.
        max: Most at once; as many as `min` if it is left out.
    """

    min: int = Field(1, ge=0, le=MAX_REPLICAS)
    max: int = Field(1, ge=1, le=MAX_REPLICAS)

    @model_validator(mode="before")
    @classmethod
    def _of_number(cls, given: object) -> object:
        if isinstance(given, int) and not isinstance(given, bool):
            return {"min": given, "max": given}
        if isinstance(given, Mapping) and "max" not in given and isinstance(given.get("min"), int):
            return {**given, "max": max(given["min"], 1)}
        return given

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max = {self.max} is less than min = {self.min}")
        return self

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to scale."""
        return self.min == self.max


class Accelerator(_Part):
    """What one replica computes on.

    Attributes:
        kind: Type of accelerator as Ray calls it (``A10G``, ``L4``, ``H100``); None for any.
        gpus: How many for one replica: 0 for none, a share of one such as 0.3, or a whole number.
        memory_gib: Memory of one whole accelerator in GiB; None for what is known of its kind.
    """

    kind: str | None = Field(None, min_length=1, max_length=64)
    gpus: float = Field(0.0, ge=0, le=64)
    memory_gib: float | None = Field(None, gt=0, le=4096)

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus = {self.gpus:g} must be a whole number or a share of one, for instance 0.5")
        if 0 < self.gpus < MIN_GPU_SHARE:
            raise ValueError(f"gpus = {self.gpus:g} is less than the smallest share, {MIN_GPU_SHARE}")
        if self.kind is not None and self.gpus == 0:
            raise ValueError("kind is given but gpus is 0; say how many, for instance gpus = 1")
        return self

    @property
    def is_shared(self) -> bool:
        """Whether a replica takes less than one accelerator."""
        return 0 < self.gpus < 1


class Autoscale(_Part):
    """When replicas are added and taken away, between ``replicas.min`` and ``replicas.max``.

    Attributes:
        target_ongoing: Requests under way that one replica is meant to have; None for half of ``max_ongoing``.
        upscale_delay_s: Load has to be above the target for so long before a replica is added.
        downscale_delay_s: Load has to be below the target for so long before a replica goes.
        look_back_s: Load is averaged over so long.
    """

    target_ongoing: float | None = Field(None, gt=0, le=100_000)
    upscale_delay_s: float = Field(30.0, ge=0, le=86_400)
    downscale_delay_s: float = Field(600.0, ge=0, le=86_400)
    look_back_s: float = Field(30.0, gt=0, le=3600)


class Prices(_Part):
    """What a model costs: by the token, or by the accelerator's hour.

    With `accelerator_hour_usd`, tokens get a price only if it is known how many a replica makes in a second (measured,
    or from ``ttc plan``): dollars per hour x accelerators / tokens per hour.

    Attributes:
        prompt_usd: Dollars per million prompt tokens.
        output_usd: Dollars per million output tokens.
        cached_prompt_usd: Dollars per million prompt tokens that were cached; None for the same as others.
        accelerator_hour_usd: Dollars per accelerator and hour, instead.
        prompt_tokens_per_s: What one busy replica reads in a second, all requests together.
        output_tokens_per_s: What one busy replica writes in a second, all requests together.
    """

    prompt_usd: float | None = Field(None, ge=0, le=1e6)
    output_usd: float | None = Field(None, ge=0, le=1e6)
    cached_prompt_usd: float | None = Field(None, ge=0, le=1e6)
    accelerator_hour_usd: float | None = Field(None, ge=0, le=1e6)
    prompt_tokens_per_s: float | None = Field(None, gt=0)
    output_tokens_per_s: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_token = [
            name for name in ("prompt_usd", "output_usd", "cached_prompt_usd") if getattr(self, name) is not None
        ]
        if self.accelerator_hour_usd is not None and by_token:
            raise ValueError(f"{by_token[0]} and accelerator_hour_usd are two prices for the same; leave one away")
        return self

    def per_token(self, *, gpus: float) -> TokenPrices | None:
        """Prices of tokens, as jobs are charged; None where they are not known.

        Args:
            gpus: Accelerators of one replica.
        """
        if self.accelerator_hour_usd is None:
            if self.prompt_usd is None and self.output_usd is None:
                return None
            return TokenPrices(
                prompt_usd=self.prompt_usd or 0.0,
                output_usd=self.output_usd or 0.0,
                cached_prompt_usd=self.cached_prompt_usd,
            )
        if self.output_tokens_per_s is None:
            return None
        usd_per_second = self.accelerator_hour_usd * gpus / _SECONDS_PER_HOUR
        prompt = 0.0 if self.prompt_tokens_per_s is None else usd_per_second / self.prompt_tokens_per_s * 1e6
        return TokenPrices(prompt_usd=prompt, output_usd=usd_per_second / self.output_tokens_per_s * 1e6)


class ModelEntry(_Part):
    """One model of the fleet.

    Attributes:
        model: What ``--model`` takes: a catalogue name, a GGUF file, or ``ENGINE:TARGET``.
        roles: What it is used for: small, large, draft, target, verifier, embedder. Jobs may always name it, too.
        replicas: How many; a fleet without a cluster opens each model once.
        engine: Arguments of the engine, by the names of its settings (``max_sequences``, ``context_cells``, ...). A
            text may name variables of the environment, ``${NAME}``; they are read where the model is opened, so that
            a secret is neither in the file nor in what the cluster keeps of it.
        accelerator: What one replica computes on.
        cpus: Processor cores that one replica is given on a cluster.
        max_ongoing: Requests that one replica works on at once; others wait.
        max_queued: Requests that may wait in one process for a replica; None for any number.
        prices: What it costs.
        placed_with: ``with`` in the file: another model of this file, in whose place this one is to run (the draft
            with its target): replica by replica on the same node, and on the same accelerator if both take a share.
        autoscale: When replicas come and go; the defaults if ``replicas`` leaves room for it.
        affinity: How calls of one tree keep to one replica of a cluster, by the names of the router's settings
            (``is_on``, ``abs_threshold``, ``rel_threshold``, ...); its defaults for what is left out.
        start_timeout_s: Loading it may take so long.
    """

    model: str = Field(min_length=1, max_length=2000)
    roles: tuple[str, ...] = ()
    replicas: Replicas = Replicas()
    engine: dict[str, Any] = Field(default_factory=dict)  # Any: checked by the engine's settings, which know its types
    accelerator: Accelerator = Accelerator()
    cpus: float = Field(1.0, ge=0, le=4096)
    max_ongoing: int = Field(64, ge=1, le=100_000)
    max_queued: int | None = Field(None, ge=0)
    prices: Prices = Prices()
    placed_with: str | None = Field(None, alias="with")
    autoscale: Autoscale | None = None
    affinity: dict[str, bool | int | float] = Field(default_factory=dict)
    start_timeout_s: float = Field(600.0, gt=0, le=86_400)

    @field_validator("model")
    @classmethod
    def _stripped(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is empty; write a catalogue name, a GGUF file, or ENGINE:TARGET (ttc models list)")
        refuse_secrets(value)
        return value.strip()

    @field_validator("engine")
    @classmethod
    def _without_secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        refuse_secrets(value)
        return value

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for role in value:
            if role not in ROLES:
                raise ValueError(f"there is no role {role!r}; known: {', '.join(ROLES)}")
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _scalable(self) -> Self:
        if self.autoscale is not None and self.replicas.is_fixed:
            raise ValueError(
                f"autoscale has nothing to do while replicas.min = replicas.max = {self.replicas.min}; raise max"
            )
        return self


class NodeEntry(_Part):
    """A kind of node that the cluster has or may start, for checking and planning before it is there.

    Attributes:
        cpus: Processor cores of one.
        memory_gib: Main memory of one.
        accelerator: Accelerators of one: kind, how many (``gpus``), memory of each.
        min: How many are always there.
        max: How many there may be; as many as `min` if it is left out.
        hour_usd: Dollars per hour of one.
    """

    cpus: float = Field(gt=0, le=4096)
    memory_gib: float | None = Field(None, gt=0)
    accelerator: Accelerator = Accelerator()
    min: int = Field(1, ge=0, le=100_000)
    max: int = Field(1, ge=1, le=100_000)
    hour_usd: float | None = Field(None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _max_of_min(cls, given: object) -> object:
        if isinstance(given, Mapping) and "max" not in given and isinstance(given.get("min"), int):
            return {**given, "max": max(given["min"], 1)}
        return given

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max = {self.max} is less than min = {self.min}")
        return self


class ClusterEntry(_Part):
    """Where the models run.

    Attributes:
        ray: Empty for no cluster: models are opened in the process that uses them. ``local``: a Ray of this machine,
            started by ``ttc fleet up``. ``auto``: the Ray that runs on this machine. ``HOST:PORT``: a Ray that this
            machine is a node of.
        namespace: Tells the fleets of a cluster apart; letters, digits, '_' and '-'.
        cpus: Cores of a local Ray; None for those of the machine.
        gpus: Accelerators of a local Ray; None for those of the machine.
        object_store_mib: Shared memory of a local Ray, in MiB.
        dashboard_port: Where a local Ray shows its dashboard and takes jobs, on this machine; None for nowhere.
        nodes: Kinds of nodes, by name; None is needed to start, ``ttc fleet check`` counts with them.
    """

    ray: str = Field("", max_length=500)
    namespace: str = Field("ttc", min_length=1, pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
    cpus: int | None = Field(None, ge=1, le=4096)
    gpus: int | None = Field(None, ge=0, le=1024)
    object_store_mib: int = Field(200, ge=80, le=1 << 20)
    dashboard_port: int | None = Field(None, ge=1, le=65535)
    nodes: dict[str, NodeEntry] = Field(default_factory=dict)

    @field_validator("ray")
    @classmethod
    def _address(cls, value: str) -> str:
        refuse_secrets(value)
        if value not in {"", LOCAL, "auto"} and not _ADDRESS.match(value):
            way = "write local, auto or HOST:PORT, or leave it empty for no cluster"
            if value.startswith("ray://"):
                way = (
                    "Ray's client server does not carry replies that stream; make this machine a node of the cluster "
                    "(ray start --address=HOST:PORT --num-cpus=0) and write that, or submit jobs to it (ttc submit)"
                )
            raise ValueError(way)
        return value


class FleetFile(_Part):
    """A fleet, as its file describes it.

    Attributes:
        models: By name.
        cluster: Where they run.
    """

    models: dict[str, ModelEntry] = Field(min_length=1)
    cluster: ClusterEntry = ClusterEntry()
    _path: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, entry in self.models.items():
            if not _NAME.match(name):
                raise ValueError(f"models.{name}: a name has letters, digits, '.', '_' and '-', 63 at most")
            _check_company(name, entry, self.models)
        taken: dict[str, str] = {}
        for name, entry in self.models.items():
            for role in entry.roles:
                if role in taken:
                    raise ValueError(f"models.{name}.roles: role {role!r} is models.{taken[role]}'s already")
                taken[role] = name
        return self

    @property
    def path(self) -> Path | None:
        """The file; None for a fleet that was made in Python."""
        return self._path

    @property
    def shown_path(self) -> str:
        """The file's name for messages."""
        return "the fleet" if self._path is None else str(self._path)

    @property
    def has_cluster(self) -> bool:
        """Whether Ray hosts the models."""
        return bool(self.cluster.ray)

    @property
    def roles(self) -> dict[str, str]:
        """Role to model, without stand-ins; the only model of a fleet is ``small`` if it names no role."""
        named = {role: name for name, entry in self.models.items() for role in entry.roles}
        if not named and len(self.models) == 1:
            return {"small": next(iter(self.models))}
        return named

    def opened_by(self, opener: Callable[[str], str]) -> FleetFile:
        """The fleet with each model opened by another text; one on a cluster stays as it is.

        Args:
            opener: From a model's text to the one to open instead.
        """
        if self.has_cluster:
            return self
        models = {name: entry.model_copy(update={"model": opener(entry.model)}) for name, entry in self.models.items()}
        return self.model_copy(update={"models": models})

    def company_of(self, name: str) -> tuple[str, ...]:
        """Models that are to run in the place of model ``name``, in the file's order."""
        return tuple(other for other, entry in self.models.items() if entry.placed_with == name)


def _check_company(name: str, entry: ModelEntry, models: Mapping[str, ModelEntry]) -> None:
    """A model is placed with one of this file that is not itself placed with another, in as many replicas."""
    if (host := entry.placed_with) is None:
        return
    if host == name or host not in models:
        others = ", ".join(sorted(set(models) - {name})) or "none"
        raise ValueError(f"models.{name}.with = {host!r} is no other model of this file; others: {others}")
    if models[host].placed_with is not None:
        raise ValueError(f"models.{name}.with = {host!r}: that one is placed with another itself; name the other")
    if entry.replicas != models[host].replicas:
        raise ValueError(
            f"models.{name}.with = {host!r}: both run replica by replica, so give both the same replicas, "
            f"not {_range(entry.replicas)} and {_range(models[host].replicas)}"
        )


def _range(replicas: Replicas) -> str:
    return str(replicas.min) if replicas.is_fixed else f"{replicas.min} to {replicas.max}"
