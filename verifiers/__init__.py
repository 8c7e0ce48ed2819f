"""Is it right: one verifier a file."""
