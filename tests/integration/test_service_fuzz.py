"""Requests that are made up from the OpenAPI document itself, against the running service.

Half of what is made up follows the document, half breaks it. As names and ids are just strings in a document, most of
them are replaced by ones that exist in what follows it, which then reaches the policies, the store and the streams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi_checks

from .service_command import serving
from .shell import SCRIPTED, Shell

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

SEED = 20
NUM_EXAMPLES = 5
NUM_EXAMPLES_SOAK = 500
TIMEOUT_S = 20.0

CHECKS = [
    not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.negative_data_rejection,
]
OF_BODIES = [openapi_checks.response_schema_conformance]
"""A document of this version of OpenAPI has no words for the events of a stream; `check_block` looks at them."""
POLICIES = ["single", "self_consistency", "best_of_n", "beam_search", "ab_mcts", "mcts", "cascade", "budget_forcing"]
MODELS = ["ttc/auto", "arithmetic", "small", *(f"ttc/{policy}" for policy in POLICIES)]
NAMES: dict[str, list[Any]] = {
    "policy": POLICIES,
    "model": MODELS,
    "verifier": ["majority", "generative", "process_reward", None],
    "answer": ["auto", "boxed", "number", "choice", "json", "text", "open"],
    "budget": ["tokens=200", "usd=0.001,seconds=2", {"max_output_tokens": 50}, None],
    "params": [{}, {"n": 3}],
    "previous_response_id": [None],
    "response_format": [{"type": "json_object"}, None],
    "tools": [[], None],
    "tool_choice": [None],
    "logprobs": [False, True],
    "stop": [None, "\n"],
}
"""Values that mean something, for the fields of bodies that are called so."""


@dataclass(frozen=True)
class Served:
    """A service with something in it.

    Attributes:
        address: Where it is.
        schema: Its document.
        ids: Of things that exist, by the name of the parameter.
    """

    address: str
    schema: BaseSchema
    ids: dict[str, list[str]]

    @property
    def operations(self) -> list[APIOperation]:
        return [found.ok() for found in self.schema.get_all_operations()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzzed")
    shell = Shell(folder, {"TTC_SERVICE__MAX_WAIT_S": "1", "TTC_SERVICE__HEARTBEAT_S": "1"})
    with serving(shell, *SCRIPTED, "--store", str(folder / "jobs.sqlite")) as (running, client):
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        schema.config.update(base_url=str(client.base_url))
        schema.config.generation.update(with_security_parameters=False)  # it has no keys
        schema.config.checks.negative_data_rejection.expected_statuses.append("413")
        yield Served(str(client.base_url), schema, _made(client))
        assert [line for line in running.lines if '"critical"' in line or "Traceback" in line] == []


def _made(client: httpx.Client) -> dict[str, list[str]]:
    job = {"problem": "What is 3 + 4?", "policy": "self_consistency", "params": {"n": 3}}
    reply = {"model": "ttc/single", "input": "What is 3 + 4?"}
    jobs = [client.post("/v1/jobs?wait=1", json=job | {"seed": number}).json()["id"] for number in range(3)]
    batches = [client.post("/v1/batches", json={"requests": [job, job]}).json()["id"]]
    responses = [client.post("/v1/responses", json=reply).json()["id"]]
    return {"job_id": jobs, "batch_id": batches, "batch": batches, "response_id": responses, "name": MODELS}


def plausible(operation: APIOperation, ids: dict[str, list[str]], mode: GenerationMode) -> st.SearchStrategy[Case]:
    """Requests to an operation, some of whose names and ids exist."""

    @st.composite
    def made(draw: st.DrawFn) -> Case:
        case = draw(operation.as_strategy(generation_mode=mode))
        if mode is GenerationMode.NEGATIVE:
            return case  # what was broken in it must stay broken
        if isinstance(case.body, dict):
            case.body = _with_names(draw, case.body)
        for name in [name for name in case.path_parameters or {} if name in ids]:
            if draw(st.integers(0, 3)):
                case.path_parameters = {**case.path_parameters, name: draw(st.sampled_from(ids[name]))}
        return case

    return made()


def _with_names(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    found = dict(body)
    for name, values in NAMES.items():
        if name in found and draw(st.integers(0, 3)):
            found[name] = draw(st.sampled_from(values))
    if "requests" in found:
        found["requests"] = [_with_names(draw, job) for job in found["requests"]]
    return found


def check(case: Case, response: schemathesis.Response) -> None:
    """Whether a response is as the document says."""
    is_stream = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
    case.validate_response(response, checks=CHECKS if is_stream else [*CHECKS, *OF_BODIES])
    assert "Traceback" not in response.text
    if is_stream:
        for block in response.text.strip().split("\n\n"):
            check_block(block)
    elif response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        assert error["message"]


def check_block(block: str) -> None:
    """Whether a block of a stream is an event with JSON in it, a comment, or the end."""
    lines = dict(line.split(":", 1) for line in block.split("\n"))
    assert set(lines) <= {"id", "event", "data", "retry", ""}
    if "data" in lines and lines["data"] != " [DONE]":
        json.loads(lines["data"])


def fuzz(served: Served, *, num_examples: int) -> int:
    """Sends made-up requests to each operation; returns how many were sent."""
    num_sent, failures = 0, list[Exception]()
    with requests.Session() as session:
        for operation in served.operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.NEGATIVE and not _takes_anything(operation):
                    continue

                @seed(SEED)
                @settings(
                    max_examples=num_examples if _takes_anything(operation) else 1,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate, Phase.shrink],
                )
                @given(case=plausible(operation, served.ids, mode))
                def holds(case: Case) -> None:
                    nonlocal num_sent
                    response = case.call(session=session, timeout=TIMEOUT_S)
                    num_sent += 1
                    check(case, response)

                try:
                    holds()
                except Exception as failure:
                    failure.add_note(f"{operation.label}, {mode.name.lower()} requests")
                    failures.append(failure)
    if failures:
        raise ExceptionGroup("the service does not do what its document says", failures)
    return num_sent


def _takes_anything(operation: APIOperation) -> bool:
    return bool(list(operation.iter_parameters()) or list(operation.body))


def test_what_is_made_up_from_the_document_is_answered_as_it_says(served: Served) -> None:
    assert len(served.operations) >= 22
    assert fuzz(served, num_examples=NUM_EXAMPLES) > 100
    assert httpx.get(f"{served.address}/readyz").status_code == 200


def test_generators_of_clients_find_one_plain_name_for_each_operation_and_type(served: Served) -> None:
    document = served.schema.raw_schema
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names) >= 22
    assert all(re.fullmatch("[a-z_]{4,30}", name) for name in names)
    types = document["components"]["schemas"]
    assert all(re.fullmatch("[A-Z][A-Za-z]+", name) for name in types)
    titles = [schema["title"] for schema in types.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_requests_that_are_made_up_from_the_document(served: Served) -> None:
    assert fuzz(served, num_examples=NUM_EXAMPLES_SOAK) > 5_000
    assert httpx.get(f"{served.address}/readyz").status_code == 200
