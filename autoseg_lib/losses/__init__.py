"""Losses for training; ``registry.build_loss`` makes one by name."""
