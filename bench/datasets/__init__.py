"""Real sets of problems, each read from a file that the user has; none is part of this project."""
