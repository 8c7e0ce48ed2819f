"""The GPUs that can be had: what they compute with, and what nodes with so many of them cost an hour.

Ours is `gpus.toml` beside this module; a file of the same form replaces it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.errors import InvalidRequest, UnknownName

_GIB = 1 << 30


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Offer(_Part):
    """A node that can be rented.

    Attributes:
        name: What the seller calls it, for instance an instance type.
        gpus: How many it has.
        cpus: Its processor cores.
        usd_per_hour: Its price.
        checked: Where the price was looked up.
    """

    name: str = Field(min_length=1, max_length=100)
    gpus: int = Field(ge=1, le=1024)
    cpus: int = Field(4, ge=1, le=4096)
    usd_per_hour: float = Field(gt=0, le=1e6)
    checked: str = ""


class GpuType(_Part):
    """A type of GPU.

    Attributes:
        kind: What Ray calls it (its resource ``accelerator_type:KIND``).
        memory_gib: Of one.
        bandwidth_gb_s: Of its memory, 10^9 bytes per second.
        fp16_tflops: Dense 16-bit tensor throughput, 10^12 operations per second.
        link_gb_s: To the other GPUs of its node, one direction, 10^9 bytes per second.
        offers: Nodes that have it.
        name: Its name in the catalogue.
    """

    kind: str = Field(min_length=1, max_length=64)
    memory_gib: float = Field(gt=0, le=4096)
    bandwidth_gb_s: float = Field(gt=0, le=1e6)
    fp16_tflops: float = Field(gt=0, le=1e6)
    link_gb_s: float = Field(32.0, gt=0, le=1e6)
    offers: tuple[Offer, ...] = Field(min_length=1)
    name: str = ""

    @property
    def memory_bytes(self) -> float:
        """Of one."""
        return self.memory_gib * _GIB

    @property
    def most_per_node(self) -> int:
        """GPUs of the largest node."""
        return max(offer.gpus for offer in self.offers)

    @property
    def usd_per_gpu_hour(self) -> float:
        """Of the node with the cheapest GPUs."""
        return min(offer.usd_per_hour / offer.gpus for offer in self.offers)


class Cloud(_Part):
    """What a cluster file is written for."""

    type: Literal["aws", "gcp", "azure"] = "aws"
    region: str = ""
    head: str = "m5.xlarge"
    head_cpus: int = Field(4, ge=1, le=4096)
    head_usd_per_hour: float = Field(0.0, ge=0)


class Catalogue(_Part):
    """All GPU types by name, and where their prices come from.

    Attributes:
        gpus: By name.
        source: Of the prices.
        date: Of the prices.
        currency: Of the prices; only dollars.
        cloud: Where the offers are from.
    """

    gpus: dict[str, GpuType] = Field(min_length=1)
    source: str = "not given"
    date: str = "not given"
    currency: str = Field("USD", pattern="^USD$")
    cloud: Cloud = Cloud()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:  # Any: TOML values, checked next
        if isinstance(given, Mapping) and isinstance(given.get("gpus"), Mapping):
            named = {
                name: {**gpu, "name": name} if isinstance(gpu, Mapping) else gpu for name, gpu in given["gpus"].items()
            }
            return {**given, "gpus": named}
        return given

    @classmethod
    def default(cls) -> Self:
        """Ours."""
        text = files("orchestrator.planning").joinpath("gpus.toml").read_text(encoding="utf-8")
        return cls.model_validate(tomllib.loads(text))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The catalogue in a TOML file.

        Raises:
            InvalidRequest: It cannot be read, or a field of it cannot be used; names the field.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidRequest(
                f"{str(path)!r}, {field}: {first['msg']}", field=field, value=first.get("input")
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidRequest(f"cannot read {str(path)!r}: {reason}", field="gpus", value=str(path)) from error

    def only(self, names: Collection[str]) -> Self:
        """The same with these types only.

        Raises:
            UnknownName: There is no such type.
        """
        for name in names:
            self.gpu(name)
        return self.model_copy(update={"gpus": {name: gpu for name, gpu in self.gpus.items() if name in names}})

    def gpu(self, name: str) -> GpuType:
        """The type of that name.

        Raises:
            UnknownName: There is none.
        """
        if name not in self.gpus:
            raise UnknownName(kind="GPU", name=name, known=self.gpus)
        return self.gpus[name]
