"""The outcome of a job for people: the answer, how sure, what else, why it stopped, and where every token went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.api.terminal import wording
from orchestrator.api.terminal.console import result_console
from orchestrator.job import Result
from orchestrator.usage import Usage

if TYPE_CHECKING:
    from rich.console import Console

_MAX_ALTERNATIVES = 5


def ledger_rows(result: Result) -> list[tuple[str, str, str]]:
    """What was spent: (name, amount, cap or remark)."""
    usage, budget = result.usage, result.budget.to_json()

    def cap(name: str) -> str:
        return f"of {wording.amount(name, budget[name])}" if name in budget else ""

    rows = [
        ("prompt tokens", f"{usage.prompt_tokens:,}", f"{usage.cached_prompt_tokens:,} of them cached"),
        ("output tokens", f"{usage.output_tokens:,}", cap("max_output_tokens")),
        ("total tokens", f"{usage.total_tokens:,}", cap("max_total_tokens")),
    ]
    if usage.lost_tokens:
        rows.append(("lost tokens", f"{usage.lost_tokens:,}", "paid for by a process that died"))
    if usage.discarded_draft_tokens:
        rows.append(("discarded draft tokens", f"{usage.discarded_draft_tokens:,}", ""))
    if usage.overrun_tokens:
        rows.append(("overrun tokens", f"{usage.overrun_tokens:,}", "sent by a server beyond what was reserved"))
    rows += [
        (f"verifier tokens, {wording.brief(model, 30)}", f"{tokens:,}", "part of the totals")
        for model, tokens in sorted(usage.verifier_tokens.items())
    ]
    rows.append(("model calls", f"{usage.model_calls:,}", cap("max_model_calls")))
    if usage.verifier_calls:
        rows.append(("verifier calls", f"{usage.verifier_calls:,}", ""))
    if usage.tool_calls or "max_tool_calls" in budget:
        rows.append(("tool calls", f"{usage.tool_calls:,}", cap("max_tool_calls")))
    rows += [
        ("longest chain", f"{usage.max_sequential_tokens:,} tokens", f"{usage.peak_parallel_sequences} in parallel"),
        *kv_rows(usage),
        ("compute", wording.flops(usage.flops), cap("max_flops")),
        ("compute and memory", wording.flops(usage.effective_flops), "as effective FLOPs"),
        ("price", wording.dollars(usage.usd), cap("max_usd")),
        ("time", wording.seconds(usage.wall_s), cap("max_seconds")),
    ]
    if usage.is_estimated:
        rows.append(("estimated", "yes", "a server was cut off or does not count"))
    return rows


def kv_rows(usage: Usage) -> list[tuple[str, str, str]]:
    """KV of the whole tree, of what searches kept, and of engines that count their cells: rows of `ledger_rows`."""
    rows = [("KV tokens", f"{usage.unique_kv_tokens:,}", f"{usage.logical_kv_tokens:,} if nothing were shared")]
    if usage.num_levels:
        logical = usage.kept_logical_kv_tokens / usage.num_levels
        rows.append(
            (
                "KV kept",
                f"{usage.mean_kept_kv_tokens:,.0f}",
                f"{logical:,.0f} if nothing were shared; mean of the levels",
            )
        )
    if usage.peak_kv_cells:
        rows.append(("KV cells", f"{usage.peak_kv_cells:,}", f"at most; {usage.recomputed_tokens:,} tokens read again"))
    return rows


def headline(result: Result) -> str:
    """The answer as text; says so if there is none."""
    if result.question is not None:
        return f"the job asks: {wording.printable(result.question)}"
    if result.text is None:
        return "no answer"
    return wording.printable(result.text)


def print_result(result: Result, *, console: Console | None = None) -> None:
    """Prints a result to stdout."""
    from rich.table import Table
    from rich.text import Text

    console = console or result_console()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    answer_style = "bold green" if result.text is not None else "bold yellow"
    facts.add_row("answer", Text(headline(result), style=answer_style))
    facts.add_row("confidence", Text(wording.confidence(result)))
    if result.answer.alternatives:
        facts.add_row("alternatives", Text(_alternatives(result)))
    facts.add_row("stopped", Text(wording.stop_reason(result)))
    facts.add_row("samples", f"{result.num_samples}")
    facts.add_row("job", Text(result.job_id))
    console.print(facts)
    ledger = Table.grid(padding=(0, 2))
    ledger.add_column(style="dim", no_wrap=True)
    ledger.add_column(justify="right", no_wrap=True)
    ledger.add_column(style="dim")
    for name, amount, remark in ledger_rows(result):
        ledger.add_row(name, amount, remark)
    console.print()
    console.print(ledger)


def _alternatives(result: Result) -> str:
    is_share = result.answer.confidence_kind != "verifier"
    shown = [
        f"{wording.brief(text, 40)} ({wording.percent(value) if is_share else format(value, '.2f')})"
        for text, value in result.answer.alternatives[:_MAX_ALTERNATIVES]
    ]
    rest = len(result.answer.alternatives) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
