"""Service level objectives: limits on a request's latencies, all of which it has to keep to count as good."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from orchestrator.bench.load.exchange import Exchange
from orchestrator.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds; None for no limit.

    Attributes:
        ttft: Time to first token.
        tpot: Time per output token after the first.
        e2e: From sending to the end of the reply.
    """

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Reads ``ttft=0.5,tpot=0.05,e2e=10``.

        Raises:
            InvalidRequest: A name is unknown or given twice, or a value is no time.
        """
        names = [each.name for each in fields(cls)]
        limits: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                limit = float(value)
            except ValueError:
                limit = math.nan
            if name not in names or name in limits or not 0 < limit < math.inf:
                raise InvalidRequest(
                    f"--slo {text!r}: {part.strip()!r} is no objective; write seconds, each name once, for instance "
                    "ttft=0.5,tpot=0.05,e2e=10",
                    field="slo",
                    value=text,
                )
            limits[name] = limit
        return cls(**limits)

    def limits(self) -> dict[str, float]:
        """Those that are set, in seconds by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def missed(self, exchange: Exchange) -> list[str]:
        """Names of the objectives that a completed request did not keep.

        A reply without any token misses ``ttft``; one of fewer than two tokens keeps ``tpot``.
        """
        took_s = {
            "ttft": math.inf if exchange.ttft_s is None else exchange.ttft_s,
            "tpot": exchange.tpot_s or 0.0,
            "e2e": exchange.e2e_s or 0.0,
        }
        return [name for name, limit in self.limits().items() if took_s[name] > limit]
