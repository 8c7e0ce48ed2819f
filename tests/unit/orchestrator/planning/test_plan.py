"""Plans: what they cost, what they say of others, and why there may be none."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.errors import InvalidRequest, NoPlan, mapping_of
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.demand import FanOut
from orchestrator.planning.plan import Drafting, Plan, PlanRequest, make_plan
from orchestrator.planning.profiles import Measurement, Profiles
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.workload import Lengths, Objectives, Workload, described

ALL = Catalogue.default()
CATALOGUE = ALL.only(["L4", "L40S", "H100"])  # fewer types, for time
MODELS = {
    "small": open_shape("llama-3.1-8b"),
    "large": open_shape("llama-3.1-70b"),
    "verifier": open_shape("llama-3.2-3b"),
}
CHAT = described(Lengths(600, 1.2), Lengths(250, 0.8), rate=10.0)


def request(**fields: object) -> PlanRequest:
    given = {"queries": CHAT, "shapes": MODELS, "catalogue": CATALOGUE, "objectives": Objectives(ttft_s=2.0)}
    return PlanRequest(**{**given, **fields})


@pytest.fixture(scope="module")
def chat() -> Plan:
    return make_plan(request())


def test_a_plan_is_no_dearer_than_any_of_the_plans_beside_it(chat: Plan) -> None:
    assert chat.mix.gap == 0
    costs = [single.usd_per_hour for single in chat.singles if single.usd_per_hour is not None]
    assert len(chat.singles) == len(CATALOGUE.gpus)
    assert costs
    assert chat.usd_per_hour <= min(costs) + 1e-9
    assert chat.unrouted.usd_per_hour is not None
    assert chat.best_single is not None
    assert chat.saving(chat.best_single) == pytest.approx(1 - chat.usd_per_hour / min(costs))


def test_replicas_are_busy_with_the_load_and_not_with_the_headroom(chat: Plan) -> None:
    (small,) = chat.roles
    for kind, busy in small.loads.items():
        assert 0 < busy <= 1 / 1.2 + 1e-4
        served = small.shares[kind] * small.workload.rates
        work = float((served[served > 0] / small.capacities[kind].rates[served > 0]).sum())
        assert busy == pytest.approx(work / small.replicas[kind])
    assert sum(small.rate(kind) for kind in small.replicas) == pytest.approx(CHAT.rate)


def test_assumptions_name_what_is_not_measured(chat: Plan) -> None:
    text = "\n".join(chat.assumptions)
    for word in ("prices", "AWS", "idealised", "50% of peak FLOPs", "headroom", "Poisson"):
        assert word in text
    drafted = make_plan(request(drafting=Drafting(shape=open_shape("llama-3.2-1b"), acceptance=0.6)))
    assert "acceptance of 60%" in "\n".join(drafted.assumptions)


def test_cost_grows_with_the_rate_and_with_tighter_objectives() -> None:
    by_rate = [make_plan(request(queries=CHAT.scaled(factor))).usd_per_hour for factor in (0.1, 1, 3)]
    assert by_rate == sorted(by_rate)
    by_goal = [make_plan(request(objectives=Objectives(ttft_s=2.0, tpot_s=s))).usd_per_hour for s in (0.2, 0.05, 0.02)]
    assert by_goal == sorted(by_goal)


def test_wider_policies_and_more_replicas_cost_more() -> None:
    one = make_plan(request()).usd_per_hour
    wide = make_plan(request(fan_out=FanOut(policy="best_of_n", width=8)))
    assert wide.usd_per_hour > one
    assert [role.role for role in wide.roles] == ["small", "verifier"]
    spare = make_plan(request(queries=CHAT.scaled(0.01), least=3))
    assert sum(spare.roles[0].replicas.values()) >= 3


def test_a_draft_model_takes_memory_and_gets_lengths_by_load() -> None:
    plan = make_plan(request(drafting=Drafting(shape=open_shape("llama-3.2-1b"))))
    (small,) = plan.roles
    for kind, drafts in small.drafts.items():
        assert drafts[0].first == 1
        assert drafts[-1].last == small.concurrency(kind)


def test_measurements_decide_and_are_counted() -> None:
    rows = [
        Measurement(model="llama-3.1-8b", gpu="L4", input_tokens=i, output_tokens=o, requests_per_s=500.0)
        for i in (10, 100, 1000, 8000)
        for o in (10, 100, 1000, 4000)
    ]
    plan = make_plan(request(profiles=Profiles(tuple(rows))))
    assert {kind.gpu for kind in plan.roles[0].replicas} == {"L4"}
    assert "0 of" not in plan.assumptions[1]


def sentence(**fields: object) -> str:
    with pytest.raises(NoPlan) as caught:
        make_plan(request(**fields))
    assert mapping_of(caught.value) == (2, 422)
    assert caught.value.reasons
    return caught.value.message


def test_an_objective_that_no_gpu_keeps_names_the_nearest_that_would_do() -> None:
    message = sentence(objectives=Objectives(ttft_s=0.001, tpot_s=0.1))
    assert "no GPU has a TTFT of at most 0.001 s" in message
    nearest = float(message.split("--ttft ")[1].split()[0])
    assert make_plan(request(objectives=Objectives(ttft_s=nearest, tpot_s=0.1))).usd_per_hour > 0


def test_a_pace_that_no_gpu_keeps_names_the_nearest_that_would_do() -> None:
    message = sentence(objectives=Objectives(ttft_s=10.0, tpot_s=0.001))
    nearest = float(message.split("--tpot ")[1].split()[0])
    assert make_plan(request(objectives=Objectives(ttft_s=10.0, tpot_s=nearest))).usd_per_hour > 0


def test_a_model_that_fits_no_gpu_says_how_many_it_takes() -> None:
    shapes = {"small": open_shape("llama-3.1-70b")}
    short = described(Lengths(100), Lengths(100), rate=1.0)
    message = sentence(queries=short, shapes=shapes, catalogue=CATALOGUE.only(["L4", "H100"]), max_gpus=1)
    assert "8 x L4" in message
    assert "4 x H100" in message or "2 x H100" in message
    count = int(message.split(" x H100")[0].split()[-1])
    found = make_plan(request(queries=short, shapes=shapes, catalogue=CATALOGUE.only(["H100"]), max_gpus=count))
    assert found.usd_per_hour > 0


def test_caps_that_bind_are_named_with_what_would_do() -> None:
    heavy = CHAT.scaled(20)
    message = sentence(queries=heavy, catalogue=CATALOGUE.only(["L4", "L40S"]), caps={"L4": 4, "L40S": 4})
    assert "the caps bind (L4 4, L40S 4)" in message
    needed = int(message.split("L40S to ")[1].split()[0].replace(",", ""))
    enough = {"L4": 4, "L40S": needed}
    assert make_plan(request(queries=heavy, catalogue=CATALOGUE.only(["L4", "L40S"]), caps=enough)).usd_per_hour > 0
    sentence(queries=heavy, catalogue=CATALOGUE.only(["L4", "L40S"]), caps={"L4": 4, "L40S": needed - 1})


def test_all_types_may_be_used() -> None:
    plan = make_plan(request(catalogue=ALL, queries=CHAT.scaled(0.2)))
    assert [single.name for single in plan.singles] == list(ALL.gpus)


def test_a_cap_of_nothing_leaves_a_type_out() -> None:
    plan = make_plan(request(caps={"L4": 0, "L40S": 0}))
    assert not {"L4", "L40S"} & {kind.gpu for kind in plan.roles[0].replicas}
    assert "cap" in next(single.reason for single in plan.singles if single.name == "L40S")


def test_requests_longer_than_the_context_are_refused_by_role() -> None:
    long = described(Lengths(5000), Lengths(100), rate=1.0)
    with pytest.raises(InvalidRequest, match=r"requests to small are up to 5,100 tokens long.*4,096"):
        make_plan(request(queries=long, shapes={"small": open_shape("llama-2-7b")}))


def test_more_replicas_than_a_fleet_has_are_refused() -> None:
    assert "10,000" in sentence(queries=CHAT.scaled(1e5), catalogue=CATALOGUE.only(["L4"]))


def test_a_role_without_a_model_is_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="--model verifier="):
        request(shapes={"small": MODELS["small"]}, fan_out=FanOut(policy="best_of_n", width=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("headroom", -0.1),
        ("headroom", float("nan")),
        ("slices", 0),
        ("least", 0),
        ("max_gpus", 64),
        ("caps", {"L4": -1}),
    ],
)
def test_numbers_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest):
        request(**{field: value})


def test_one_request_a_day_takes_one_replica() -> None:
    rare = Workload.of_lengths(np.array([10.0]), np.array([1.0]), rate=1 / 86400)
    plan = make_plan(request(queries=rare))
    assert plan.mix.nodes == {("L4", "g6.xlarge"): 1}


def test_prefix_hits_and_headroom_change_what_is_paid_for() -> None:
    cached = replace(CHAT, cached_tokens=np.floor(CHAT.input_tokens * 0.9))
    heavy, lighter = CHAT.scaled(4), replace(cached, rates=CHAT.rates * 4)
    assert make_plan(request(queries=lighter)).usd_per_hour < make_plan(request(queries=heavy)).usd_per_hour
    more = make_plan(request(queries=heavy, headroom=1.0)).usd_per_hour
    assert more > make_plan(request(queries=heavy, headroom=0.0)).usd_per_hour
