"""A discrete-event model of controllers and fleet: what 10 or 10,000 accelerators would do, on paper."""
