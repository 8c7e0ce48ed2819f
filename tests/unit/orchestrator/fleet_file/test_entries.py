"""What the entries of a fleet file mean, once they are read."""

from __future__ import annotations

import pytest

from orchestrator.cost import TokenPrices
from orchestrator.fleet_file import Accelerator, ModelEntry, Prices, Replicas


def test_replicas_may_be_a_number():
    assert ModelEntry.model_validate({"model": "m", "replicas": 3}).replicas == Replicas(min=3, max=3)
    assert Replicas.model_validate({"min": 2}) == Replicas(min=2, max=2)
    assert Replicas.model_validate({"min": 0}) == Replicas(min=0, max=1)


def test_a_lone_model_is_the_small_one(read):
    assert read('[models.it]\nmodel = "lab:small"').roles == {"small": "it"}
    assert read('[models.it]\nmodel = "lab:small"\nroles = ["embedder"]').roles == {"embedder": "it"}


def test_prices_by_the_hour_become_prices_of_tokens_where_speeds_are_known():
    prices = Prices(accelerator_hour_usd=3.6, prompt_tokens_per_s=1000, output_tokens_per_s=100)
    # 2 accelerators cost 0.002 dollars per second.
    assert prices.per_token(gpus=2) == TokenPrices(prompt_usd=pytest.approx(2.0), output_usd=pytest.approx(20.0))
    assert Prices(accelerator_hour_usd=3.6).per_token(gpus=2) is None
    assert Prices().per_token(gpus=0) is None
    assert Prices(output_usd=2).per_token(gpus=0) == TokenPrices(output_usd=2)


def test_shares_of_accelerators_are_told_from_whole_ones():
    assert Accelerator(gpus=0.5).is_shared
    assert not Accelerator(gpus=2).is_shared
    assert not Accelerator().is_shared
