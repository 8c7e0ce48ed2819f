"""What ``ttc fleet`` knows: whether a fleet file fits, how its fleet is, and how to show both."""
