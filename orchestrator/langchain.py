"""LangChain: `ChatOrchestrator`, a chat model, and `VerifiedAnswer`, a runnable that also tells how sure it is."""
