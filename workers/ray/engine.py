"""`RayEngine`: a model of the cluster, with exactly the protocols of the engine that its replicas run."""

from __future__ import annotations
