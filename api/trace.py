"""A job as one HTML page that can be looked at offline: the tree, the votes, the spend, the actions in time.

Texts in it are hostile. They are put into the page as JSON that cannot end its element, the page's script makes text
nodes of them, and a content security policy lets nothing run or load but that script and that style sheet.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from datetime import datetime
from importlib import resources
from typing import Any

from orchestrator.api.story import JobStory
from orchestrator.api.terminal import wording
from orchestrator.api.terminal.report import ledger_rows
from orchestrator.tree import Node

_SCRIPTS = (
    *("basics", "trace", "places", "marks", "drawing", "tree", "detail", "time", "legend", "card", "bars", "tables"),
    "main",
)
"""Modules, each after those that it imports from; as one script they share their names."""
_STYLES = ("colours", "base", "tree", "page")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=class |const |function )", re.MULTILINE)

Json = dict[str, Any]  # Any: JSON values


def trace_page(story: JobStory) -> str:
    """The page as text."""
    style, script = "".join(_packaged(f"{name}.css") for name in _STYLES), _script()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(f"{wording.brief(story.spec.problem, 60)} · ttc"),
        "style": style,
        "script": script,
        "data": _embedded(trace_data(story)),
    }
    page, *rest = _packaged("page.html").split("{{")
    for piece in rest:  # in one pass, so that nothing inside a part is taken for a placeholder
        name, _, text = piece.partition("}}")
        page += parts[name] + text
    return page


def trace_data(story: JobStory) -> Json:
    """What the page shows, as JSON values."""
    result, spec, chosen = story.result, story.spec, story.chosen
    params = ", ".join(f"{name}={value}" for name, value in spec.params.items())
    created = datetime.fromtimestamp(story.record.created_at).isoformat(" ", "minutes")
    facts: list[tuple[str, str]] = []
    if result is not None:
        facts = [("confidence", wording.confidence(result)), ("stopped", wording.stop_reason(result))]
        facts += [("samples", f"{result.num_samples}")]
        if result.question is not None:
            facts.append(("question", result.question))
    else:
        facts = [("state", f"{story.record.state.value}, not finished")]
    models = ", ".join(sorted({node.model for node in story.tree if node.model}))
    facts += [("models", models or "none asked"), ("seed", str(spec.seed))]
    policy = f"{spec.policy} ({params})" if params else spec.policy
    return {
        "kicker": f"{policy} · job {story.record.id} · {created}",
        "problem": spec.problem,
        "answer": None if result is None else result.text,
        "facts": facts,
        "votes": [vote.to_json() for vote in story.votes()],
        "caps": _caps(story),
        "nodes": [_node(story, node) for node in story.tree],
        "path": [] if chosen is None else [node.id for node in chosen.path()],
        "actions": [note.to_json() for note in story.actions],
        "frames": [frame.to_json() for frame in story.frames],
        "levels": [level.to_json() for level in story.levels()],
        "is_search": story.growth.is_search,
        "wall_s": story.usage.wall_s,
        "ledger": [] if result is None else ledger_rows(result),
    }


def _caps(story: JobStory) -> list[Json]:
    usage, budget = story.usage, story.spec.budget.to_json()
    spent = {
        "max_output_tokens": usage.output_tokens,
        "max_total_tokens": usage.total_tokens,
        "max_model_calls": usage.model_calls,
        "max_tool_calls": usage.tool_calls,
        "max_usd": usage.usd,
        "max_flops": usage.flops,
        "max_seconds": usage.wall_s,
    }
    return [
        {
            "name": wording.CAPS[cap],
            "share": value / budget[cap] if budget[cap] else 1.0,
            "words": f"{wording.amount(cap, value)} of {wording.amount(cap, budget[cap])}",
        }
        for cap, value in spent.items()
        if cap in budget
    ]


def _node(story: JobStory, node: Node) -> Json:
    branch = story.growth.branches[node.id]
    return {
        "id": node.id,
        "parent": None if node.parent is None else node.parent.id,
        "messages": [[message.role, message.content] for message in node.messages],
        "text": node.text,
        "forced": node.forced,
        "model": node.model,
        "finish": None if node.finish is None else node.finish.value,
        "finish_detail": node.finish_detail,
        "output_tokens": node.output_tokens,
        "logprob": node.logprob,
        "answer": node.answer,
        "answer_class": node.answer_class or node.answer,
        "scores": story.scored.get(node.id, {}),
        "born": branch.born,
        "is_final": node.is_final,
        "given_up": None if branch.given_up is None else branch.given_up._asdict(),
    }


def _embedded(data: Json) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(_visible(data), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible(value: Any) -> Any:  # Any: a JSON value
    """The same, with characters that would change the direction of text made visible."""
    if isinstance(value, str):
        return wording.without_direction(value)
    if isinstance(value, dict):
        return {wording.without_direction(str(key)): _visible(item) for key, item in value.items()}
    return [_visible(item) for item in value] if isinstance(value, list | tuple) else value


def _packaged(name: str) -> str:
    return resources.files("orchestrator.api").joinpath("page", name).read_text(encoding="utf-8")


def _script() -> str:
    """The modules as one script, which a page that was opened from a file may run."""
    parts = "\n".join(_EXPORT.sub("", _IMPORT.sub("", _packaged(f"{name}.js"))) for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
