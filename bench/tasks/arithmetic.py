"""Arithmetic as text: reading expressions into trees, and writing trees with brackets around every inner operation."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TypeAlias

Tree: TypeAlias = "int | tuple[str, Tree, Tree]"
"""A number, or an operation with its two operands."""

_MAX_CHARS = 500
_MAX_DEPTH = 60
_TOKEN = re.compile(r"\d{1,6}|[-+*/()]", re.ASCII)
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


def parse(text: str) -> Tree:
    """The tree of an expression of non-negative integers, ``+ - * /`` and brackets, read with the usual precedence.

    Raises:
        ValueError: It is none, or too long or too deep.
    """
    tokens = _TOKEN.findall(text)
    if len(text) > _MAX_CHARS or "".join(tokens) != text:
        raise ValueError(f"no arithmetic expression: {text[:80]!r}")
    tree, end = _expression(tokens, 0, 1, 0)
    if end != len(tokens):
        raise ValueError(f"no arithmetic expression: {text[:80]!r}")
    return tree


def _expression(tokens: list[str], start: int, level: int, depth: int) -> tuple[Tree, int]:
    tree, at = _operand(tokens, start, depth)
    while at < len(tokens) and _PRECEDENCE.get(tokens[at], 0) >= level:
        operator = tokens[at]
        right, at = _expression(tokens, at + 1, _PRECEDENCE[operator] + 1, depth)
        tree = (operator, tree, right)
    return tree, at


def _operand(tokens: list[str], at: int, depth: int) -> tuple[Tree, int]:
    if at >= len(tokens) or depth > _MAX_DEPTH:
        raise ValueError("the expression breaks off or is nested too deep")
    if tokens[at] == "(":
        tree, end = _expression(tokens, at + 1, 1, depth + 1)
        if end >= len(tokens) or tokens[end] != ")":
            raise ValueError("a bracket is not closed")
        return tree, end + 1
    if not tokens[at].isdigit():
        raise ValueError(f"a number is expected, not {tokens[at]!r}")
    return int(tokens[at]), at + 1


def text_of(tree: Tree) -> str:
    """The expression with brackets around every operand that is an operation."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    return f"{_bracketed(left)}{operator}{_bracketed(right)}"


def _bracketed(tree: Tree) -> str:
    return str(tree) if isinstance(tree, int) else f"({text_of(tree)})"


def value_of(tree: Tree) -> Fraction:
    """The exact value.

    Raises:
        ZeroDivisionError: It divides by zero.
    """
    if isinstance(tree, int):
        return Fraction(tree)
    operator, left, right = tree[0], value_of(tree[1]), value_of(tree[2])
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def leaves_of(tree: Tree) -> list[int]:
    """The numbers, left to right."""
    return [tree] if isinstance(tree, int) else leaves_of(tree[1]) + leaves_of(tree[2])
