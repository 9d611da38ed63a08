"""The first training batch as a picture: as stored above, as the network sees it below, with a button for another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from autoseg_lib.viz.html import legend_html, picture_html, render
from autoseg_lib.viz.overlay import grey_range, picture
from autoseg_lib.widgets.display import Spot, has_widgets
from autoseg_lib.widgets.pictures import encode_png, grid
from autoseg_lib.workflow.preview import BatchPreview

# As many samples as fit side by side on a 13-inch screen.
_MOST_SHOWN = 5
_PICTURE_PX = 160


class BatchGrid:
    """Shows batches; ``load(number)`` gives the batch of that number, from 0."""

    def __init__(self, load: Callable[[int], BatchPreview]) -> None:
        self._load, self._number = load, 0
        self._spot = Spot()

    def show(self) -> None:
        """Shows the first batch, and the button where there are widgets."""
        self._spot.show_html(batch_html(self._load(0)))
        if not has_widgets():
            return
        import ipywidgets  # missing in front ends that the picture still works in

        button = ipywidgets.Button(
            description="Show another batch", icon="refresh", layout=ipywidgets.Layout(width="200px")
        )

        def clicked(_: Any) -> None:
            self._number += 1
            self._spot.show_html(batch_html(self._load(self._number)))

        button.on_click(clicked)
        Spot().show_widget(button)


def batch_html(batch: BatchPreview) -> Markup:
    """Returns shapes, grid and legend of a batch."""
    rows = []
    for images, labels in ((batch.stored_images, batch.stored_labels), (batch.images, batch.labels)):
        pairs = list(zip(images, labels, strict=True))[:_MOST_SHOWN]
        rows.append(
            [
                picture(
                    image,
                    label,
                    batch.label_table,
                    limits=grey_range(image),
                    longest=_PICTURE_PX,
                    marks=False,
                )
                for image, label in pairs
            ]
        )
    image = picture_html(
        encode_png(grid(rows)), "training images with their ROIs, before and after augmentation"
    )
    return render("batch.html.j2", shapes=batch.shapes, image=image, legend=legend_html(batch.label_table))
