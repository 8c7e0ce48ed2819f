"""What a fleet on a cluster has to change, and what is made of what Ray Serve tells; no cluster here."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.fleet_file import FleetFile
from orchestrator.workers.ray.fleet_changes import Changes, changes_between, version_of
from orchestrator.workers.ray.fleet_status import FAILED, MISSING, READY, STARTING, STOPPING, reason_of, status_of

TRACE = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:ttc.bad:engine.initialize_and_get_metadata() (pid=1, ip=127.0.0.2)
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/somewhere/replica.py", line 1, in __init__
    engine = await opened(seat, entry)
orchestrator.errors.UnknownName: unknown model 'x'; known: a, b
"""


def fleet_of(**models: dict[str, Any]) -> FleetFile:
    return FleetFile.model_validate(
        {"models": {name: {"model": "lab:small", **entry} for name, entry in models.items()}}
    )


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "same"),
        ({"replicas": 3}, "scaled"),
        ({"replicas": {"min": 1, "max": 4}, "autoscale": {"target_ongoing": 3}}, "scaled"),
        ({"max_ongoing": 5}, "scaled"),
        ({"model": "lab:large"}, "changed"),
        ({"engine": {"context_cells": 512}}, "changed"),
        ({"cpus": 2}, "changed"),
        ({"affinity": {"is_on": False}}, "changed"),
    ],
)
def test_an_entry_is_left_alone_scaled_or_started_anew(changed: dict[str, Any], kind: str):
    before, after = fleet_of(a={}, b={}), fleet_of(a=changed, b={})
    found = changes_between(before, after, present={"a", "b"})
    assert "a" in getattr(found, kind)
    assert "b" in found.same
    assert sum(map(len, found)) == 2


def test_roles_and_prices_are_the_callers_business():
    before, after = fleet_of(a={}), fleet_of(a={"roles": ["small"], "prices": {"output_usd": 1}})
    assert changes_between(before, after, present={"a"}).changed == ()


def test_a_version_changes_with_what_replicas_are_started_anew_for():
    first = version_of(fleet_of(a={}), "a")
    assert version_of(fleet_of(a={"replicas": 4, "prices": {"output_usd": 1}}), "a") == first
    assert version_of(fleet_of(a={"cpus": 2}), "a") != first
    assert version_of(fleet_of(a={}, b={"with": "a"}), "a") != first
    assert version_of(fleet_of(a={}), "a", salt="again") != first


def test_models_come_and_go_with_their_company():
    before = fleet_of(a={}, draft={"with": "a"}, old={})
    after = fleet_of(a={}, new={}, other={"with": "new"})
    found = changes_between(before, after, present={"a", "old"})
    assert found == Changes(added=("new",), changed=("a",), removed=("old",))


def test_a_model_whose_application_was_deleted_by_others_is_added_again():
    fleet = fleet_of(a={}, b={})
    assert changes_between(fleet, fleet, present={"b"}) == Changes(added=("a",), same=("b",))
    assert changes_between(None, fleet, present={"b"}).added == ("a", "b")


def told(status: str, *states: str, target: int = 2, message: str = "", application: str = "RUNNING") -> dict[str, Any]:
    deployment = {
        "status": status,
        "message": message,
        "target_num_replicas": target,
        "replicas": [{"state": state, "replica_id": f"r{number}"} for number, state in enumerate(states)],
        "recent_dead_replicas": [{}],
    }
    return {"status": application, "message": "", "deployments": {"engine": deployment}}


def test_a_model_is_ready_when_its_replicas_run():
    status = status_of("m", told("HEALTHY", "RUNNING", "RUNNING"), ongoing=3, engine={"prompt_tokens": 4})
    assert (status.state, status.replicas, status.target, status.num_ended) == (READY, {"RUNNING": 2}, 2, 1)
    assert (status.ids, status.ongoing, status.cache_hit_rate) == (("r0", "r1"), 3, 0.0)


@pytest.mark.parametrize(
    ("application", "state"),
    [
        (None, MISSING),
        (told("UPDATING", "STARTING"), STARTING),
        (told("HEALTHY", "STARTING"), STARTING),
        (told("DEPLOY_FAILED", message=TRACE), FAILED),
        (told("HEALTHY", "STOPPING", application="DELETING"), STOPPING),
        ({"status": "DEPLOYING", "message": "soon", "deployments": {}}, STARTING),
        ({"status": "DEPLOY_FAILED", "message": "no", "deployments": {}}, FAILED),
    ],
)
def test_a_model_that_is_not_ready_says_what_it_is(application: dict[str, Any] | None, state: str):
    assert status_of("m", application).state == state


def test_a_model_scaled_to_nothing_is_ready():
    assert status_of("m", told("HEALTHY", target=0)).state == READY


def test_of_a_stack_trace_the_reason_is_kept():
    assert reason_of(TRACE) == "unknown model 'x'; known: a, b"
    foreign = TRACE.replace("orchestrator.errors.UnknownName: unknown", "torch.OutOfMemoryError: unknown")
    assert reason_of(foreign) == "OutOfMemoryError: unknown model 'x'; known: a, b"
    assert reason_of("2 replicas wait\nfor   room") == "2 replicas wait for   room"
    assert reason_of("") == ""
