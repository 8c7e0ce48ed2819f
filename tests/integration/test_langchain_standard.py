"""The standard suites of LangChain on `ChatOrchestrator`, over HTTP against the real application, and in process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from orchestrator.langchain import ChatOrchestrator

from .app_in_thread import Running, running_app
from .langchain_script import ObedientEngine

pytestmark = [
    pytest.mark.server,
    # a plugin that langchain-tests brings along
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pytest_benchmark"),
]


class TestTheUnitSuite(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOrchestrator

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:9", "model": "ttc/single"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"TTC_API_KEY": "ttc-key", "TTC_BASE_URL": "http://host"}, {}, {"model": "ttc/auto"}


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running_app(ObedientEngine()) as running:
        yield running


class OverHttp(ChatModelIntegrationTests):
    """Images, sound and documents cannot be read: messages hold text only."""

    policy = "single"
    method = "json_schema"
    params: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _address(self, service: Running) -> None:
        self.address = service.address

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOrchestrator

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": self.address, "model": f"ttc/{self.policy}", "params": self.params or None}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": self.method}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "ttc/self_consistency"

    @property
    def has_tool_choice(self) -> bool:
        return True


class TestTheIntegrationSuiteOnSingle(OverHttp):
    pass


class TestTheIntegrationSuiteWithSchemasAsTools(OverHttp):
    method = "function_calling"


class TestTheIntegrationSuiteOnAVote(OverHttp):
    policy = "self_consistency"
    params: ClassVar[dict[str, Any]] = {"n": 3}
