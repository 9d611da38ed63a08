"""How a cell fails: a note in plain words, and "Run All" stops there without a traceback."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from markupsafe import Markup

from autoseg_lib.errors import AutosegError
from autoseg_lib.viz.html import note_html, render
from autoseg_lib.widgets.display import show_html

Function = TypeVar("Function", bound=Callable[..., Any])


class StoppedHere(Exception):  # noqa: N818 - it is what the user reads
    """Ends a cell, and with it "Run All", with one short line."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [str(self)]


def stop_here(text: str = "Stopped here; the note above says why.") -> StoppedHere:
    """Returns the exception to raise after the reason has been shown."""
    return StoppedHere(text)


def show_trouble(error: BaseException) -> None:
    """Shows an error as a note: the workbench's own as they are, others with the details folded away."""
    show_html(trouble_html(error), plain=str(error))


def trouble_html(error: BaseException) -> Markup:
    """Returns an error as a note, see ``show_trouble``."""
    if isinstance(error, AutosegError):
        return note_html("error", str(error))
    details = "".join(traceback.format_exception(error))
    what = str(error).strip().splitlines()
    text = (
        f"Something went wrong that the workbench did not foresee ({type(error).__name__}"
        + (f": {what[0][:200]}" if what else "")
        + "). Your files are as they were. Please report it with the details below."
    )
    return render("trouble.html.j2", note=note_html("error", text), details=details)


def plainly(function: Function) -> Function:
    """Decorates a notebook step (plain or async) so that its errors are shown as notes and stop Run All."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except StoppedHere:
                raise
            except Exception as error:  # noqa: BLE001 - nobody in front of a notebook should meet a traceback
                show_trouble(error)
                raise stop_here() from None

        return waiting  # type: ignore[return-value]

    @functools.wraps(function)
    def running(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except StoppedHere:
            raise
        except KeyboardInterrupt:
            raise stop_here("Interrupted. Run this cell again to go on.") from None
        except Exception as error:  # noqa: BLE001 - nobody in front of a notebook should meet a traceback
            show_trouble(error)
            raise stop_here() from None

    return running  # type: ignore[return-value]
