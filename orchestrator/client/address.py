"""Where the service is and who calls: from arguments, or from ``TTC_BASE_URL`` and ``TTC_API_KEY``."""

from __future__ import annotations

import functools
import os
import ssl
from dataclasses import dataclass, field
from importlib.metadata import version

import httpx

from orchestrator.errors import InvalidRequest

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
"""Where ``ttc serve`` listens unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A service, and the key that is shown to it and to nobody else.

    Attributes:
        base_url: Without a path of the interface: ``https://host:port`` or with the prefix of a proxy.
        api_key: None for a service without keys.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, base_url: str | None, api_key: str | None) -> Address:
        """The arguments where they are given, else the variables, else this machine without a key.

        Raises:
            InvalidRequest: The address or the key cannot be used.
        """
        given = base_url or os.environ.get("TTC_BASE_URL") or DEFAULT_BASE_URL
        key = (api_key if api_key is not None else os.environ.get("TTC_API_KEY", "")).strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise InvalidRequest("the API key holds characters that no key of the service has", field="api_key")
        return cls(base_url=_checked(given), api_key=key or None)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {"user-agent": f"ttc-orchestrator/{version('ttc-orchestrator')}"}
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        return headers


@functools.cache
def tls() -> ssl.SSLContext:
    """What all clients of this process trust; reading the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context()


def _checked(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError):
        raise InvalidRequest(f"base_url {text!r} is not an address", field="base_url", value=text) from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise InvalidRequest(f"base_url must be like http://127.0.0.1:8000, not {text!r}", field="base_url", value=text)
    if url.userinfo or url.query or url.fragment:
        raise InvalidRequest("base_url must hold neither a name nor a query; pass the key as api_key", field="base_url")
    return str(url).rstrip("/").removesuffix("/v1")
