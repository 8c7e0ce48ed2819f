"""How to spend: one algorithm a file."""

from orchestrator.policies.a_star import a_star
from orchestrator.policies.ab_mcts import ab_mcts
from orchestrator.policies.adaptive_consistency import adaptive_consistency
from orchestrator.policies.beam_search import beam_search
from orchestrator.policies.best_of_n import best_of_n
from orchestrator.policies.budget_forcing import budget_forcing
from orchestrator.policies.cascade import cascade
from orchestrator.policies.dvts import dvts
from orchestrator.policies.early_stopping import early_stopping, expected_samples
from orchestrator.policies.ets import ets
from orchestrator.policies.lookahead import lookahead
from orchestrator.policies.mcts import mcts
from orchestrator.policies.particle_filtering import particle_filtering
from orchestrator.policies.rebase import rebase
from orchestrator.policies.self_consistency import self_consistency
from orchestrator.policies.single import single
from orchestrator.policies.tree_of_thoughts import tree_of_thoughts
from orchestrator.policies.voting import Votes, dirichlet_leader_probability, leader_probability

__all__ = [
    "Votes",
    "a_star",
    "ab_mcts",
    "adaptive_consistency",
    "beam_search",
    "best_of_n",
    "budget_forcing",
    "cascade",
    "dirichlet_leader_probability",
    "dvts",
    "early_stopping",
    "ets",
    "expected_samples",
    "leader_probability",
    "lookahead",
    "mcts",
    "particle_filtering",
    "rebase",
    "self_consistency",
    "single",
    "tree_of_thoughts",
]
