"""Jobs on a Redis server: the store that any number of processes on any number of machines share."""

from orchestrator.stores.redis.address import RedisAddress
from orchestrator.stores.redis.store import RedisStore

__all__ = ["RedisAddress", "RedisStore"]
