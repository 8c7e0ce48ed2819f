from __future__ import annotations

from typing import Any

import pytest

from orchestrator import registry
from orchestrator.api.service.openai.chat_request import ChatRequest
from orchestrator.api.service.openai.effort import WIDTHS, width_param
from orchestrator.api.service.openai.model_names import known_names
from orchestrator.api.service.openai.planning import Plan, plan
from orchestrator.config import ServiceSettings, Settings
from orchestrator.engine import Capability
from orchestrator.errors import CapabilityMissing, InvalidRequest, UnknownName
from orchestrator.fleet import Fleet
from orchestrator.testing import ScriptedEngine
from orchestrator.testing.scripted import ALL_CAPABILITIES

TOOL = {"type": "function", "function": {"name": "look"}}
SETTINGS = Settings(max_sample_tokens=100)


def a_fleet(**options: Any) -> Fleet:
    return Fleet.of(small=ScriptedEngine("x", name="tiny", **options))


def planned(fleet: Fleet | None = None, settings: Settings = SETTINGS, **body: Any) -> Plan:
    whole = {"model": "ttc/self_consistency", "messages": [{"role": "user", "content": "why?"}], **body}
    return plan(ChatRequest.model_validate(whole).wish(), fleet or a_fleet(), settings)


def tokens(made: Plan) -> int | None:
    caps = made.job.caps()
    assert caps is not None
    assert not isinstance(caps, str)
    return caps.max_output_tokens


@pytest.mark.parametrize(
    ("model", "policy", "params"),
    [
        ("ttc/auto", "adaptive_consistency", {}),
        ("ttc/best_of_n", "best_of_n", {}),
        ("tiny", "single", {"model": "tiny", "n": 1}),
        ("small", "single", {"model": "small", "n": 1}),
    ],
)
def test_a_models_name_says_who_decides(model: str, policy: str, params: dict[str, Any]) -> None:
    made = planned(model=model)
    assert (made.policy, made.job.params) == (policy, params)


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(UnknownName) as caught:
        planned(model="gpt-4o")
    assert {"ttc/auto", "ttc/single", "tiny", "small"} <= set(caught.value.known)
    assert "ttc/cascade" not in known_names(a_fleet())
    assert "ttc/cascade" in known_names(Fleet.of(small=ScriptedEngine("x"), large=ScriptedEngine("y")))


@pytest.mark.parametrize("policy", registry.names("policy"))
@pytest.mark.parametrize("effort", WIDTHS)
def test_every_effort_gives_every_policy_parameters_that_it_takes(policy: str, effort: str) -> None:
    fleet = Fleet.of(small=ScriptedEngine("x"), large=ScriptedEngine("y"))
    made = planned(fleet, model=f"ttc/{policy}", reasoning_effort=effort)
    decided = registry.load_policy(policy)
    params = decided.params(made.job.params)
    if (name := width_param(decided)) is not None:
        assert getattr(params, name) == WIDTHS[effort]
    width = 1 if policy == "single" else WIDTHS[effort]
    assert tokens(made) == width * 100 + 1


def test_the_cap_is_width_times_length_and_the_reserve_for_stating_an_answer() -> None:
    assert tokens(planned(max_completion_tokens=50)) == 8 * 50 + 1
    assert tokens(planned(max_tokens=50, ttc={"params": {"n": 3}})) == 3 * 50 + 1
    with_cue = planned(max_completion_tokens=50, ttc={"answer": "boxed"}).job.caps()
    assert with_cue is not None
    assert not isinstance(with_cue, str)
    assert (with_cue.max_output_tokens, with_cue.answer_reserve_tokens) == (8 * 50 + 40, 40)
    assert tokens(planned(model="tiny", n=4, max_tokens=50)) == 4 * 50 + 1


def test_a_budget_of_the_client_goes_before_all_others() -> None:
    made = planned(max_tokens=50, reasoning_effort="high", ttc={"budget": "tokens=77,seconds=3"})
    assert (tokens(made), made.job.caps().max_seconds) == (77, 3)  # type: ignore[union-attr]  # a budget
    sure = planned(model="ttc/auto", ttc={"budget": {"max_usd": 0.5}, "target_confidence": 0.9}).job.caps()
    assert (sure.max_usd, sure.target_confidence) == (0.5, 0.9)  # type: ignore[union-attr]


