"""The HTTP client of the service: `Client` and `AsyncClient` speak to a running ``ttc serve`` as `Orchestrator` does to
its own models.

.. code-block:: python

    with Client("http://127.0.0.1:8000") as ttc:
        result = ttc.solve("What is 17 * 23?", policy="self_consistency", budget="tokens=2000")
        print(result.text, result.confidence)
"""

from orchestrator.client.asynchronous import AsyncClient
from orchestrator.client.synchronous import Client
from orchestrator.client.values import Batch, Job, JobResult, ModelInfo, PolicyInfo

__all__ = ["AsyncClient", "Batch", "Client", "Job", "JobResult", "ModelInfo", "PolicyInfo"]
