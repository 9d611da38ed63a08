"""A button that opens the results' folder, where the notebook runs on the user's own desktop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoseg_lib.widgets.display import Spot, has_widgets


def can_open_folders() -> bool:
    """Whether this computer has a desktop of its own (a server or Colab has none)."""
    if sys.platform in ("win32", "darwin"):
        return "SSH_CONNECTION" not in os.environ
    return (
        bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        and "SSH_CONNECTION" not in os.environ
    )


def open_folder(folder: Path) -> None:
    """Opens a folder in the desktop's file manager; a desktop without one is no reason to fail."""
    try:
        if sys.platform == "win32":
            os.startfile(folder)
        else:
            subprocess.Popen(["open" if sys.platform == "darwin" else "xdg-open", str(folder)])
    except OSError:
        return


def show_open_button(folder: Callable[[], Path | None]) -> None:
    """Shows the button where it works.

    Args:
        folder: gives the folder when the button is pressed; None while there is none.
    """
    if not has_widgets() or not can_open_folders():
        return
    import ipywidgets  # missing in front ends that the table of files still works in

    button = ipywidgets.Button(description="Open the folder", icon="folder-open")

    def clicked(_: Any) -> None:
        target = folder()
        if target is not None:
            open_folder(target)

    button.on_click(clicked)
    Spot().show_widget(button)
