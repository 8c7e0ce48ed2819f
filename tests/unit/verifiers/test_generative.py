import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine import FinishReason, Message, Prompt, TokenScores
from orchestrator.errors import InvalidRequest
from orchestrator.verifier import Candidate, Completion
from orchestrator.verifiers.generative import Generative, probability_of_yes


class FakeMeter:
    """Answers each question with the next of given completions."""

    def __init__(self, completions: Sequence[Completion | None]) -> None:
        self._completions = completions
        self.prompts: list[Prompt] = []
        self.options: dict[str, object] = {}

    async def generate(self, prompts: Sequence[Prompt], **options: object) -> Sequence[Completion | None]:
        self.prompts += prompts
        self.options = options
        return self._completions

    async def score_tokens(self, prompts: Sequence[Prompt], *args: object, **options: object) -> Sequence[TokenScores]:
        raise NotImplementedError


def completion(**probabilities: float) -> Completion:
    first = tuple((token.replace("_", " "), math.log(value)) for token, value in probabilities.items())
    return Completion(text="", finish=FinishReason.LENGTH, output_tokens=1, first_token=first)


def candidate(*, text: str = "2 + 2 = {4}", answer: str | None = "{problem} 4") -> Candidate:
    prompt = Prompt((Message("user", "p"),))
    return Candidate(
        problem="What is 2 + 2?", text=text, answer=answer, answer_class=answer, is_final=bool(answer), prompt=prompt
    )


def test_the_probability_is_renormalised_over_all_spellings_of_yes_and_no():
    found = probability_of_yes(completion(Yes=0.3, _yes=0.1, YES=0.1, No=0.1, _no=0.1, Maybe=0.3))
    assert found == pytest.approx(0.5 / 0.7)
    sentencepiece = Completion(
        text="", finish=FinishReason.STOP, output_tokens=1, first_token=(("\u2581Yes", -1.0), ("\u0120No", -1.0))
    )
    assert probability_of_yes(sentencepiece) == pytest.approx(0.5)


def test_one_of_the_two_is_enough_and_neither_is_a_missing_score():
    assert probability_of_yes(completion(Yes=0.3)) == 1.0
    assert probability_of_yes(completion(No=0.3)) == 0.0
    assert probability_of_yes(completion(Sure=0.9, Yesterday=0.1)) is None
    assert probability_of_yes(completion()) is None


@given(st.lists(st.tuples(st.sampled_from(["Yes", " no", "No", "x"]), st.floats(allow_nan=True))))
def test_it_is_a_probability_or_missing_whatever_the_engine_says(first):
    found = probability_of_yes(Completion(text="", finish=FinishReason.STOP, output_tokens=1, first_token=tuple(first)))
    assert found is None or 0 <= found <= 1


async def test_one_token_is_asked_for_per_candidate_and_unpaid_ones_are_missing():
    meter = FakeMeter([completion(Yes=0.8, No=0.2), None])
    scores = await Generative(model="judge").score([candidate(), candidate(answer=None)], meter)
    assert scores == [pytest.approx(0.8), None]
    assert (meter.options["model"], meter.options["max_tokens"], meter.options["num_logprobs"]) == ("judge", 1, 20)


def test_the_question_holds_problem_text_and_answer_as_they_are():
    whole = Generative().question(candidate()).messages[0].content
    assert "What is 2 + 2?" in whole
    assert "2 + 2 = {4}" in whole
    assert "{problem} 4" in whole
    partial = Generative().question(candidate(answer=None)).messages[0].content
    assert "so far" in partial
    own = Generative(template="{answer}? {braces} {text}").question(candidate(text="{answer}"))
    assert own.messages[0].content == "{problem} 4? {braces} {answer}"


def test_too_few_alternatives_are_refused():
    with pytest.raises(InvalidRequest) as raised:
        Generative(num_logprobs=1)
    assert raised.value.field == "num_logprobs"
