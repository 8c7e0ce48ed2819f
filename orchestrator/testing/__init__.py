"""Test doubles that ship with the library, and contract suites for those who write engines and stores.

The suites need pytest and are imported by their module: `orchestrator.testing.engine_contract`,
`orchestrator.testing.policy_contract`, `orchestrator.testing.store_contract` (which brings the suites of its parts).
"""

from orchestrator.testing.arithmetic import arithmetic
from orchestrator.testing.driver import PolicyDriver, Sampled
from orchestrator.testing.faults import Fault, FaultKind, FaultPlan, at_random, on_calls, on_seeds
from orchestrator.testing.scripted import ScriptedEngine
from orchestrator.testing.scripted_request import Latency
from orchestrator.testing.scripts import Reply, Script, as_script, babble, choices, constant, judge
from orchestrator.testing.vocabulary import ByteVocabulary, Vocabulary, WordVocabulary

__all__ = [
    "ByteVocabulary",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "Latency",
    "PolicyDriver",
    "Reply",
    "Sampled",
    "Script",
    "ScriptedEngine",
    "Vocabulary",
    "WordVocabulary",
    "arithmetic",
    "as_script",
    "at_random",
    "babble",
    "choices",
    "constant",
    "judge",
    "on_calls",
    "on_seeds",
]
