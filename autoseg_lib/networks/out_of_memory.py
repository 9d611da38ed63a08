"""What tells that memory ran out, and what makes room."""

from __future__ import annotations

import torch

from autoseg_lib.errors import ModelError


class OutOfMemoryError(ModelError):
    """Memory ran out even with the smallest part of the work at a time."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory, of a GPU or of the computer, is too small."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def make_room() -> None:
    """Gives back what torch keeps of a GPU's memory for later; call it where nothing of what failed is held any more."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
