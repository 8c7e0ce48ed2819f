"""Test-time-compute orchestration."""
