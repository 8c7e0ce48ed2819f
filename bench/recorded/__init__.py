"""Recorded pools: samples written down once, and replayed as an engine."""
