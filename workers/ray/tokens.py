"""The token of clusters with token authentication."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import InvalidRequest


def token_of(env: Mapping[str, str]) -> str | None:
    """The token for clusters with token authentication, as Ray's own commands find it; None if there is none.

    Args:
        env: ``RAY_AUTH_TOKEN``, else the file ``RAY_AUTH_TOKEN_PATH``; with ``RAY_AUTH_MODE=token`` also
            ``~/.ray/auth_token``.

    Raises:
        InvalidRequest: The file that is named cannot be read.
    """
    if env.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if token := env.get("RAY_AUTH_TOKEN", "").strip():
        return token
    if named := env.get("RAY_AUTH_TOKEN_PATH"):
        try:
            return Path(named).expanduser().read_text(encoding="utf-8").strip() or None
        except (OSError, ValueError) as error:
            raise InvalidRequest(
                f"cannot read RAY_AUTH_TOKEN_PATH {named!r}: {error}", field="RAY_AUTH_TOKEN_PATH", value=named
            ) from error
    if env.get("RAY_AUTH_MODE", "").lower() == "token":
        try:
            return (Path.home() / ".ray" / "auth_token").read_text(encoding="utf-8").strip() or None
        except (OSError, ValueError):
            return None
    return None
