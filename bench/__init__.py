"""Measurements of this library; each module writes its figures to `docs/benchmarks` and says how they were made."""
