"""Checks of what a policy yields and returns, before anything is made of it: policies are the user's code."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from orchestrator.actions import Action, Answer, CallTool, Conclude, Expand, Start
from orchestrator.errors import PolicyFailed
from orchestrator.journal import Json, encode_action
from orchestrator.tree import Node


def checked_encoding(action: Action) -> Json:
    """The action as the journal holds it.

    Raises:
        PolicyFailed: It is not made of what it should be.
    """
    try:
        encoded = encode_action(action)
        json.dumps(encoded, allow_nan=False)
    except Exception as error:
        raise PolicyFailed(
            f"the policy yielded a {type(action).__name__} that is not made of what it should be: {error!r}"
        ) from error
    return encoded


def check_expand(action: Expand) -> None:
    """Checks what the types cannot say.

    Raises:
        PolicyFailed: It asks for something that cannot be.
    """
    counts = action.counts()
    if len(counts) != len(action.nodes):
        raise PolicyFailed(f"Expand has {len(action.nodes)} nodes and {len(counts)} sample counts")
    if any(count < 0 for count in counts):
        raise PolicyFailed(f"Expand asks for a negative number of samples: {counts}")
    if not all(isinstance(stop, str) and stop for stop in action.stop):
        raise PolicyFailed(f"Expand needs stop strings that are not empty, not {action.stop!r}")
    if action.max_tokens is not None and action.max_tokens < 1:
        raise PolicyFailed(f"Expand needs max_tokens of at least 1, not {action.max_tokens}")


def extended_by(action: Action) -> Sequence[Node]:
    """The nodes that the action adds children to."""
    match action:
        case Expand(nodes) | Start(Expand(nodes)):
            return nodes
        case Conclude(node) | CallTool(node):
            return (node,)
    return ()


def check_answer(answer: Answer) -> Answer:
    """The answer itself.

    Raises:
        PolicyFailed: It is not made of what `Answer` says.
    """
    if not isinstance(answer, Answer):
        raise PolicyFailed(f"{answer!r:.100} is not an Answer")
    if answer.text is not None and not isinstance(answer.text, str):
        raise PolicyFailed(f"an answer's text must be a string, not {type(answer.text).__name__}")
    if answer.node is not None and not isinstance(answer.node, Node):
        raise PolicyFailed(f"an answer's node must be a Node, not {type(answer.node).__name__}")
    if answer.confidence is not None and not (_is_number(answer.confidence) and 0 <= answer.confidence <= 1):
        raise PolicyFailed(f"an answer's confidence must be from 0 to 1, not {answer.confidence!r}")
    for pair in answer.alternatives:
        is_pair = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and _is_number(pair[1])
        if not is_pair:
            raise PolicyFailed(f"an answer's alternatives must be pairs of a text and a number, not {pair!r:.100}")
    return answer


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
