"""Long counts of the service: clients that leave, and processes that die."""
