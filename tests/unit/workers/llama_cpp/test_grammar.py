"""What is refused before llama.cpp sees it."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.workers.llama_cpp.grammar import check_grammar

GOOD = r"""
root ::= "yes" | "no" | item{1,3} # a comment
item ::= [a-z0-9\]"] ("," ws [^\n"\\] )* .
ws ::= [ \t\x0A]?
"""


def test_a_sound_grammar_passes() -> None:
    check_grammar(GOOD, field="grammar")


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("", "no rule 'root'"),
        ('item ::= "a"', "no rule 'root'"),
        ('root ::= "a', "unexpected"),
        ("root ::= item", "'item' is not defined"),
        ('root ::= ("a"', "not closed"),
        ('root ::= "a")', "do not match"),
        ("root ::= *", "nothing before"),
        ('root ::= "a"{1,99999}', "more than 1000 repetitions"),
        ('"a" root ::= "b"', "begins with its name"),
        ("root ::= " + "(" * 500 + '"a"' + ")" * 500, "too deeply"),
        ('root ::= "a"' + " " * 70_000, "longer than"),
        ("root ::= <think>", "unexpected"),
    ],
)
def test_what_is_no_grammar_is_refused_with_its_reason(grammar: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        check_grammar(grammar, field="grammar")
    assert caught.value.field == "grammar"
