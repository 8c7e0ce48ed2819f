"""A job as text: what was asked, the tree, what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.api.story import JobStory
from orchestrator.api.terminal import wording
from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.report import print_result
from orchestrator.engine import FinishReason
from orchestrator.tree import Node

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree as Branch

_FINISH_WORDS = {
    FinishReason.END: "",
    FinishReason.STOP: "stop string",
    FinishReason.LENGTH: "cut: length",
    FinishReason.MONITOR: "monitor",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.TOOL_CALL: "tool call",
}


def print_story(story: JobStory, *, is_full: bool, console: Console | None = None) -> None:
    """Prints a job to stdout.

    Args:
        story: The job.
        is_full: Show whole texts, not their beginnings.
        console: Where; stdout unless given.
    """
    from rich.table import Table
    from rich.text import Text

    console = console or result_console()
    spec, record = story.spec, story.record
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("job", f"{record.id} ({record.state.value})")
    facts.add_row("created", datetime.fromtimestamp(record.created_at).isoformat(" ", "seconds"))
    problem = wording.printable(spec.problem) if is_full else wording.brief(spec.problem, 300)
    facts.add_row("problem", Text(problem))
    params = ", ".join(f"{name}={value!r}" for name, value in spec.params.items())
    facts.add_row("policy", Text(wording.printable(f"{spec.policy} {f'({params})' if params else ''}", is_line=True)))
    models = ", ".join(f"{role}: {name}" for role, name in spec.models.items())
    facts.add_row("models", Text(wording.printable(models or "opened by a program", is_line=True)))
    caps = ", ".join(f"{name}={value:,}" for name, value in spec.budget.to_json().items())
    facts.add_row("budget", caps or "no caps")
    facts.add_row("seed", str(spec.seed))
    console.print(facts)
    console.print()
    console.print(_branch(story, is_full=is_full))
    console.print()
    if story.result is not None:
        print_result(story.result, console=console)
    else:
        usage = story.usage
        console.print(f"unfinished; {usage.output_tokens:,} output tokens in {len(story.actions)} actions so far")


def _branch(story: JobStory, *, is_full: bool) -> Branch:
    from rich.text import Text
    from rich.tree import Tree as Branch

    top = Branch(Text("the problem", style="bold"))
    chosen = story.chosen
    path = set() if chosen is None else {node.id for node in chosen.path()}
    branches: dict[str, Branch] = {}
    for node in story.tree:
        if node.id == story.tree.root.id:
            branches[node.id] = top
        elif node.parent is None:
            branches[node.id] = top.add(Text(f"another conversation ({node.id})", style="dim"))
        else:
            label = _label(story, node, is_full=is_full, is_on_path=node.id in path)
            branches[node.id] = branches[node.parent.id].add(label)
    return top


def _label(story: JobStory, node: Node, *, is_full: bool, is_on_path: bool) -> Text:
    from rich.text import Text

    scores = [f"{name} {score:.2f}" for name, score in story.tree.scores(node).items()]
    cut = "" if node.finish is None else _FINISH_WORDS[node.finish]
    notes = [f"{node.output_tokens} tokens", *scores, *([cut] if cut else [])]
    if (given_up := story.growth.branches[node.id].given_up) is not None:
        notes.append(f"given up: {wording.brief(given_up.reason)}" if given_up.reason else "given up")
    label = Text("★ " if is_on_path else "", style="bold green")
    label.append(node.id, style="bold" if is_on_path else "")
    if node.answer is not None:
        label.append(f"  {wording.brief(node.answer, 40)}", style="green" if is_on_path else "cyan")
    label.append(f"  {', '.join(notes)}", style="dim")
    if is_full:
        label.append("\n" + wording.printable(node.text))
    else:
        label.append(f"  {wording.brief(node.text, 60)}", style="dim italic")
    return label