def test_the_services_default_holds_for_those_who_say_nothing() -> None:
    settings = Settings(service=ServiceSettings(default_budget="tokens=500"))
    assert tokens(planned(settings=settings)) == 500
    assert tokens(planned(settings=settings, max_tokens=10)) == 81


def test_each_candidate_has_the_clients_length() -> None:
    made = planned(model="ttc/rebase", max_completion_tokens=300)
    assert (made.job.max_sample_tokens, made.job.params["max_tokens"]) == (300, 300)


def test_effort_none_takes_one_reply_unless_a_policy_was_named() -> None:
    assert planned(model="ttc/auto", reasoning_effort="none").policy == "single"
    assert planned(model="ttc/self_consistency", reasoning_effort="none").job.params == {"n": 1}


def test_policies_have_their_own_sampling_and_single_has_the_clients() -> None:
    request = {"temperature": 0.3, "top_p": 0.9, "top_k": -1}
    assert planned(**request).job.sampling is None
    assert planned(**request).sampling == {"from": "policy"}
    single = planned(model="tiny", **request)
    expected = {"temperature": 0.3, "top_p": 0.9, "top_k": 0, "min_p": 0.0}
    assert single.sampling == {"from": "request", **expected}
    assert planned(**request, ttc={"sampling": "request"}).sampling == {"from": "request", **expected}
    own = planned(**request, ttc={"sampling": {"temperature": 1.0}})
    assert own.sampling == {"from": "ttc", "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
    assert planned(model="tiny", **request, ttc={"sampling": "policy"}).job.sampling is None


def test_several_replies_of_one_model_are_not_all_the_same() -> None:
    assert planned(model="tiny", n=3).job.params["temperature"] > 0
    assert "temperature" not in planned(model="tiny").job.params


def test_seeds_are_the_clients_or_drawn() -> None:
    assert planned(seed=5).job.seed == 5
    assert planned(seed=-1).job.seed == 2**63 - 1
    assert planned(seed=5, ttc={"seed": 6}).job.seed == 6
    assert planned().job.seed != planned().job.seed


def test_a_last_word_of_the_assistant_is_the_beginning_of_the_reply() -> None:
    said = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "Because"}]
    made = planned(messages=said)
    assert made.form.prefix == "Because"
    assert [message.role for message in made.job.messages or ()] == ["user"]
    with pytest.raises(InvalidRequest, match="nothing to reply to"):
        planned(messages=said[1:])


def test_answers_are_read_by_the_form_of_the_reply() -> None:
    assert planned().job.answer == "open"
    assert planned(response_format={"type": "json_object"}).job.answer == "json"
    assert planned(ttc={"answer": "choice"}).job.answer == "choice"


def test_text_is_shown_while_it_is_generated_where_it_can_only_be_the_answer() -> None:
    form = {"response_format": {"type": "json_object"}}
    assert planned(model="tiny").streams_live
    assert not planned().streams_live
    assert not planned(model="tiny", **form).streams_live
    able = a_fleet(capabilities=[*ALL_CAPABILITIES, Capability.GRAMMAR])
    assert planned(able, model="tiny", **form).streams_live


def test_tools_are_for_policies_that_take_whole_replies_as_they_are() -> None:
    assert planned(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look"}}).form.tools is not None
    for policy in ("best_of_n", "rebase", "tree_of_thoughts", "budget_forcing"):
        with pytest.raises(CapabilityMissing, match="ttc/self_consistency"):
            planned(model=f"ttc/{policy}", tools=[TOOL])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"ttc": {"policy": "single"}}, "name two policies"),
        ({"model": "tiny", "ttc": {"policy": "rebase", "params": {"n": 1}}}, None),
        ({"model": "tiny", "ttc": {"policy": "ab_mcts"}}, "by role"),
        ({"model": "tiny", "n": 2, "ttc": {"params": {"n": 3}}}, "in n"),
        ({"logprobs": True}, "single"),
    ],
)
def test_contradictions_are_refused(body: dict[str, Any], says: str | None) -> None:
    if says is None:
        assert planned(**body).policy == "rebase"
        return
    with pytest.raises(InvalidRequest, match=says):
        planned(**body)
