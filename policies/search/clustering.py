"""Groups steps that say nearly the same, by how near their embeddings are."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.actions import Compute, Embed
from orchestrator.errors import BudgetExhausted, CapabilityMissing, ContextOverflow, EngineFailed, PolicyFailed
from orchestrator.policies.search.stepping import Steps
from orchestrator.tree import Node

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class StepClusters:
    """Clusters of step texts, from the first of some models that can embed.

    Args:
        models: Roles or names, in order of preference.
        max_distance: See `cluster_labels`.

    Attributes:
        problem: Why there were no clusters the last time; empty if there were.
    """

    def __init__(self, models: Sequence[str], max_distance: float) -> None:
        self._models = list(dict.fromkeys(models))
        self._max_distance = max_distance
        self.problem = ""

    def labels(self, nodes: Sequence[Node]) -> Steps[list[int]]:
        """A label for each node by its own text, surrounding white space apart; equal texts have equal labels.

        Empty if there is nothing to tell apart, or no model to do it; a model that fails is not asked again.
        """
        self.problem = ""
        firsts: dict[str, Node] = {}
        for node in nodes:
            firsts.setdefault(node.text.strip(), node)
        if len(firsts) < 2:
            return []
        vectors = yield from self._embedded(list(firsts.values()))
        if vectors is None:
            return []
        try:
            found = yield Compute(cluster_labels, (packed(vectors), len(firsts), self._max_distance))
        except PolicyFailed:
            self.problem = "variety does not count: steps could not be grouped"
            return []
        labels = dict(zip(firsts, found, strict=True))
        return [labels[node.text.strip()] for node in nodes]

    def _embedded(self, nodes: Sequence[Node]) -> Steps[npt.NDArray[np.float32] | None]:
        while self._models:
            try:
                vectors: npt.NDArray[np.float32] = yield Embed(nodes, self._models[0])
                return vectors
            except (CapabilityMissing, EngineFailed):
                self._models.pop(0)
            except (BudgetExhausted, ContextOverflow):
                self.problem = "variety does not count: steps could not be embedded"
                return None
        self.problem = "variety does not count: no model embeds"
        return None


def packed(vectors: npt.NDArray[np.float32]) -> str:
    """Vectors as a JSON value: base64 of little-endian half precision, which moves distances by less than 0.001."""
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode()


def cluster_labels(vectors: str, num_vectors: int, max_distance: float) -> list[int]:
    """Average-linkage agglomerative clustering by cosine distance, for `Compute`.

    Args:
        vectors: See `packed`; at least two.
        num_vectors: How many there are.
        max_distance: Groups are merged while their mean distance is at most this.

    Returns:
        A label for each vector; labels are numbered from 0 in the order in which they first occur.
    """
    import numpy as np  # here, as they take a while to load
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    rows = np.frombuffer(base64.b64decode(vectors), dtype="<f2").astype(np.float64).reshape(num_vectors, -1)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    distances = np.clip(1.0 - rows @ rows.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    merges = linkage(squareform(distances, checks=False), "average")
    order: dict[int, int] = {}
    return [order.setdefault(int(label), len(order)) for label in fcluster(merges, max_distance, "distance")]
