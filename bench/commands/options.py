"""Options that several commands of ``ttc bench`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from lzma import LZMAError
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.bench.runs.rows import Row, by_curves, read_rows
from orchestrator.errors import InvalidRequest

_Command = TypeVar("_Command", bound=Callable[..., Any])  # Any: click passes options by name

baseline_option = click.option(
    "--baseline", metavar="LABEL", help="With whom all are compared.  [default: single, else the first]"
)
target_option = click.option("--target", type=float, metavar="P", help="Compare costs at this accuracy too, e.g. 0.5.")
margin_option = click.option(
    "--margin",
    type=float,
    default=0.02,
    show_default=True,
    metavar="P",
    help="How much lower an accuracy may be and count as not worse.",
)
curves_option = click.option(
    "--curves", "is_by_curves", is_flag=True, help="Settings of a suite's grid are points of one curve, as budgets are."
)
data_option = click.option(
    "--data", metavar="DIR", help="Folder of datasets: what {data} stands for in sets, as in gsm8k:{data}/test.jsonl."
)
jobs_option = click.option(
    "--jobs",
    "num_at_once",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    metavar="N",
    help="Jobs under way at once.",
)


def read_files(files: Sequence[str], *, is_by_curves: bool = False) -> Iterator[Row]:
    """The rows of several files; as `by_curves` has them, if that is asked for.

    Raises:
        InvalidRequest: One cannot be read, or holds something else.
    """
    for name in files:
        try:
            rows = read_rows(Path(name))
            yield from by_curves(rows) if is_by_curves else rows
        except (OSError, EOFError, LZMAError, UnicodeDecodeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidRequest(f"cannot read the rows of {name!r}: {reason}", field="rows", value=name) from None


def whole_numbers(option: str, text: str | None) -> tuple[int, ...]:
    """The numbers of a list like ``1,2,3``; none where it is not given.

    Raises:
        InvalidRequest: One is no whole number from 0 on, or is there twice.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InvalidRequest(
            f"--{option} must be whole numbers with commas between them, as in 1,2,3, not {text!r}",
            field=option,
            value=text,
        )
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise InvalidRequest(f"--{option} {text!r} names a number twice", field=option, value=text)
    return numbers


def named_scorers(scorers: Sequence[str]) -> dict[str, str]:
    """Models by the names that their scores are to have, from words like ``prm=lab:prm``.

    Raises:
        InvalidRequest: One cannot be read, or names a scorer twice.
    """
    named: dict[str, str] = {}
    for text in scorers:
        name, sign, model = text.partition("=")
        if not sign or not name.strip() or not model.strip():
            raise InvalidRequest(
                f"cannot read --scorer {text!r}; write for instance prm=lab:prm", field="scorer", value=text
            )
        if name in named:
            raise InvalidRequest(f"--scorer names {name!r} twice", field="scorer", value=text)
        named[name] = model
    return named
