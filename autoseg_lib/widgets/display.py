"""Places in a cell's output that can be filled again later, by a widget or by plain HTML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display
from markupsafe import Markup


def has_widgets() -> bool:
    """Whether a notebook kernel and ipywidgets are there. What the front end can draw is not known here."""
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    try:
        import ipywidgets  # noqa: F401 - only to see whether it is there
    except ImportError:
        return False
    return True


class Spot:
    """One place in the output of the cell that fills it first; later fillings replace it there.

    What a widget shows is lost when a notebook is saved and opened again; the HTML given with it stays.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def show_html(self, html: str, plain: str = "") -> None:
        """Shows HTML; ``plain`` is for where HTML cannot be drawn."""
        self._fill({"text/html": str(html), "text/plain": plain})

    def show_widget(self, widget: Any, html: str = "", plain: str = "") -> None:
        """Shows a widget; ``html`` is for front ends without widgets and for the saved notebook."""
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        self._fill(
            {"application/vnd.jupyter.widget-view+json": view, "text/html": str(html), "text/plain": plain}
        )

    def _fill(self, bundle: dict[str, Any]) -> None:
        bundle = {kind: content for kind, content in bundle.items() if content or kind == "text/plain"}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def show_html(parts: str | Iterable[str], plain: str = "") -> None:
    """Shows HTML, or several pieces of it one below the other, in the running cell."""
    text = parts if isinstance(parts, str) else Markup("").join(Markup(part) for part in parts)
    Spot().show_html(text, plain)
