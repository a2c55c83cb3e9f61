"""What the optimizers are checked against: a deterministic problem, recorded runs of it, and plain implementations."""
