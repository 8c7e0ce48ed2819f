"""Where the tokens of a job went, for people."""

from orchestrator.api.terminal.report import kv_rows
from orchestrator.usage import Usage


def test_kv_is_told_as_the_tree_the_levels_and_the_engine_count_it() -> None:
    usage = Usage(
        unique_kv_tokens=1549,
        logical_kv_tokens=5121,
        num_levels=4,
        kept_kv_tokens=532,
        kept_logical_kv_tokens=3164,
        peak_kv_cells=259,
        recomputed_tokens=1200,
    )
    assert kv_rows(usage) == [
        ("KV tokens", "1,549", "5,121 if nothing were shared"),
        ("KV kept", "133", "791 if nothing were shared; mean of the levels"),
        ("KV cells", "259", "at most; 1,200 tokens read again"),
    ]


def test_a_job_without_levels_on_an_engine_that_counts_no_cells_has_the_trees_row_only() -> None:
    assert kv_rows(Usage(unique_kv_tokens=7, logical_kv_tokens=9)) == [("KV tokens", "7", "9 if nothing were shared")]
