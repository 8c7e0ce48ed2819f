"""How to spend: one algorithm a file."""

from orchestrator.policies.adaptive_consistency import adaptive_consistency
from orchestrator.policies.self_consistency import self_consistency
from orchestrator.policies.single import single
from orchestrator.policies.voting import Votes, dirichlet_leader_probability, leader_probability

__all__ = [
    "Votes",
    "adaptive_consistency",
    "dirichlet_leader_probability",
    "leader_probability",
    "self_consistency",
    "single",
]
