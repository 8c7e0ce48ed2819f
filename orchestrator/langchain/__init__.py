"""LangChain: `ChatOrchestrator`, a chat model, and `VerifiedAnswer`, a runnable that also tells how sure it is.

Needs the extra ``langchain``.
"""

from orchestrator.errors import MissingDependency

try:
    from orchestrator.langchain.chat_model import ChatOrchestrator
    from orchestrator.langchain.verified import Verdict, VerifiedAnswer
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "langchain_core":
        raise
    raise MissingDependency(package="langchain-core", extra="langchain", purpose="orchestrator.langchain") from None

__all__ = ["ChatOrchestrator", "Verdict", "VerifiedAnswer"]
