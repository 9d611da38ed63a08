"""Losses for training; ``registry.build_loss`` makes one by name."""

from autoseg_lib.losses.registry import DEFAULT_LOSS, LOSSES, build_loss

__all__ = ["DEFAULT_LOSS", "LOSSES", "build_loss"]
