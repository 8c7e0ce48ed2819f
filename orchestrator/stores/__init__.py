"""Where jobs and their journals are kept; the protocol is in `orchestrator.store`."""

from orchestrator.stores.identifiers import new_job_id
from orchestrator.stores.leases import new_owner
from orchestrator.stores.memory import MemoryStore
from orchestrator.stores.opening import default_store_path, open_store
from orchestrator.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "default_store_path", "new_job_id", "new_owner", "open_store"]
