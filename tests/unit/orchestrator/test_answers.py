"""Classes of equal answers: keys first, comparison only where keys cannot tell."""

import random

from orchestrator.answers import AnswerClasses


class Fractions:
    """Reads integers by key and ``p/q`` by comparison; counts comparisons."""

    instruction = ""
    cue = ""

    def __init__(self) -> None:
        self.compared: list[tuple[str, str]] = []

    def extract(self, text: str) -> str | None:
        return text

    def key(self, answer: str) -> str | None:
        return str(int(answer)) if answer.lstrip("-").isdigit() else None

    async def equivalent(self, left: str, right: str) -> bool:
        self.compared.append((left, right))
        return value(left) == value(right)

    async def aclose(self) -> None: ...


def value(answer: str) -> float:
    numerator, _, denominator = answer.partition("/")
    return int(numerator) / int(denominator or 1)


async def test_equal_keys_are_one_class_named_by_its_first_member():
    reader = Fractions()
    classes = AnswerClasses(reader)
    assert [await classes.classify(answer) for answer in ("042", "42", "7", "0042")] == ["042", "042", "7", "042"]
    assert reader.compared == []


async def test_answers_without_a_key_are_compared_with_one_member_of_each_class():
    reader = Fractions()
    classes = AnswerClasses(reader)
    answers = ["1/2", "3", "2/4", "6/2", "9/3"]
    assert [await classes.classify(answer) for answer in answers] == ["1/2", "3", "1/2", "3", "3"]
    assert reader.compared == [
        ("1/2", "3"),
        ("1/2", "2/4"),
        ("1/2", "6/2"),
        ("3", "6/2"),
        ("1/2", "9/3"),
        ("3", "9/3"),
    ]


async def test_a_plain_answer_joins_a_class_that_was_found_by_comparison():
    reader = Fractions()
    classes = AnswerClasses(reader)
    assert await classes.classify("6/2") == "6/2"
    assert await classes.classify("3") == "6/2"
    num_compared = len(reader.compared)
    assert await classes.classify("03") == "6/2"  # by its key, without comparing again
    assert len(reader.compared) == num_compared


async def test_an_answer_seen_before_is_not_compared_again():
    reader = Fractions()
    classes = AnswerClasses(reader)
    await classes.classify("1/2")
    await classes.classify("2/4")
    num_compared = len(reader.compared)
    assert await classes.classify("2/4") == "1/2"
    assert len(reader.compared) == num_compared


async def test_classes_are_those_of_the_values_in_any_order():
    answers = [f"{numerator}/{denominator}" for numerator in range(1, 5) for denominator in range(1, 5)]
    answers += [str(number) for number in range(1, 5)]
    for seed in range(20):
        shuffled = random.Random(seed).sample(answers, len(answers))
        classes = AnswerClasses(Fractions())
        found = {answer: await classes.classify(answer) for answer in shuffled}
        for left in answers:
            for right in answers:
                assert (found[left] == found[right]) == (value(left) == value(right))
        firsts = {name: next(answer for answer in shuffled if found[answer] == name) for name in found.values()}
        assert all(name == first for name, first in firsts.items())


async def test_restored_classes_go_on_as_if_nothing_had_happened():
    lived, resumed = AnswerClasses(Fractions()), AnswerClasses(Fractions())
    for answer in ("1/2", "3", "2/4"):
        resumed.restore(answer, await lived.classify(answer))
    for answer in ("2/4", "6/2", "03", "4", "8/2", "1/3"):
        assert await resumed.classify(answer) == await lived.classify(answer)
