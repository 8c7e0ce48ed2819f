"""Whether the data of a store agrees with itself."""

from __future__ import annotations

import redis

from orchestrator.stores.redis.address import RedisAddress
from orchestrator.stores.redis.failures import failure
from orchestrator.stores.redis.keys import Keys
from orchestrator.stores.redis.scripts import Scripts

_MOST_SHOWN = 3


def check_integrity(address: RedisAddress) -> None:
    """Looks at every job, one at a time, so that a store in use can be checked. Blocks.

    Raises:
        AssertionError: A journal has gaps, an index contradicts a record, or the server cannot be asked.
    """
    client = address.blocking_client()
    try:
        problems = _problems(client, Keys(address.prefix))
    except (redis.RedisError, OSError) as error:
        raise AssertionError(str(failure(error, address.shown))) from error
    finally:
        client.close()
    assert not problems, f"{address.shown}: {'; '.join(problems)}"


def _problems(client: redis.Redis, keys: Keys) -> list[str]:
    text = Scripts()["check"].text.decode()
    problems: list[str] = []
    for job_id in _ids(client, keys):
        problem = client.eval(text, 1, keys.root, "0", job_id)
        if problem:
            problems.append(f"job {job_id.decode()!r}: {problem.decode()}")
        if len(problems) >= _MOST_SHOWN:
            break
    return problems


def _ids(client: redis.Redis, keys: Keys) -> set[bytes]:
    """Of all jobs that have a record, a journal or an entry in an index."""
    found: set[bytes] = set()
    for beginning in (keys.job(""), keys.rows("")):
        start = beginning.encode()
        found.update(key[len(start) :] for key in client.scan_iter(match=start + b"*", count=1000))
    for index in (f"{keys.root}all", f"{keys.root}held"):
        found.update(member for member, _ in client.zscan_iter(index, count=1000))
    return found
