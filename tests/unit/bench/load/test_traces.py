"""Traces: three formats are told apart by their columns, cut and sped up; broken ones are refused by line and column.

The excerpts are the first lines of AzureLLMInferenceDataset2023 (Patel et al., 2024), of the 2024 one as its page shows
it (Stojkovic et al., 2025), of BurstGPT_1.csv (Wang et al., 2024), and of Mooncake's conversation_trace
(Qin et al., 2025).
"""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.bench.load.arrivals import Arrival
from orchestrator.bench.load.traces import Excerpt, read_trace
from orchestrator.errors import InvalidRequest

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01.017335+00:00,2399,6
"""
BURST_GPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 2290, "output_length": 316, "hash_ids": [0, 42, 43, 44, 45]}
{"timestamp": 3052, "input_length": 655, "output_length": 3, "hash_ids": [0, 46]}
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def arrivals(path: Path, text: str | bytes, excerpt: Excerpt | None = None) -> list[Arrival]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_trace(path, excerpt))


def problem(path: Path, text: str | bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        arrivals(path, text)
    assert str(path) in str(caught.value)
    return caught.value


def test_azure_dates_become_seconds_from_the_first_request(trace: Path):
    first, second = arrivals(trace, AZURE)
    assert first == Arrival(0.0, 374, 44)
    assert second.at_s == pytest.approx(4.314579, abs=1e-6)
    assert (second.input_tokens, second.output_tokens) == (396, 109)


def test_azure_dates_may_have_a_time_zone(trace: Path):
    assert [each.at_s for each in arrivals(trace, AZURE_2024)] == pytest.approx([0.0, 1.007405], abs=1e-6)


def test_burst_gpt_counts_seconds_and_its_other_columns_do_not_matter(trace: Path):
    assert arrivals(trace, BURST_GPT) == [Arrival(0.0, 472, 18), Arrival(40.0, 1087, 230), Arrival(113.0, 417, 276)]
    wider = BURST_GPT.replace("Timestamp,", "Session ID,Elapsed time,Timestamp,").replace("\n5,", "\n7,0.5,5,")
    assert arrivals(trace, "\n".join(wider.splitlines()[:2])) == [Arrival(0.0, 472, 18)]


def test_burst_gpt_requests_that_failed_are_left_out(trace: Path):
    failed = "80,GPT-4,0,0,0,Conversation log\n"
    assert len(arrivals(trace, BURST_GPT + failed.replace("80", "180"))) == 3


def test_mooncake_counts_milliseconds_and_names_blocks(trace: Path):
    assert arrivals(trace, MOONCAKE) == [Arrival(0.0, 2290, 316, (0, 42, 43, 44, 45)), Arrival(3.052, 655, 3, (0, 46))]


@pytest.mark.parametrize("text", [AZURE, BURST_GPT, MOONCAKE])
def test_byte_order_marks_carriage_returns_and_empty_lines_do_not_matter(trace: Path, text: str):
    expected = arrivals(trace, text)
    assert arrivals(trace, b"\xef\xbb\xbf\r\n" + text.replace("\n", "\r\n\r\n").encode()) == expected


def test_an_excerpt_is_cut_by_trace_time_and_runs_at_its_own_speed(trace: Path):
    excerpt = Excerpt(start_s=30.0, duration_s=60.0, speed=4.0)
    assert arrivals(trace, BURST_GPT, excerpt) == [Arrival(10.0 / 4, 1087, 230)]
    assert len(arrivals(trace, BURST_GPT, Excerpt(limit=2))) == 2


def test_a_trace_is_read_no_further_than_the_excerpt_needs(trace: Path):
    broken = BURST_GPT + "not,a,number\n"
    assert len(arrivals(trace, broken, Excerpt(limit=3))) == 3
    assert len(arrivals(trace, broken, Excerpt(duration_s=100.0))) == 2
    with pytest.raises(InvalidRequest):
        arrivals(trace, broken)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        (AZURE.replace("18:15:50.9951690", "18:99"), 3, "TIMESTAMP", "no date"),
        (AZURE.replace(",396,", ",-1,"), 3, "ContextTokens", "'-1' is no number of tokens"),
        (AZURE.replace(",396,", ",3.5,"), 3, "ContextTokens", "'3.5' is no number of tokens"),
        (AZURE.replace(",109", ""), 3, "GeneratedTokens", "missing"),
        (BURST_GPT.replace("\n45,", "\nnan,"), 3, "Timestamp", "'nan' is no time"),
        (BURST_GPT.replace("\n45,", "\n3,"), 3, "Timestamp", "sort the trace"),
        (BURST_GPT.replace(",230,", ",99999999999,"), 3, "Response tokens", "is no number of tokens"),
        (MOONCAKE.replace("3052", '"soon"'), 2, "timestamp", "'soon' is no time"),
        (MOONCAKE.replace("3052", "NaN"), 2, "timestamp", "nan is no time"),
        (MOONCAKE.replace("655", "true"), 2, "input_length", "True is no number of tokens"),
        (MOONCAKE.replace("655", "[" * 9 + "]" * 9), 2, "input_length", "is no number of tokens"),
        (MOONCAKE.replace("[0, 46]", '"0"'), 2, "hash_ids", "no list of whole numbers"),
        (MOONCAKE.replace("[0, 46]", "[0, true]"), 2, "hash_ids", "no list of whole numbers"),
        (MOONCAKE.replace("output_length", "out", 2), 1, "output_length", "missing"),
        (MOONCAKE[:-20], 2, "trace", "no JSON"),
        (MOONCAKE + "[1, 2]\n", 3, "trace", "must be an object, not list"),
        (AZURE.encode() + b"\xff\xfe,1,2\n", 4, "trace", "not UTF-8"),
        (AZURE + "2023-11-16 18:15:51," + "7" * 2_000_000, 4, "trace", "more than 1,048,576 bytes"),
        (AZURE + '2023-11-16 18:15:51,"3', 4, "trace", "no CSV"),
        ("time,in,out\n1,2,3\n", 1, "trace", "Azure (TIMESTAMP, ContextTokens, GeneratedTokens)"),
        ("", 1, "trace", "Its columns: nothing"),
    ],
)
def test_a_broken_trace_is_refused_by_file_line_and_column(
    trace: Path, text: str | bytes, line: int, column: str, words: str
):
    error = problem(trace, text)
    assert f"line {line}" in str(error)
    assert error.field == column
    assert words in str(error)
    assert len(str(error)) < 700 + len(str(trace))


def test_a_file_that_is_not_there_is_named(trace: Path):
    with pytest.raises(InvalidRequest, match="No such file"):
        list(read_trace(trace))
    with pytest.raises(InvalidRequest, match="cannot read"):
        list(read_trace(Path("a\0b")))


@given(data=st.binary(max_size=300), head=st.sampled_from([b"", *(text.encode() for text in (AZURE, MOONCAKE))]))
def test_whatever_a_file_holds_gives_arrivals_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes
):
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(head + data)
    try:
        found = list(read_trace(path))
    except InvalidRequest as error:
        message = str(error)
        found = []
    else:
        message = "hostile, line"
    assert "hostile, line" in message
    assert all(math.isfinite(each.at_s) and each.at_s >= 0 and each.output_tokens >= 1 for each in found)
