"""Traces of Azure, BurstGPT and Mooncake become arrays; whatever cannot be used is named by line and column."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.planning.traces import BLOCK_TOKENS, MAX_TOKENS, read_trace, trace_of

# The first rows of AzureLLMInferenceTrace_code.csv (Azure public dataset 2023, CC-BY), of BurstGPT_1.csv (CC-BY-4.0)
# and of Mooncake's conversation trace (Apache-2.0), the last one with its hashes cut short.
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
BURST_GPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": [0, 1, 14, 15]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def test_an_azure_trace_has_dates(file: Path) -> None:
    file.write_text(AZURE)
    trace = read_trace(file)
    assert trace.arrivals_s == pytest.approx([0, 0.052])
    assert trace.input_tokens.tolist() == [4808, 3180]
    assert trace.output_tokens.tolist() == [10, 8]
    assert trace.notes == ()


@pytest.mark.parametrize("zone", ["Z", "+00:00"])
def test_dates_may_name_their_zone(file: Path, zone: str) -> None:
    file.write_text(AZURE.replace("600,", f"600{zone},"))
    assert read_trace(file).arrivals_s == pytest.approx([0, 0.052])


def test_a_burst_gpt_trace_has_seconds(file: Path) -> None:
    file.write_text(BURST_GPT)
    trace = read_trace(file)
    assert (trace.arrivals_s.tolist(), trace.output_tokens.tolist()) == ([0, 40], [18, 230])


def test_a_mooncake_trace_says_which_blocks_were_seen_before(file: Path) -> None:
    file.write_text(MOONCAKE)
    trace = read_trace(file)
    assert trace.arrivals_s.tolist() == [0, 3]
    assert trace.shared_tokens.tolist() == [0, 2 * BLOCK_TOKENS]


def test_a_whole_prompt_that_was_seen_before_leaves_a_token_to_compute(file: Path) -> None:
    row = '{"timestamp": 0, "input_length": 512, "output_length": 1, "hash_ids": [7]}\n'
    file.write_text(row * 2)
    assert read_trace(file).shared_tokens.tolist() == [0, 511]


def test_rows_out_of_order_are_sorted_and_said(file: Path) -> None:
    head, first, second = AZURE.splitlines()
    file.write_text("\n".join([head, second, first]))
    trace = read_trace(file)
    assert trace.input_tokens.tolist() == [4808, 3180]
    assert "sorted" in trace.notes[0]


def test_requests_that_failed_are_left_out_and_said(file: Path) -> None:
    file.write_text(AZURE + "2023-11-16 18:17:05,100,0\n")
    trace = read_trace(file)
    assert len(trace) == 2
    assert "1 of 3" in trace.notes[0]


def test_one_row_is_a_trace_without_a_rate(file: Path) -> None:
    file.write_text("\n".join(AZURE.splitlines()[:2]))
    trace = read_trace(file)
    assert (len(trace), trace.duration_s, trace.mean_rate) == (1, 0, 0)


def test_windows_count_requests() -> None:
    trace = trace_of([0, 1, 2, 61, 130], [1] * 5, [1] * 5)
    assert trace.window_rates(60) == pytest.approx([3 / 60, 1 / 60])
    assert trace.window_rates(1e6) == pytest.approx([4 / 130])


def test_an_empty_line_does_not_move_the_numbers_of_lines(file: Path) -> None:
    file.write_text(AZURE + "\n2023-11-16 18:17:05,nan,1\n")
    with pytest.raises(InvalidRequest, match="line 5"):
        read_trace(file)


def test_a_limit_reads_no_further(file: Path) -> None:
    file.write_text(AZURE + "broken,broken,broken\n")
    assert len(read_trace(file, limit=2)) == 2


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("2023-11-16 18:17:05,-1,10", "ContextTokens"),
        ("2023-11-16 18:17:05,nan,10", "ContextTokens"),
        ("2023-11-16 18:17:05,inf,10", "ContextTokens"),
        ("2023-11-16 18:17:05,1e400,10", "ContextTokens"),
        ("2023-11-16 18:17:05,12.5,10", "ContextTokens"),
        ("2023-11-16 18:17:05,ten,10", "ContextTokens"),
        (f"2023-11-16 18:17:05,{MAX_TOKENS + 1},10", "ContextTokens"),
        ("2023-11-16 18:17:05,10,-2", "GeneratedTokens"),
        ("2023-11-16 18:17:05,10", "GeneratedTokens"),
        ("yesterday,10,10", "TIMESTAMP"),
        ("NaT,10,10", "TIMESTAMP"),
        ("2023-11-16 18:17:05+05:30,10,10", "TIMESTAMP"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_by_line_and_column(file: Path, row: str, column: str) -> None:
    file.write_text(AZURE + row + "\n")
    with pytest.raises(InvalidRequest) as caught:
        read_trace(file)
    assert caught.value.field == column
    assert "line 4" in caught.value.message


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("[1, 2]", "trace"),
        ("{", "trace"),
        ('{"timestamp": 0, "input_length": 5}', "output_length"),
        ('{"timestamp": true, "input_length": 5, "output_length": 5}', "timestamp"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5}', "timestamp"),
        ('{"timestamp": 0, "input_length": 1' + "0" * 400 + ', "output_length": 5}', "input_length"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": "x"}', "hash_ids"),
    ],
)
def test_a_json_line_that_cannot_be_used_is_named(file: Path, line: str, field: str) -> None:
    file.write_text(MOONCAKE + line + "\n")
    with pytest.raises(InvalidRequest) as caught:
        read_trace(file)
    assert caught.value.field == field
    assert "line 3" in caught.value.message


@pytest.mark.parametrize("text", ["", "\n", "a,b\n1,2\n", AZURE.splitlines()[0], "\x00\x01", '"' * 10])
def test_a_file_without_requests_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        read_trace(file)
    assert str(file) in caught.value.message


def test_a_file_that_is_not_text_or_not_there_is_refused(file: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        read_trace(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="cannot read"):
        read_trace(file)


def test_requests_that_all_failed_are_refused(file: Path) -> None:
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:05,100,0\n")
    with pytest.raises(InvalidRequest, match="was answered"):
        read_trace(file)


def test_many_rows_keep_their_sums(file: Path) -> None:
    rng = np.random.default_rng(1)
    inputs, outputs = rng.integers(1, 9000, 20_000), rng.integers(1, 900, 20_000)
    rows = (f"{at * 0.1:.1f},m,{i},{o},0,x" for at, (i, o) in enumerate(zip(inputs, outputs, strict=True)))
    file.write_text(BURST_GPT.splitlines()[0] + "\n" + "\n".join(rows))
    trace = read_trace(file)
    assert (trace.input_tokens.sum(), trace.output_tokens.sum()) == (inputs.sum(), outputs.sum())
    assert trace.mean_rate == pytest.approx(10)
