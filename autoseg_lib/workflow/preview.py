"""Step "Data pre-visualization": what the network will see, before and after augmentation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from autoseg_lib.labels import LabelTable
from autoseg_lib.workflow.runs import PreparedRun


@dataclass(frozen=True)
class BatchPreview:
    """A training batch to look at.

    Attributes:
        shapes: "Images [5, 1, 256, 256]  Labels [5, 256, 256]".
        stored_images, stored_labels: (N, row, column), as prepared for the network.
        images, labels: the same samples after augmentation (3D: the middle slice of another random patch).
        label_table: names and colours.
    """

    shapes: str
    stored_images: npt.NDArray[np.float32] = field(repr=False)
    stored_labels: npt.NDArray[np.uint8] = field(repr=False)
    images: npt.NDArray[np.float32] = field(repr=False)
    labels: npt.NDArray[np.uint8] = field(repr=False)
    label_table: LabelTable


def preview_batch(data: PreparedRun, which: int = 0) -> BatchPreview:
    """Returns one batch.

    Args:
        data: the prepared training data.
        which: 0 for the first batch that training will see; 1, 2, ... for others.
    """
    size = data.plan.loop.batch_size
    order = np.random.default_rng([data.plan.loop.seed, 0]).permutation(len(data.train_set))
    chosen = [int(order[(which * size + i) % len(order)]) for i in range(min(size, len(order)))]
    changed = [data.train_set[which, index] for index in chosen]
    plain = [data.train_set.stored(which, index) for index in chosen]
    batch = torch.stack([sample["image"] for sample in changed])
    labels = torch.stack([sample["label"][0] for sample in changed])
    # The image itself: the first channel's slice between its neighbours.
    shown = data.plan.network.neighbours
    before, after = (
        [_middle(sample, shown) for sample in plain],
        [_middle(sample, shown) for sample in changed],
    )
    return BatchPreview(
        shapes=f"Images {list(batch.shape)}  Labels {list(labels.shape)}",
        stored_images=np.stack([image for image, _ in before]),
        stored_labels=np.stack([label for _, label in before]),
        images=np.stack([image for image, _ in after]),
        labels=np.stack([label for _, label in after]),
        label_table=data.plan.labels,
    )


def _middle(
    sample: dict[str, torch.Tensor], shown: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """The slice with most labelled pixels of a 3D sample; a 2D sample without its neighbours and further channels."""
    image, label = sample["image"].numpy(), sample["label"][0].numpy()
    image = image[shown]
    if image.ndim == 3:
        index = int(np.argmax(np.count_nonzero(label, axis=(1, 2))))
        image, label = image[index], label[index]
    return image.astype(np.float32), label.astype(np.uint8)
