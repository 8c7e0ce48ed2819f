"""Test-time-compute orchestration: decides, per query, how much inference compute to spend, and on what.

from orchestrator import Budget, Orchestrator

async with Orchestrator(model="qwen2.5-coder-0.5b") as ttc:
    result = await ttc.solve("What is 17 * 23?", budget=Budget(max_output_tokens=2000))
"""

from orchestrator.actions import Answer
from orchestrator.budget import Amount, Budget
from orchestrator.engine import Message
from orchestrator.errors import BudgetExhausted, CallerError, RunFailure, TtcError
from orchestrator.events import Event
from orchestrator.in_process import Orchestrator, solve_sync
from orchestrator.job import JobSpec, Result, StopReason
from orchestrator.ledger import Ledger
from orchestrator.policy import Policy, PolicyContext, PolicyParams, Query, policy
from orchestrator.sampling import Sampling
from orchestrator.store import JobState
from orchestrator.tree import Node, Tree
from orchestrator.usage import Usage
from orchestrator.verifier import Candidate

__all__ = [
    "Amount",
    "Answer",
    "Budget",
    "BudgetExhausted",
    "CallerError",
    "Candidate",
    "Event",
    "JobSpec",
    "JobState",
    "Ledger",
    "Message",
    "Node",
    "Orchestrator",
    "Policy",
    "PolicyContext",
    "PolicyParams",
    "Query",
    "Result",
    "RunFailure",
    "Sampling",
    "StopReason",
    "Tree",
    "TtcError",
    "Usage",
    "policy",
    "solve_sync",
]
