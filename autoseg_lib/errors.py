"""What goes wrong, said so that a clinician can act on it.

Every message follows one pattern: what (in which file) · found / expected · do.
"""

from __future__ import annotations


class AutosegError(Exception):
    """Base of all errors the workbench raises on purpose. Its text is shown as it is, without a traceback."""

    exit_code = 1


class SettingsError(AutosegError):
    """Settings or a command line that cannot be used. The text lists every problem at once."""

    exit_code = 2


class DataError(AutosegError):
    """A file or folder that cannot be used."""


class GeometryError(AutosegError):
    """Grids that do not fit together, or a geometry that does not allow what was asked."""


class ModelError(AutosegError):
    """A model file or network that cannot be used."""


class ExportError(AutosegError):
    """Results that cannot be written."""


class OutOfSpaceError(ExportError):
    """The disk is full; what was saved before is intact."""


def name_list(names: list[str], shown: int = 5) -> str:
    """Returns ``'a', 'b', 'c' and 12 more``: the first names and how many were left out.

    Args:
        names: the names, in the order to show them.
        shown: how many to spell out.
    """
    text = ", ".join(f"'{name}'" for name in names[:shown])
    return text if len(names) <= shown else f"{text} and {len(names) - shown} more"


def counted(number: int, what: str) -> str:
    """Returns "1 label", "3 labels"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
