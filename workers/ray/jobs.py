"""The job server of a Ray cluster, by HTTP: packages, jobs, their logs. What a job does is its caller's business.

This is the API behind ``ray job``, spoken to directly, so that a machine that only submits needs no Ray, and every
request has a time limit. The address is that of the dashboard, port 8265 unless it was started on another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from orchestrator.errors import InvalidRequest, JobConflict, MissingDependency, ServiceFailed, UnknownName

if TYPE_CHECKING:
    import aiohttp

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
RAY_VERSION = "2.60"
"""Major and minor version of the Ray that this distribution is made for; the extra ``ray`` pins the same."""
MAX_PACKAGE_BYTES = (100 << 20) - (1 << 16)
"""The job server reads request bodies of up to 100 MiB (``DASHBOARD_CLIENT_MAX_SIZE``)."""

_REQUEST_S = 30.0
_PAUSES_S = (0.2, 1.0)
_UPLOAD_S = 900.0
_MAX_REPLY_BYTES = 64 << 20
_MAX_LISTED = 20
_MAX_EXCERPT = 300
_OVER = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be.

    Attributes:
        id: Chosen by whoever submits it; no two jobs of a cluster have the same.
        entrypoint: Command line, for a shell in ``working_dir``.
        working_dir: What `RayJobs.upload` returned; None for no files.
        env: Variables of its process. The cluster keeps them, readable by whoever reads its jobs.
        metadata: Kept with the job.
        cpus: Cores set aside for its process; 0 runs it on the head.
        gpus: Accelerators set aside for its process.
    """

    id: str
    entrypoint: str
    working_dir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What the cluster says of a job.

    Attributes:
        id: Its own.
        status: ``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``.
        message: In Ray's words; of a failed job, with the end of its log.
        exit_code: Of its process; None while it runs, or if it was never seen to end.
        metadata: As submitted.
    """

    id: str
    status: str
    message: str
    exit_code: int | None
    metadata: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in _OVER


class RayJobs:
    """A cluster's job server. Use it as an async context manager.

    Args:
        address: ``http://HOST:PORT`` of the dashboard; ``http://`` may be left away.
        token: Sent with every request, for clusters with token authentication.

    Raises:
        InvalidRequest: The address cannot be one.
    """

    def __init__(self, address: str, *, token: str | None = None) -> None:
        self.address = _address(address)
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        try:
            import aiohttp
        except ImportError as error:
            raise MissingDependency(package="aiohttp", extra="ray", purpose="submitting to a cluster") from error
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S, sock_connect=10.0)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def check(self) -> str:
        """The cluster's version of Ray.

        Raises:
            ServiceFailed: No job server answers there, or one of another minor version.
        """
        reply = await self._json("GET", "/api/version")
        version = str(reply.get("ray_version", ""))
        if not version:
            raise self._foreign(200, json.dumps(reply))
        if not f"{version}.".startswith(f"{RAY_VERSION}."):
            raise ServiceFailed(
                f"the cluster at {self.address} runs Ray {version}, and this ttc is made for Ray {RAY_VERSION}; start "
                f"the cluster with ray=={RAY_VERSION}.*, or install the ttc-orchestrator that its nodes have",
                is_retryable=False,
            )
        return version

    async def upload(self, package: bytes) -> str:
        """Sends a zip archive, unless the cluster has it; jobs get its files as their working directory.

        Returns:
            Its name, for `NewJob.working_dir`.

        Raises:
            InvalidRequest: It is larger than the job server takes.
            ServiceFailed: It could not be sent.
        """
        if len(package) > MAX_PACKAGE_BYTES:
            raise InvalidRequest(
                f"the files of the job take {len(package) / (1 << 20):,.0f} MiB compressed, and a job server takes at "
                f"most {MAX_PACKAGE_BYTES / (1 << 20):,.0f}; put the problems where the cluster's machines can read "
                "them (shared storage) and add --in-place, or split the file",
                field="file",
            )
        name = f"_ray_pkg_{hashlib.sha256(package).hexdigest()[:40]}.zip"
        path = f"/api/packages/gcs/{name}"
        async with self._reply("GET", path) as reply:
            is_there = reply.status == 200
        if not is_there:
            async with self._reply("PUT", path, data=package, total_s=_UPLOAD_S) as reply:
                if reply.status != 200:
                    raise self._refused("the files of the job were", reply.status, await _excerpt(reply))
        return f"gcs://{name}"

    async def submit(self, job: NewJob) -> None:
        """Starts a job; with an id that the cluster has already, nothing is started.

        Raises:
            JobConflict: The cluster has a job of that id.
            ServiceFailed: It was not taken; `is_retryable` says whether it is known not to have been.
        """
        body: Json = {
            "entrypoint": job.entrypoint,
            "submission_id": job.id,
            "runtime_env": {"env_vars": dict(job.env)}
            | ({} if job.working_dir is None else {"working_dir": job.working_dir}),
            "metadata": dict(job.metadata),
        }
        if job.cpus:
            body["entrypoint_num_cpus"] = job.cpus
        if job.gpus:
            body["entrypoint_num_gpus"] = job.gpus
        async with self._reply("POST", "/api/jobs/", json=body) as reply:
            if reply.status == 200:
                return
            reason = await _excerpt(reply)
        if "already exists" in reason:
            raise JobConflict(f"the cluster has a job {job.id!r} already", job_id=job.id)
        raise self._refused("the job was", reply.status, reason)

    async def state(self, job_id: str) -> JobState:
        """What the cluster says of a job.

        Raises:
            UnknownName: It has no such job.
            ServiceFailed: It cannot be asked.
        """
        found = await self._json("GET", f"/api/jobs/{quote(job_id, safe='')}", job_id=job_id)
        return JobState(
            id=str(found.get("submission_id") or job_id),
            status=str(found.get("status")),
            message=str(found.get("message") or ""),
            exit_code=found.get("driver_exit_code"),
            metadata=found.get("metadata") or {},
        )

    async def stop(self, job_id: str) -> bool:
        """Asks a job to end: SIGTERM, and SIGKILL some seconds later.

        Returns:
            Whether it was running.

        Raises:
            UnknownName: There is no such job.
            ServiceFailed: It cannot be asked.
        """
        reply = await self._json("POST", f"/api/jobs/{quote(job_id, safe='')}/stop", job_id=job_id)
        return bool(reply.get("stopped"))

    async def log(self, job_id: str) -> AsyncIterator[str]:
        """What a job writes to its output, from its beginning, as it comes, until it has ended; pieces of any length.

        It waits for output without a limit: whoever reads asks `state` meanwhile.

        Raises:
            ServiceFailed: The connection was lost; the same call begins anew.
        """
        import aiohttp

        path = f"/api/jobs/{quote(job_id, safe='')}/logs/tail"
        try:
            async with self._open.ws_connect(
                self.address + path,
                max_msg_size=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=5.0),
            ) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        yield message.data
                    elif message.type is aiohttp.WSMsgType.ERROR:
                        break
                if socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                    raise ServiceFailed(f"the log of job {job_id!r} broke off")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._lost(error) from error

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use it as an async context manager"
        return self._session

    @asynccontextmanager
    async def _reply(
        self, method: str, path: str, *, total_s: float = _REQUEST_S, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # Any: of aiohttp
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=10.0)
        try:
            async with await self._sent(method, self.address + path, timeout=timeout, **options) as reply:
                if reply.status in {401, 403}:
                    raise ServiceFailed(
                        f"the cluster at {self.address} wants a token that it knows; set RAY_AUTH_TOKEN, or "
                        "RAY_AUTH_TOKEN_PATH to a file that holds it",
                        status=reply.status,
                        is_retryable=False,
                    )
                yield reply
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._lost(error) from error

    async def _sent(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:  # Any: of aiohttp
        """The beginning of an answer. A connection that the server closes instead is made anew: every request may be
        sent twice, since jobs and packages have names of their own.
        """
        import aiohttp

        for pause_s in (*_PAUSES_S, None):
            try:
                return await self._open.request(method, url, allow_redirects=False, **options)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _json(self, method: str, path: str, *, job_id: str | None = None) -> Json:
        async with self._reply(method, path) as reply:
            text = await _text(reply)
        if reply.status == 404 and job_id is not None:
            raise UnknownName(kind="job", name=job_id, known=await self._job_ids())
        if reply.status == 500 and job_id is not None:
            raise self._refused("the question was", reply.status, _last_line(text))
        found = _parsed(text) if reply.status == 200 else None
        if not isinstance(found, dict):
            raise self._foreign(reply.status, text)
        return found

    async def _job_ids(self) -> list[str]:
        """Jobs that were submitted, the newest last; a few of many."""
        async with self._reply("GET", "/api/jobs/") as reply:
            found = _parsed(await _text(reply))
        jobs = [job for job in found if isinstance(job, dict)] if isinstance(found, list) else []
        jobs.sort(key=lambda job: job.get("start_time") or 0)
        return [str(job["submission_id"]) for job in jobs if job.get("submission_id")][-_MAX_LISTED:]

    def _lost(self, error: BaseException) -> ServiceFailed:
        import aiohttp

        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
            reason = "it does not speak HTTP"
        elif isinstance(error, TimeoutError):
            reason = "no answer in time"
        else:
            found = getattr(error, "os_error", None) or error
            reason = getattr(found, "strerror", None) or str(found) or type(found).__name__
        return ServiceFailed(
            f"no Ray job server answers at {self.address} ({_line(reason)}); is the cluster up, and is that the "
            "address of its dashboard (port 8265 unless it says otherwise)?"
        )

    def _foreign(self, status: int, text: str) -> ServiceFailed:
        return ServiceFailed(
            f"what answers at {self.address} is no Ray job server (status {status}: {_line(text)!r}); give the address "
            "of the cluster's dashboard, for instance http://HEAD:8265",
            status=status,
            is_retryable=False,
        )

    def _refused(self, what: str, status: int, reason: str) -> ServiceFailed:
        return ServiceFailed(f"{what} refused by the cluster at {self.address}: {reason}", status=status)


def _address(given: str) -> str:
    text = given.strip()
    text = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise InvalidRequest(
            f"cannot use the address {given!r}; give that of the cluster's dashboard, for instance http://HEAD:8265",
            field="address",
            value=given,
        )
    return text


async def _excerpt(reply: aiohttp.ClientResponse) -> str:
    """Why a server refused."""
    return _last_line(await _text(reply)) or f"status {reply.status}"


async def _text(reply: aiohttp.ClientResponse) -> str:
    """The body, as far as it is read."""
    parts, length = [], 0
    async for part in reply.content.iter_chunked(1 << 16):
        parts.append(part)
        length += len(part)
        if length > _MAX_REPLY_BYTES:
            break
    return b"".join(parts).decode(errors="replace")


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _last_line(text: str) -> str:
    """What an answer with a stack trace comes to: its last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return _line(lines[-1]) if lines else ""


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_EXCERPT else f"{line[:_MAX_EXCERPT]}..."
