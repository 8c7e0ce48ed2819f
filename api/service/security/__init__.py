"""Who may call the service, and how much: keys, limits, and (in `door`, which needs the web framework) what is refused
before an endpoint sees it.
"""

from orchestrator.api.service.security.gate import Gate, is_loopback, must_stay_on_loopback
from orchestrator.api.service.security.keys import KeyBook, KeyRecord, NewKey
from orchestrator.api.service.security.payments import Priced, priced
from orchestrator.api.service.security.principal import KeyLimits, Principal

__all__ = [
    "Gate",
    "KeyBook",
    "KeyLimits",
    "KeyRecord",
    "NewKey",
    "Priced",
    "Principal",
    "is_loopback",
    "must_stay_on_loopback",
    "priced",
]
