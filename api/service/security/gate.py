"""The gate: turns a request's credentials into a `Principal`, or refuses it."""

from __future__ import annotations

from orchestrator.api.service.security.principal import Principal
from orchestrator.store import Store


class Gate:
    """Lets callers in.

    Args:
        store: Where the keys are.
        is_key_required: Refuse callers without a key even while there is none; set where the service can be
            reached from other machines.
    """

    def __init__(self, store: Store, *, is_key_required: bool = False) -> None:
        self._store = store
        self._is_key_required = is_key_required

    async def admit(self, authorization: str | None, *, is_reading: bool) -> Principal:
        """Who sent this ``Authorization`` header.

        Args:
            authorization: The header; None where there is none.
            is_reading: Whether the request changes nothing; those are counted in a bucket of their own.

        Raises:
            Unauthorized: There is no key, or it is not (or no longer) valid.
            TooManyRequests: The key's rate is used up.
        """
        raise NotImplementedError


async def must_stay_on_loopback(store: Store) -> bool:
    """Whether the service may only be reached from this machine: as long as there is no API key."""
    raise NotImplementedError
