"""Steps that say nearly the same, and what happens where no model can tell."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from orchestrator.actions import Answer, Compute, Embed
from orchestrator.engine import FinishReason
from orchestrator.errors import CapabilityMissing, ContextOverflow, EngineFailed, PolicyFailed, TtcError
from orchestrator.policies.search.clustering import StepClusters, cluster_labels, packed
from orchestrator.testing import PolicyDriver
from orchestrator.testing.driver import out_of_budget
from orchestrator.tree import Node


def at_angles(*degrees: float) -> str:
    radians = np.radians(degrees)
    return packed(np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32))


class TestLabels:
    def test_directions_near_each_other_are_one_cluster(self):
        assert cluster_labels(at_angles(0, 90, 2, 91, 180), 5, 0.05) == [0, 1, 0, 1, 2]

    def test_length_does_not_matter(self):
        vectors = np.array([[1, 0], [0, 2], [0.1, 0]], dtype=np.float32)
        assert cluster_labels(packed(vectors), 3, 0.05) == [0, 1, 0]

    def test_the_threshold_decides(self):
        distance = 1 - np.cos(np.radians(20))
        assert cluster_labels(at_angles(0, 20), 2, distance + 0.002) == [0, 0]
        assert cluster_labels(at_angles(0, 20), 2, distance - 0.002) == [0, 1]

    def test_groups_are_as_far_apart_as_their_members_on_average(self):
        """0 and 20 merge first; 50 is then 0.2 from them on average, though 0.13 from the nearest (single linkage)."""
        mean = (2 - np.cos(np.radians(50)) - np.cos(np.radians(30))) / 2
        assert cluster_labels(at_angles(0, 20, 50), 3, mean + 0.005) == [0, 0, 0]
        assert cluster_labels(at_angles(0, 20, 50), 3, mean - 0.005) == [0, 0, 1]

    def test_a_vector_without_direction_breaks_nothing(self):
        assert cluster_labels(packed(np.array([[0, 0], [1, 0], [1, 0]], np.float32)), 3, 0.05) == [0, 1, 1]

    def test_packing_moves_distances_by_less_than_a_thousandth(self):
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(40, 300)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        halved = vectors.astype("<f2").astype(np.float64)
        assert np.abs(halved @ halved.T - vectors @ vectors.T).max() < 1e-3


def nodes_of(texts: list[str], root: Node) -> list[Node]:
    return [Node(str(number), root, text=text, finish=FinishReason.STOP) for number, text in enumerate(texts)]


def clustering(*levels: list[str], models: tuple[str, ...] = ("embedder", "small")) -> PolicyDriver:
    """A policy that clusters the texts of some levels, and answers with labels and problems."""

    def run(query: Any, ctx: Any) -> Generator[Any, Any, Answer]:
        clusters = StepClusters(models, 0.05)
        results = []
        for texts in levels:
            labels = yield from clusters.labels(nodes_of(texts, query.root))
            results.append((labels, clusters.problem))
        return Answer(repr(results))

    return PolicyDriver(run)


def results(driver: PolicyDriver) -> Any:
    return eval(driver.answer.text or "")


def embeds(driver: PolicyDriver) -> list[Embed]:
    return [action for action in driver.actions if isinstance(action, Embed)]


class TestSteps:
    def test_equal_texts_are_embedded_once_and_labelled_alike(self):
        driver = clustering(["one two\n\n", "three", "one two", "three"])
        driver.run()
        (embed,) = embeds(driver)
        assert [node.text for node in embed.nodes] == ["one two\n\n", "three"]
        assert results(driver) == [([0, 1, 0, 1], "")]

    def test_texts_near_each_other_are_labelled_alike(self):
        driver = clustering(["Now add 3 and 4", "now add 3, and 4!", "Multiply"])
        driver.run()
        assert results(driver) == [([0, 0, 1], "")]

    def test_nothing_is_asked_where_all_texts_are_the_same(self):
        driver = clustering(["same", "same ", "same"], [])
        assert driver.is_finished
        assert results(driver) == [([], ""), ([], "")]

    @pytest.mark.parametrize(
        "error",
        [
            CapabilityMissing(model="m", capability="embeddings"),
            EngineFailed("it is down", model="m"),
        ],
    )
    def test_a_model_that_cannot_is_asked_once_and_the_next_one_takes_over(self, error: TtcError):
        driver = clustering(["a", "b"], ["c", "d"])
        driver.throw(error)
        driver.run()
        assert [embed.model for embed in embeds(driver)] == ["embedder", "small", "small"]
        assert results(driver) == [([0, 1], ""), ([0, 1], "")]

    def test_where_no_model_can_it_goes_on_without_and_says_so(self):
        driver = clustering(["a", "b"], ["c", "d"])
        for _ in range(2):
            driver.throw(CapabilityMissing(model="m", capability="embeddings"))
        assert driver.is_finished
        assert results(driver) == [([], "variety does not count: no model embeds")] * 2

    @pytest.mark.parametrize(
        "error", [out_of_budget(), ContextOverflow(model="m", prompt_tokens=3000, context_length=2048)]
    )
    def test_what_cannot_be_embedded_now_may_be_later(self, error: TtcError):
        driver = clustering(["a", "b"], ["c", "d"])
        driver.throw(error)
        driver.run()
        assert [embed.model for embed in embeds(driver)] == ["embedder", "embedder"]
        assert results(driver) == [([], "variety does not count: steps could not be embedded"), ([0, 1], "")]

    def test_a_clustering_that_fails_is_done_without(self):
        driver = clustering(["a", "b"])
        driver.send(driver.embeddings())
        assert isinstance(driver.action, Compute)
        driver.throw(PolicyFailed("it took too long"))
        assert results(driver) == [([], "variety does not count: steps could not be grouped")]

    def test_a_model_named_twice_is_asked_once(self):
        driver = clustering(["a", "b"], models=("small", "small"))
        driver.throw(CapabilityMissing(model="m", capability="embeddings"))
        assert driver.is_finished
