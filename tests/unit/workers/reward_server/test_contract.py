"""Reward servers of each form keep the promises of `RewardsSteps`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from orchestrator.engine import Engine
from orchestrator.testing.ability_contracts import RewardsStepsContract

from .conftest import STEPS, OpenOn
from .fake_server import FakeRewards

Fields = dict[str, Any]


class RewardServerContract(RewardsStepsContract):
    steps = STEPS
    reward_tolerance = 1e-6
    options: ClassVar[Fields] = {}
    habits: ClassVar[Fields] = {}

    @pytest.fixture
    async def engine(self, server: FakeRewards, open_on: OpenOn) -> Engine:
        for name, value in self.habits.items():
            setattr(server, name, value)
        engine = await open_on(**self.options)
        assert isinstance(engine, Engine)
        return engine


class TestJson(RewardServerContract):
    options: ClassVar[Fields] = {"form": "json"}


class TestPooling(RewardServerContract):
    options: ClassVar[Fields] = {"form": "pooling"}


class TestPoolingOfTextThatThisSideRenders(RewardServerContract):
    options: ClassVar[Fields] = {"form": "pooling", "template": "{problem} {steps}"}


class TestStepTagsOfVllm(RewardServerContract):
    options: ClassVar[Fields] = {"form": "step_tag"}


class TestStepTagsByEcho(RewardServerContract):
    options: ClassVar[Fields] = {"form": "step_tag", "prompt_logprobs": "echo"}
    habits: ClassVar[Fields] = {"owned_by": "someone"}


class TestStepTagsOneByOne(RewardServerContract):
    options: ClassVar[Fields] = {"form": "step_tag"}
    habits: ClassVar[Fields] = {"owned_by": "sglang"}


class TestAServerThatCountsNothing(RewardServerContract):
    options: ClassVar[Fields] = {"form": "pooling"}
    habits: ClassVar[Fields] = {"counts": False}
