"""Load on a running endpoint: open-loop arrivals, and what latencies, throughput and goodput come of them.

The command is ``ttc bench load``. Not measured here: whether answers are right.
"""

from orchestrator.bench.load.command import load

__all__ = ["load"]
