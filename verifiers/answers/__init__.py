"""Final answers: finding them in what a model wrote, and telling whether two are the same."""

from orchestrator.verifiers.answers.kinds import KIND_NAMES, AnswerKind
from orchestrator.verifiers.answers.reader import Reader, comparison_pool, open_reader

__all__ = ["KIND_NAMES", "AnswerKind", "Reader", "comparison_pool", "open_reader"]
