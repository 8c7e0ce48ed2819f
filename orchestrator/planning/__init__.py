"""Planning a fleet on paper: which accelerators, how many, and what they cost."""
