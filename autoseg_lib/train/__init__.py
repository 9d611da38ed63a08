"""Training: plan, loop, checkpoints and resume."""
