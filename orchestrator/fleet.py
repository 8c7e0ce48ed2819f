"""The models a job may use, by role and by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.engine import Engine
from orchestrator.errors import InvalidRequest, UnknownName

ROLES = ("small", "large", "draft", "target", "verifier", "embedder")

_STAND_INS = {"verifier": ("large", "small"), "embedder": ("small",), "target": ("large",), "draft": ("small",)}
"""Roles that another model can play when none was assigned; ``large`` has no stand-in, since asking for it means
wanting something better than ``small``."""


class Fleet:
    """Engines by model name, and which model plays which role.

    Args:
        engines: By model name.
        roles: Role to model name; with a single engine, it plays ``small``.
    """

    def __init__(self, engines: Mapping[str, Engine], roles: Mapping[str, str] | None = None) -> None:
        if not engines:
            raise InvalidRequest("a fleet needs at least one model", field="model")
        self._engines = dict(engines)
        self._roles = dict(roles or {"small": next(iter(engines))})
        for role, name in self._roles.items():
            if role not in ROLES:
                raise UnknownName(kind="role", name=role, known=ROLES)
            if name not in self._engines:
                raise UnknownName(kind="model", name=name, known=self._engines)

    @classmethod
    def of(cls, **roles: Engine) -> Fleet:
        """A fleet from one engine per role, for instance ``Fleet.of(small=engine)``."""
        named = {role: engine.describe().name for role, engine in roles.items()}
        if len(set(named.values())) < len({id(engine) for engine in roles.values()}):
            named = {role: f"{name}@{role}" for role, name in named.items()}
        return cls({named[role]: engine for role, engine in roles.items()}, named)

    @property
    def roles(self) -> frozenset[str]:
        """Roles that a model of this fleet can play, stand-ins included."""
        return frozenset(role for role in ROLES if self._model_of(role) is not None)

    @property
    def models(self) -> Mapping[str, Engine]:
        """Engines by model name."""
        return self._engines

    def __iter__(self) -> Iterator[Engine]:
        seen = {id(engine): engine for engine in self._engines.values()}
        return iter(seen.values())

    def resolve(self, role_or_model: str) -> tuple[str, Engine]:
        """The model's name and engine.

        Raises:
            UnknownName: No model of this fleet has that role or name.
        """
        name = self._model_of(role_or_model) or role_or_model
        if name not in self._engines:
            hint = "pass one with --large or large=..." if role_or_model == "large" else ""
            known = [*self._engines, *self.roles]
            raise UnknownName(kind="model or role", name=role_or_model, known=known, hint=hint)
        return name, self._engines[name]

    def _model_of(self, role: str) -> str | None:
        for candidate in (role, *_STAND_INS.get(role, ())):
            if candidate in self._roles:
                return self._roles[candidate]
        return None

    async def aclose(self) -> None:
        """Closes every engine once."""
        for engine in self:
            await engine.aclose()
