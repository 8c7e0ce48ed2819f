"""Requests that no honest client sends, byte by byte, with what is expected to come of each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

JOBS, BATCHES, CHAT, RESPONSES = "/v1/jobs", "/v1/batches", "/v1/chat/completions", "/v1/responses"
FINE = (200, 202)
BAD = (400,)
CLOSED = 0
"""Instead of a status: the connection is closed without a word."""
ASKED = "What is 3 + 4?"
NOBODYS = "0123456789abcdefghjk"
"""An id as ids are, of nothing."""
JSON = "Content-Type: application/json"


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request.

    Attributes:
        name: What is hostile about it.
        sent: All bytes of it.
        statuses: What may be the answer.
        field: What the error has to name; None if there is no field to name.
    """

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    field: str | None = None


def request(method: str, target: str, *headers: str | bytes, body: bytes = b"", host: str = "localhost") -> bytes:
    """A request with its length, unless the headers say how long it is."""
    lines = [line if isinstance(line, bytes) else line.encode() for line in headers]
    has_length = any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in lines)
    if body and not has_length:
        lines.append(b"Content-Length: %d" % len(body))
    if host:
        lines.insert(0, b"Host: " + host.encode())
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), *lines, b"", body])


def get(target: str, *headers: str | bytes, **options: Any) -> bytes:
    return request("GET", target, *headers, **options)


def post(body: bytes | Any, *headers: str | bytes, to: str = JOBS, **options: Any) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request("POST", to, JSON, *headers, body=text, **options)


def job(**fields: Any) -> dict[str, Any]:
    return {"problem": ASKED, "policy": "self_consistency", "params": {"n": 2}, **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "ttc/single", "messages": [{"role": "user", "content": ASKED}], "max_tokens": 50, **fields}


def reply(**fields: Any) -> dict[str, Any]:
    return {"model": "ttc/single", "input": ASKED, "max_output_tokens": 50, **fields}


def raw(text: str) -> bytes:
    """A job of which a part is not what `json.dumps` would write."""
    return b'{"problem": "What is 3 + 4?", ' + text.encode() + b"}"


