"""Fetches a model file over HTTP: from a model hub or a plain address, continuing where an earlier attempt ended."""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, cast

from orchestrator.workers.catalogue.entries import HubSource, UrlSource
from orchestrator.workers.catalogue.partial import PartialFile
from orchestrator.workers.catalogue.progress import SourceFailed

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_MAX_IDLE_ATTEMPTS = 4  # in a row that bring no new byte
_USER_AGENT = "ttc-orchestrator"
_MOMENTARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class Response(Protocol):
    """What is used of a reply."""

    status: int
    headers: Mapping[str, str]

    def read(self, amount: int, /) -> bytes:
        """At most that many bytes; none at the end."""
        ...


UrlOpener = Callable[[urllib.request.Request, float], AbstractContextManager[Response]]
"""Sends a request with a time limit in seconds for every read."""


def open_url(request: urllib.request.Request, timeout_s: float) -> AbstractContextManager[Response]:
    """Through the standard library: honours proxies, follows redirects without the token."""
    opened = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310  # scheme checked by the caller
    return cast("AbstractContextManager[Response]", opened)


def address_of(source: HubSource | UrlSource) -> str:
    """Where the file is."""
    if isinstance(source, UrlSource):
        return source.url
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        raise SourceFailed(f"HF_ENDPOINT={endpoint!r} is not an http address")
    quoted = (urllib.parse.quote(part) for part in (source.repo, source.revision, source.file))
    return "{}/{}/resolve/{}/{}".format(endpoint, *quoted)


def download(
    source: HubSource | UrlSource,
    target: PartialFile,
    *,
    opener: UrlOpener = open_url,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Completes ``target``; asks only for the bytes it lacks, and again after interruptions.

    Raises:
        SourceFailed: No new byte in four attempts, or a reply that will not change.
    """
    address = address_of(source)
    token = os.environ.get("HF_TOKEN", "") if isinstance(source, HubSource) else ""
    idle_attempts = 0
    while not target.is_complete:
        before = target.length
        try:
            _continue(address, target, token=token, opener=opener)
            reason = f"the connection closed after {target.length:,} of {target.size_bytes:,} bytes"
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:
                target.truncate(0)
            elif error.code not in _MOMENTARY_STATUSES:
                raise SourceFailed(reason + _hint(error.code)) from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            reason = _reason(error)
            if _is_unknown_host(error):
                raise SourceFailed(reason) from error
        idle_attempts = 0 if target.length > before else idle_attempts + 1
        if idle_attempts >= _MAX_IDLE_ATTEMPTS:
            raise SourceFailed(reason)
        if idle_attempts:
            sleep(0.5 * 2**idle_attempts * random.uniform(0.5, 1.0))  # noqa: S311  # jitter


def _continue(address: str, target: PartialFile, *, token: str, opener: UrlOpener) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"})  # noqa: S310
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # stays with the hub's own host
    if target.length:
        request.add_header("Range", f"bytes={target.length}-")
    with opener(request, _TIMEOUT_S) as response:
        if target.length and _start_of(response) != target.length:
            target.truncate(0)  # the server sends the whole file
        offered = response.headers.get("Content-Length", "")
        if offered.isdigit() and target.length + int(offered) != target.size_bytes:
            raise SourceFailed(f"offers {target.length + int(offered):,} bytes where {target.size_bytes:,} are pinned")
        while chunk := response.read(_CHUNK_BYTES):
            target.append(chunk)


def _start_of(response: Response) -> int | None:
    if response.status != 206:
        return None
    matched = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(matched.group(1)) if matched else None


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no data for {_TIMEOUT_S:g} s"
    return f"no connection: {cause}"


def _is_unknown_host(error: Exception) -> bool:
    """Whether the name service answered that there is no such host, as it does without a network."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME


def _hint(status: int) -> str:
    if status in {401, 403}:
        return " (gated models need HF_TOKEN)"
    return ""
