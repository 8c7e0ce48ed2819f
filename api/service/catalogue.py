"""``/v1/policies`` and ``/v1/verifiers``: what jobs can ask for, with parameters."""

from __future__ import annotations

from fastapi import APIRouter

from orchestrator.api.descriptions import Description, described_policies, described_verifiers
from orchestrator.api.service.callers import Caller
from orchestrator.api.service.fields import errors
from orchestrator.api.service.requests import CatalogueView, DescriptionView

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/policies", responses=errors())
async def list_policies(who: Caller) -> CatalogueView:  # noqa: ARG001  # callers are let in, whoever they are
    """How a budget can be spent."""
    return _view(described_policies())


@router.get("/verifiers", responses=errors())
async def list_verifiers(who: Caller) -> CatalogueView:  # noqa: ARG001  # as above
    """Who can say whether an answer is right."""
    return _view(described_verifiers())


def _view(found: list[Description]) -> CatalogueView:
    return CatalogueView(data=[DescriptionView(**description.to_json()) for description in found])