def chunked(chunks: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def nested(depth: int, opening: str, closing: str, inner: str = "1") -> str:
    return opening * depth + inner + closing * depth


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": value}})


def tool(name: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


_CHUNKED = "Transfer-Encoding: chunked"
_TEXT = json.dumps(job()).encode()

SIZES = [
    Hostile("a prompt of 200 kB", post(job(problem="7" * 200_000)), (*FINE, 400)),
    Hostile(
        "a prompt of 200 kB in a chat",
        post(chat(messages=[{"role": "user", "content": "x " * 100_000}]), to=CHAT),
        (200, 400),
    ),
    Hostile("a prompt of a million and one characters", post(job(problem="7" * 1_000_001)), BAD, "problem"),
    Hostile("a body of 20 MB", post(b"x" * 20_000_000), (413,)),
    Hostile("a body of 20 MB that is said to come", post(b"{", "Content-Length: 20000000"), (413,)),
    Hostile("chunks without end", post(chunked([b"x" * 65_000] * 200), _CHUNKED), (413,)),
    Hostile("a body in chunks of one byte", post(chunked(bytes([byte]) for byte in _TEXT), _CHUNKED), FINE),
    Hostile("a length of thirty digits", post(b"{", "Content-Length: " + "9" * 30), (400, 413)),
    Hostile("a length below zero", post(b"{}", "Content-Length: -1"), BAD),
    Hostile("a length that is no number", post(b"{}", "Content-Length: ten"), BAD),
    Hostile("a length in other digits", post(b"{}", "Content-Length: ٢".encode()), BAD),
    Hostile("a megabyte of spaces", post(b" " * 1_000_000), BAD, "body"),
    Hostile("a number of seven million digits", post(raw('"seed": ' + "9" * 7_000_000)), BAD, "body"),
    Hostile("seven megabytes of escapes", post(raw('"verifier": "' + "\\u0041" * 1_160_000 + '"')), BAD, "verifier"),
    Hostile("a key of a megabyte", post(raw('"' + "k" * 1_000_000 + '": 1')), BAD),
    Hostile("an empty problem in spaces", post(job(problem=" " * 100_000)), BAD, "problem"),
    Hostile("a length and nothing after it", post(b"{", "Content-Length: 100"), (408,)),
]
ENCODINGS = [
    Hostile("bytes that are no UTF-8", post(raw('"verifier": "') + b'\xff\xfe"}'), BAD, "body"),
    Hostile("half a character of UTF-8", post(b'{"problem": "\xc3"}'), BAD, "body"),
    Hostile("an overlong slash", post(b'{"problem": "\xc0\xaf"}'), BAD, "body"),
    Hostile("a surrogate in UTF-8", post(b'{"problem": "\xed\xa0\x80"}'), BAD, "body"),
    Hostile("a lone surrogate as a key", post(raw('"labels": {"\\udfff": "x"}')), BAD, "body"),
    Hostile("a pair of surrogates, which is fine", post(raw('"labels": {"x": "\\ud83d\\ude00"}')), FINE),
    Hostile("an escaped NUL", post(raw('"labels": {"x": "\\u0000"}')), BAD, "body"),
    Hostile("a NUL", post(b'{"problem": "\x00"}'), BAD, "body"),
    Hostile("a byte order mark", post(b"\xef\xbb\xbf" + _TEXT), BAD, "body"),
    Hostile("UTF-16 with a mark", post(_TEXT.decode().encode("utf-16")), BAD, "body"),
    Hostile("UTF-32", post(_TEXT.decode().encode("utf-32-le")), BAD, "body"),
    Hostile("UTF-7", post(b'{"problem": "+ADw-script+AD4-"}'), FINE),
    Hostile("control characters in a text", post(b'{"problem": "\x1b[2J\x07"}'), BAD, "body"),
    Hostile("escaped control characters", post(job(problem="\x1b]0;x\x07 3 + 4", labels={"\x1b": "\x7f"})), FINE),
    Hostile("right-to-left marks and joiners", post(job(problem="\u202e\u200d\ufeff" + ASKED)), FINE),
    Hostile("text that says it is text", request("POST", JOBS, "Content-Type: text/plain", body=_TEXT), BAD, "body"),
    Hostile("JSON that does not say what it is", request("POST", JOBS, body=_TEXT), BAD, "body"),
    Hostile(
        "a form",
        request("POST", JOBS, "Content-Type: application/x-www-form-urlencoded", body=b"problem=x"),
        BAD,
        "body",
    ),
    Hostile(
        "a form in parts without an end",
        request("POST", JOBS, "Content-Type: multipart/form-data; boundary=x", body=b"--x\r\n" * 999),
        BAD,
        "body",
    ),
    Hostile(
        "XML",
        request(
            "POST",
            JOBS,
            "Content-Type: application/xml",
            body=b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        ),
        BAD,
        "body",
    ),
    Hostile(
        "JSON in a charset that it is not in",
        request("POST", JOBS, "Content-Type: application/json; charset=utf-16", body=_TEXT),
        (*FINE, 400),
    ),
    Hostile(
        "a compressed body", post(gzip.compress(b"x" * 50_000_000), "Content-Encoding: gzip"), BAD, "Content-Encoding"
    ),
    Hostile("a body that only says it is compressed", post(_TEXT, "Content-Encoding: br"), BAD, "Content-Encoding"),
    Hostile(
        "a type of 4 kB",
        request("POST", JOBS, "Content-Type: application/json;" + "x" * 4000, body=_TEXT),
        (*FINE, 400),
    ),
]
SHAPES = [
    Hostile("10,000 brackets", post(raw('"params": {"n": ' + nested(10_000, "[", "]") + "}")), BAD, "body"),
    Hostile("10,000 braces", post(raw('"params": ' + nested(10_000, '{"a": ', "}"))), BAD, "body"),
    Hostile("nested as deep as is allowed", post(raw('"params": {"n": ' + nested(60, "[", "]") + "}")), BAD, "n"),
    Hostile("brackets in a text, which are fine", post(job(problem="[" * 10_000)), FINE),
    Hostile("closing brackets only", post(b"]" * 10_000), BAD, "body"),
    Hostile("the same key twice", post(raw('"seed": 1, "seed": 2')), BAD, "seed"),
    Hostile(
        "a budget twice", post(raw('"budget": "tokens=10", "budget": {"max_output_tokens": 100000}')), BAD, "budget"
    ),
    Hostile("the same key twice, written differently", post(raw('"seed": 1, "\\u0073eed": 2')), BAD, "seed"),
    Hostile(
        "150,000 keys", post(raw('"labels": {' + ",".join(f'"{key}":""' for key in range(150_000)) + "}")), BAD, "body"
    ),
    Hostile("150,000 commas", post(b"[" + b"," * 150_000 + b"]"), BAD, "body"),
    Hostile("33 labels", post(job(labels={str(key): "" for key in range(33)})), BAD, "labels"),
    Hostile("a label of 257 characters", post(job(labels={"x": "y" * 257})), BAD, "labels.x"),
    Hostile("keys of JavaScript's", post(job(params={"__proto__": {"n": 5}})), BAD, "__proto__"),
    Hostile("keys of Python's", post(job(params={"__class__": "int"})), BAD, "__class__"),
    Hostile("two values", post(_TEXT + _TEXT), BAD, "body"),
    Hostile("a comment", post(b"/* x */" + _TEXT), BAD, "body"),
    Hostile("a comma too many", post(raw('"seed": 1,')), BAD, "body"),
    Hostile("a list of jobs", post([job()] * 3), BAD),
    Hostile("a number", post(b"7"), BAD),
    Hostile("the end of JSON in the middle of a text", post(b'{"problem": "' + b"\\"), BAD, "body"),
]
NUMBERS = [
    Hostile("NaN", post(raw('"seed": NaN')), BAD, "body"),
    Hostile("minus infinity", post(raw('"sampling": {"temperature": -Infinity}')), BAD, "body"),
    Hostile("1e999", post(raw('"budget": {"max_usd": 1e999}')), BAD, "body"),
    Hostile("1e308 dollars", post(job(budget={"max_usd": 1e308})), BAD, "budget.max_usd"),
    Hostile("2**64", post(raw(f'"seed": {2**64}')), BAD, "body"),
    Hostile("2**63 - 1, which is fine", post(job(seed=2**63 - 1)), FINE),
    Hostile("minus zero", post(raw('"seed": -0')), FINE),
    Hostile("a leading zero", post(raw('"seed": 007')), BAD, "body"),
    Hostile("true as a seed", post(job(seed=True)), BAD, "seed"),
    Hostile("text as a seed", post(job(seed="7")), BAD, "seed"),
    Hostile("true as a cap", post(job(budget={"max_model_calls": True})), BAD, "budget.max_model_calls"),
    Hostile("a word as a parameter", post(job(params={"n": "many"})), BAD, "n"),
    Hostile("a fraction of a sample", post(job(params={"n": 1.5})), BAD, "n"),
    Hostile("2**62 samples", post(job(params={"n": 2**62})), BAD, "n"),
    Hostile("a budget below zero", post(job(budget={"max_output_tokens": -1})), BAD, "budget.max_output_tokens"),
    Hostile(
        "a huge budget", post(job(budget={"max_output_tokens": 2**53, "max_usd": 1e30, "max_seconds": 1e30})), FINE
    ),
    Hostile("a budget of nothing", post(job(budget="tokens=0")), BAD, "budget"),
    Hostile("a budget of NaN dollars", post(job(budget="usd=nan")), BAD, "budget"),
    Hostile("a budget of endless seconds", post(job(budget="seconds=inf")), BAD, "budget"),
    Hostile("a budget of 10**30 tokens", post(job(budget="tokens=" + "9" * 30)), BAD, "budget"),
    Hostile("a budget that is a program", post(job(budget="tokens=__import__('os')")), BAD, "budget"),
    Hostile("a deadline in a moment", post(job(deadline_s=1e-300)), FINE),
    Hostile("a deadline in aeons", post(job(deadline_s=1e30)), FINE),
    Hostile("no deadline at all", post(job(deadline_s=0)), BAD, "deadline_s"),
    Hostile("the highest priority and one more", post(job(priority=101)), BAD, "priority"),
    Hostile("n of a million", post(chat(n=1_000_000), to=CHAT), BAD, "n"),
    Hostile("n below one", post(chat(n=0), to=CHAT), BAD, "n"),
    Hostile("max_tokens below one", post(chat(max_tokens=-5), to=CHAT), BAD, "max_tokens"),
    Hostile("top_logprobs of a thousand", post(chat(logprobs=True, top_logprobs=1000), to=CHAT), BAD, "top_logprobs"),
    Hostile("a temperature of 1e30", post(chat(temperature=1e30), to=CHAT), BAD, "temperature"),
    Hostile("stream as a word", post(chat(stream="yes"), to=CHAT), BAD, "stream"),
]
