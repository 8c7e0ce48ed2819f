"""What operators see: metrics, traces, structured logs; observers of jobs and of requests."""
