"""Runs of suites: what is asked of whom, and a row for every job."""
