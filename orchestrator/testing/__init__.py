"""Test doubles that ship with the library, and contract suites for those who write engines and stores.

The suites need pytest and are imported by their module: `orchestrator.testing.engine_contract`,
`orchestrator.testing.store_contract`.
"""

from orchestrator.testing.arithmetic import arithmetic
from orchestrator.testing.faults import Fault, FaultKind, FaultPlan, at_random, on_calls, on_seeds
from orchestrator.testing.scripted import Latency, ScriptedEngine
from orchestrator.testing.scripts import Reply, Script, as_script, babble, choices, constant, judge
from orchestrator.testing.vocabulary import ByteVocabulary, Vocabulary, WordVocabulary

__all__ = [
    "ByteVocabulary",
    "Fault",
    "FaultKind",
    "FaultPlan",
    "Latency",
    "Reply",
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
