"""Suites: what a file may say, what is refused before anything runs, and how it is told."""

from pathlib import Path

import pytest

from orchestrator.bench.runs.suite import Suite, find_suite, read_suite, suite_names
from orchestrator.budget import Budget
from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.sampling import Sampling
from orchestrator.verifiers.process_reward import ProcessReward

HEAD = 'name = "mine"\nbudgets = ["tokens=100", "tokens=200,calls=3"]\n'
SETS = '[[sets]]\nset = "expression@3"\ncount = 5\n'
SINGLE = '[[policies]]\npolicy = "single"\n'


def suite(tmp_path: Path, text: str) -> Suite:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_suite(path)


def refusal(tmp_path: Path, text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        suite(tmp_path, text)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", suite_names())
def test_suites_that_come_with_the_package_can_be_read(name: str):
    read = read_suite(find_suite(name))
    assert read.name == name
    assert read.description
    assert read.strategies


def test_budgets_seeds_and_sets_are_read(tmp_path: Path):
    read = suite(tmp_path, HEAD + "seeds = [3, 1]\n" + SETS + SINGLE)
    assert read.budgets == {
        "tokens=100": Budget(max_output_tokens=100),
        "tokens=200,calls=3": Budget(max_output_tokens=200, max_model_calls=3),
    }
    assert read.seeds == (3, 1)
    assert [(entry.set, entry.count, entry.split) for entry in read.sets] == [("expression@3", 5, "test")]


def test_each_combination_of_a_grid_is_a_strategy_of_its_own(tmp_path: Path):
    policy = '[[policies]]\npolicy = "self_consistency"\nparams = {ties = "first"}\n'
    grid = policy + "grid = {n = [4, 8], temperature = [0.5]}\n"
    strategies = suite(tmp_path, HEAD + SETS + grid).strategies
    assert [strategy.params for strategy in strategies] == [
        {"ties": "first", "n": 4, "temperature": 0.5},
        {"ties": "first", "n": 8, "temperature": 0.5},
    ]
    assert strategies[0].label == "self_consistency(ties=first, n=4, temperature=0.5)"


def test_a_label_is_told_apart_by_what_its_grid_varies(tmp_path: Path):
    grid = '[[policies]]\npolicy = "self_consistency"\nlabel = "vote"\ngrid = {n = [4, 8]}\n'
    assert [s.label for s in suite(tmp_path, HEAD + SETS + grid).strategies] == ["vote(n=4)", "vote(n=8)"]


def test_a_verifier_has_its_own_parameters_and_a_name_with_them(tmp_path: Path):
    policy = (
        '[[policies]]\npolicy = "best_of_n"\nverifier = "process_reward"\nverifier_params = {aggregation = "min"}\n'
    )
    (strategy,) = suite(tmp_path, HEAD + SETS + policy).strategies
    assert strategy.verifier == ProcessReward(aggregation="min")
    assert strategy.verifier_name == strategy.params["verifier"] == "process_reward(aggregation=min)"
    assert strategy.verifier_needs


def test_the_verifier_that_a_policy_takes_by_default_is_known(tmp_path: Path):
    (strategy,) = suite(tmp_path, HEAD + SETS + '[[policies]]\npolicy = "best_of_n"\n').strategies
    assert strategy.verifier_name == "generative"
    assert "log probabilities" in strategy.verifier_needs


def test_the_sampling_of_a_policy_goes_before_that_of_the_suite(tmp_path: Path):
    own = '[[policies]]\npolicy = "single"\nlabel = "greedy"\nsampling = {temperature = 0.0}\n'
    read = suite(tmp_path, HEAD + "sampling = {temperature = 0.8, top_p = 0.9}\n" + SETS + SINGLE + own)
    assert [strategy.sampling for strategy in read.strategies] == [
        Sampling(temperature=0.8, top_p=0.9),
        Sampling(temperature=0.0),
    ]


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (HEAD + "budget = 3\n" + SETS + SINGLE, "budget", "known: name, description, sets"),
        (HEAD + SETS + SINGLE + "parms = {n = 3}\n", "policies[0].parms", "known: policy, label, params"),
        (HEAD + SINGLE, "sets", "missing"),
        (HEAD + '[[sets]]\nset = "a"\npool = "b"\n' + SINGLE, "sets[0]", "either a set or a pool"),
        (HEAD + '[[sets]]\nset = "a"\ncount = 0\n' + SINGLE, "sets[0].count", "count = 0 cannot be used"),
        (HEAD + '[[sets]]\nset = "a"\nsplit = "tset"\n' + SINGLE, "sets[0].split", "'train', 'dev' or 'test'"),
        (HEAD + "seeds = [1, 2, 1]\n" + SETS + SINGLE, "seeds[2]", "is there already"),
        (HEAD + "seeds = [-1]\n" + SETS + SINGLE, "seeds[0]", "greater than or equal to 0"),
        (HEAD + "seeds = []\n" + SETS + SINGLE, "seeds", "at least 1"),
        (HEAD + "sampling = {temperature = nan}\n" + SETS + SINGLE, "sampling.temperature", "= nan cannot be used"),
        ('name = "a"\nbudgets = ["tokens=x"]\n' + SETS + SINGLE, "budgets[0].tokens", "'x'"),
        ('name = "a"\nbudgets = ["minutes=3"]\n' + SETS + SINGLE, "budgets[0].budget", "minutes=3"),
        (HEAD + SETS + '[[policies]]\npolicy = "singel"\n', "policies[0].name", "unknown policy 'singel'"),
        (HEAD + SETS + SINGLE + "params = {m = 3}\n", "policies[0].m", "has no parameter 'm'; it has: model"),
        (HEAD + SETS + SINGLE + "grid = {temperature = [0.5, 9]}\n", "policies[0].temperature", "9"),
        (HEAD + SETS + SINGLE + "grid = {temperature = []}\n", "policies[0].grid.temperature", "at least 1"),
        (
            HEAD + SETS + SINGLE + "params = {temperature = 1}\ngrid = {temperature = [1]}\n",
            "policies[0].grid.temperature",
            "both in params and in grid",
        ),
        (HEAD + SETS + SINGLE + 'verifier = "majority"\n', "policies[0].verifier", "policies that do: a_star"),
        (HEAD + SETS + '[[policies]]\npolicy = "best_of_n"\nverifier = "x"\n', "policies[0].name", "verifier 'x'"),
        (
            HEAD + SETS + '[[policies]]\npolicy = "best_of_n"\nverifier = "majority"\nverifier_params = {x = 1}\n',
            "policies[0].x",
            "no parameter 'x'",
        ),
        (
            HEAD + SETS + '[[policies]]\npolicy = "best_of_n"\nverifier_params = {x = 1}\n',
            "policies[0].verifier_params",
            "needs verifier",
        ),
        (HEAD + SETS + SINGLE + SINGLE, "policies[1].label", "'single', which is taken"),
        (HEAD + "[models\n", "suite", "not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_file_and_key(tmp_path: Path, text: str, field: str, words: str):
    error = refusal(tmp_path, text)
    assert error.field == field
    assert words in str(error)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        read_suite(path)


def test_an_unknown_suite_is_told_with_those_that_exist(tmp_path: Path):
    with pytest.raises(UnknownName) as caught:
        find_suite(str(tmp_path / "none.toml"))
    assert caught.value.known == suite_names()


def test_files_are_looked_for_beside_the_suite_and_below_the_repository(tmp_path: Path):
    read = suite(tmp_path, HEAD + SETS + SINGLE)
    beside = tmp_path / "a.pool.jsonl"
    beside.touch()
    assert read.file("a.pool.jsonl") == beside
    assert read.file("bench/suites/smoke.toml").is_file()
    with pytest.raises(InvalidRequest, match=r"no file 'b\.pool\.xz' \(looked for"):
        read.file("b.pool.xz")
