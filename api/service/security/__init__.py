"""Who may call the service, and how much: keys, limits, and what is refused before an endpoint sees it."""

from orchestrator.api.service.security.gate import Gate
from orchestrator.api.service.security.principal import KeyLimits, Principal

__all__ = ["Gate", "KeyLimits", "Principal"]
