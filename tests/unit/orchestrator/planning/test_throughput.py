"""Idealised step times equal the arithmetic they are said to be."""

import numpy as np
import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.planning.catalogue import Catalogue
from orchestrator.planning.shapes import open_shape
from orchestrator.planning.throughput import Assumptions, Deployment, StepTimes

GPUS = Catalogue.default().gpus
LLAMA = open_shape("llama-3.1-8b")
PLAIN = Assumptions(compute=1.0, bandwidth=1.0, link=1.0, link_latency_s=0.0, step_s=0.0, memory=1.0, reserved_gib=0.0)


def times(gpu: str = "H100", gpus: int = 1, shape: str = "llama-3.1-8b", assumed: Assumptions = PLAIN) -> StepTimes:
    return StepTimes(Deployment(open_shape(shape), GPUS[gpu], gpus), assumed)


def test_decoding_few_sequences_takes_as_long_as_reading_weights_and_cache() -> None:
    weights, cache = 8_030_261_248 * 2, 4 * 1000 * 131_072
    assert times().decode_s(4, 1000) == pytest.approx((weights + cache) / 3350e9)


def test_decoding_many_sequences_takes_as_long_as_computing() -> None:
    flops = 2 * 8_030_261_248 * 1000 + 4 * 32 * 128 * 32 * 1000 * 10
    assert times().decode_s(1000, 10) == pytest.approx(flops / 989e12)


def test_a_prompt_takes_as_long_as_computing_it() -> None:
    flops = 2 * 8_030_261_248 * 3000 + 2 * (32 * 128 * 32) * 3000 * (2 * 500 + 3000)
    assert times().prefill_s(3000, 500) == pytest.approx(flops / 989e12)
    assert LLAMA.cost.flops(start=500, num_tokens=3000) == flops


def test_tensor_parallel_replicas_share_the_work_and_pay_for_all_reduces() -> None:
    alone, shared = times(gpus=1).prefill_s(1000), times(gpus=4).prefill_s(1000)
    sent = 2 * 32 * (2 * 3 / 4 * 2 * 4096 * 1000) / 450e9
    assert shared == pytest.approx(alone / 4 + sent)


def test_caches_are_copied_beyond_the_number_of_key_value_heads() -> None:
    few_heads = times("A100-80", 8, "qwen2.5-7b")
    memory = 8 * 80 * 2**30
    assert few_heads.kv_tokens == pytest.approx((memory - 7_615_616_512 * 2) / (57_344 * 2))


def test_experts_are_read_as_far_as_tokens_are_sent_to_them() -> None:
    shape = open_shape("mixtral-8x7b")
    one, many = times("B200", 1, "mixtral-8x7b").decode_s(1, 0), times("B200", 1, "mixtral-8x7b").decode_s(64, 0)
    assert one == pytest.approx(shape.active_parameters * 2 / 8000e9)
    assert many == pytest.approx(shape.parameters * 2 / 8000e9, rel=0.01)


def test_memory_is_what_weights_a_draft_and_reserves_leave() -> None:
    assumed = Assumptions(memory=0.9, reserved_gib=2.0)
    draft = open_shape("llama-3.2-1b")
    steps = StepTimes(Deployment(LLAMA, GPUS["L4"], 1), assumed, draft)
    free = 22.35 * 2**30 * 0.9 - 2 * 2**30 - 16_060_522_496 - draft.memory_bytes
    assert steps.kv_tokens == pytest.approx(free / (131_072 + 32_768))
    assert times("L4", shape="llama-3.1-70b").kv_tokens < 0


def test_arrays_give_what_their_elements_give() -> None:
    batch, context = np.array([1.0, 7.0, 300.0]), np.array([10.0, 2000.0, 500.0])
    together = times(assumed=Assumptions()).decode_s(batch, context)
    each = [float(times(assumed=Assumptions()).decode_s(b, c)) for b, c in zip(batch, context, strict=True)]
    assert together == pytest.approx(each)


def test_assumptions_are_read() -> None:
    assert Assumptions.parse("") == Assumptions()
    assert Assumptions.parse("compute=0.4, max_sequences=64") == Assumptions(compute=0.4, max_sequences=64)


@pytest.mark.parametrize(
    "text", ["compute=0", "compute=nan", "compute=2", "speed=3", "compute", "max_sequences=1.5", "step_s=-1", "link=x"]
)
def test_an_assumption_that_cannot_be_is_named(text: str) -> None:
    with pytest.raises(InvalidRequest, match=text.partition("=")[0]):
        Assumptions.parse(text)
