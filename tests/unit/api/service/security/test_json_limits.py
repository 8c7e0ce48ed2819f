from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.service.security.json_limits import check_json
from orchestrator.errors import InvalidRequest

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(_VALUES)
def test_valid_json_is_refused_exactly_when_it_is_too_deep(value: Any) -> None:
    depth = depth_of(value)
    for ensure_ascii in (True, False):
        body = json.dumps(value, ensure_ascii=ensure_ascii).encode()
        check_json(body, max_depth=max(1, depth), max_items=1000)
        if depth > 1:
            with pytest.raises(InvalidRequest, match="deeper"):
                check_json(body, max_depth=depth - 1, max_items=1000)


@pytest.mark.parametrize("body", [b'["[[[[{{{{"]', b'{"a\\"[[[[": "\\\\", "b": "]]]]"}', b'["\\u005b\\""]'])
def test_marks_inside_strings_do_not_count(body: bytes) -> None:
    json.loads(body)
    check_json(body, max_depth=2, max_items=10)


def test_elements_are_counted() -> None:
    check_json(json.dumps(list(range(100))).encode(), max_depth=4, max_items=100)
    with pytest.raises(InvalidRequest, match="more than 99"):
        check_json(json.dumps(list(range(100))).encode(), max_depth=4, max_items=99)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(InvalidRequest, match="UTF-8"):
        check_json(json.dumps({"a": 1}).encode(encoding), max_depth=4, max_items=10)


_SIZE = 1 << 20


@pytest.mark.parametrize(
    "body",
    [
        b"[" * _SIZE,
        b"]" * _SIZE,
        b'"' * _SIZE,
        b"\\" * _SIZE,
        b'"' + b"\\n" * (_SIZE // 2),
        b'"' + b"a" * _SIZE + b'"',
        b"[" + b"[]," * (_SIZE // 3),
        b'"" ' * (_SIZE // 3),
        b'{"a":' * (_SIZE // 5),
    ],
    ids=lambda body: str(body[:6]),
)
def test_no_body_takes_long(body: bytes) -> None:
    started_at = time.process_time()
    with contextlib.suppress(InvalidRequest):
        check_json(body, max_depth=64, max_items=100_000)
    assert time.process_time() - started_at < 1.5, "seconds for a megabyte; ten times what it takes"
