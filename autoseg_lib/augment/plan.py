"""Which random changes training images get, and when mirroring is safe.

A sample's changes are drawn from a generator made of (seed, epoch, index) and nothing else, so an interrupted
run goes on to the same bits and the number of helper processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autoseg_lib.errors import ModelError
from autoseg_lib.geometry import DISPLAY_ORIENTATION
from autoseg_lib.labels import LabelTable
from autoseg_lib.preprocess.pipeline import ORIENTATION_3D

SeedKey = tuple[int, int, int]

# Above this ratio of largest to smallest voxel side, slices are turned and bent only within their plane: out
# of plane there is too little to interpolate from (nnU-Net's threshold, Isensee et al. 2021).
ANISOTROPY_THRESHOLD = 3.0

# Bending: a sample's sides are divided into this many cells whose corners move at random ...
BEND_CELLS = 8
# ... by up to this share of a cell at elastic = 1. Two neighbouring corners then come closer by at most 40 %
# (60 % where the cubic interpolation between corners is steepest), so that tissue never folds over itself.
BEND_REACH = 0.2


@dataclass(frozen=True)
class FlipRules:
    """Where mirroring is allowed, and why.

    Attributes:
        axis: array axis of a sample that runs across left–right, counted from the sample's first spatial axis
            (2D: 0 rows, 1 columns; 3D: 0 slices, 1 rows, 2 columns); None: no mirroring.
        pairs: label values that change places when mirrored.
        reason: a sentence for the table of choices.
    """

    axis: int | None
    pairs: tuple[tuple[int, int], ...]
    reason: str


def flips_allowed(
    labels: LabelTable,
    *,
    orientation_known: bool,
    plane: str | None,
    dimension: Literal["2D", "3D"],
    orientation: str = "auto",
) -> FlipRules:
    """Decides whether samples may be mirrored. The rules:

    1. Only across left–right: bodies are alike on both sides, but not front to back or head to foot.
    2. Only where the patient's directions are known; otherwise no one can say which axis is left–right.
    3. Only where ROI names were given and each sided one has its partner ("psoas left" and "psoas right"),
       whose values then change places. Names without a side ("liver") keep their value.
    4. Sagittal slices have no left–right axis in 2D.

    Args:
        labels: the ROIs.
        orientation_known: whether all training scans carry the patient's directions.
        plane: "axial", "coronal", "sagittal"; None where the scans differ or it is unknown. Only matters in
            2D.
        dimension: "2D" or "3D".
        orientation: of the preprocessing: "auto", "own" or a code such as "SPL".
    """
    if orientation == "own":
        return FlipRules(None, (), "no mirroring: the axes are left as each file has them")
    if not orientation_known:
        return FlipRules(
            None, (), "no mirroring: the files do not say where the patient's left and right are"
        )
    if not labels.has_given_names:
        return FlipRules(None, (), "no mirroring: ROIs without names may be left or right ones")
    if not labels.sides_known:
        return FlipRules(None, (), "no mirroring: an ROI of one side has no partner of the other side")
    if dimension == "3D":
        axis: int | None = _left_right_axis(ORIENTATION_3D if orientation == "auto" else orientation)
    elif orientation != "auto":
        axis = _left_right_axis(orientation[1:])
    else:
        axis = _left_right_axis(DISPLAY_ORIENTATION[plane][1:]) if plane in DISPLAY_ORIENTATION else None
    if axis is None:
        return FlipRules(None, (), "no mirroring: these slices do not show left and right side by side")
    pairs = labels.mirror_pairs
    swapped = ", ".join(f"{labels[a - 1].name} / {labels[b - 1].name}" for a, b in pairs)
    return FlipRules(
        axis, pairs, "mirrored across left–right" + (f"; {swapped} change places" if pairs else "")
    )


def _left_right_axis(code: str) -> int | None:
    return next((axis for axis, letter in enumerate(code) if letter in "LR"), None)


@dataclass(frozen=True)
class AugmentPlan:
    """How strongly samples are changed. Every strength of 0 switches its change off.

    Attributes:
        probability: chance of each kind of change; 0 switches all off, mirroring included.
        rotation_degrees: largest turn to either side.
        scale: largest change of size (0.2: 0.8 to 1.2 times).
        shift: largest shift as a share of the image's side.
        elastic: strength of bending, 0 to 1 (1: 2D: up to about 2.5 % of the image's side, 3D: 5 %).
        brightness: largest change, as a share of the image's range of grey values.
        contrast: largest change (0.2: 0.8 to 1.2 times).
        gamma: largest change of the exponent (0.3: from 1/1.3 to 1.3).
        noise: largest standard deviation, as a share of the range.
        blur: largest blur, in pixels.
        flip: whether mirroring is wanted where the rules allow it.
        mirror_axis: see FlipRules.axis.
        mirror_pairs: see FlipRules.pairs.
        spacing_zyx_mm: 3D: voxel size, so that turns are true turns in mm.
    """

    probability: float = 0.5
    rotation_degrees: float = 15.0
    scale: float = 0.15
    shift: float = 0.05
    elastic: float = 0.5
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.3
    noise: float = 0.05
    blur: float = 0.7
    flip: bool = True
    mirror_axis: int | None = None
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    spacing_zyx_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @classmethod
    def from_settings(
        cls,
        augment_params: Mapping[str, Any] | str,
        rules: FlipRules,
        spacing_zyx_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> AugmentPlan:
        """Returns the plan for the setting ``augment_params``.

        Args:
            augment_params: "auto", or a table of strengths; what it leaves out keeps its default.
            rules: where mirroring is allowed.
            spacing_zyx_mm: 3D: voxel size of the network's grid.
        """
        given = dict(augment_params) if isinstance(augment_params, Mapping) else {}
        plan = cls(mirror_axis=rules.axis, mirror_pairs=rules.pairs, spacing_zyx_mm=spacing_zyx_mm)
        return replace(plan, **given)

    @property
    def mirrors(self) -> bool:
        """Whether some samples are mirrored."""
        return self.flip and self.probability > 0 and self.mirror_axis is not None

    def to_dict(self) -> dict[str, Any]:
        """Returns a table for JSON."""
        table = asdict(self)
        table["mirror_pairs"] = [list(pair) for pair in self.mirror_pairs]
        table["spacing_zyx_mm"] = list(self.spacing_zyx_mm)
        return table

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> AugmentPlan:
        """Returns the plan that ``to_dict`` wrote.

        Raises:
            ModelError: a key is not one of a plan's, or its value cannot be used.
        """
        unknown = set(table) - {item.name for item in fields(cls)}
        try:
            if unknown:
                raise ValueError(f"unknown {', '.join(sorted(unknown))}")
            pairs = tuple((int(a), int(b)) for a, b in table.get("mirror_pairs", ()))
            z, y, x = table.get("spacing_zyx_mm", (1.0, 1.0, 1.0))
            return cls(**{**table, "mirror_pairs": pairs, "spacing_zyx_mm": (float(z), float(y), float(x))})
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"augmentation: the model's settings cannot be read ({error}).") from None


def generator(key: SeedKey, purpose: int = 0) -> np.random.Generator:
    """Returns the random numbers of one sample.

    Args:
        key: (seed, epoch, index), each at least 0.
        purpose: tells several uses of the same key apart (0 changes, 1 where a patch is cut).
    """
    return np.random.default_rng([*key, purpose])


def is_mirrored(plan: AugmentPlan, key: SeedKey) -> bool:
    """Returns whether a sample gets mirrored: the first of its random numbers decides."""
    return plan.mirrors and bool(generator(key).random() < plan.probability)


def swap_labels(mask: npt.NDArray[Any], pairs: tuple[tuple[int, int], ...]) -> npt.NDArray[Any]:
    """Returns the label values with the partners of each pair exchanged (a copy where something changes)."""
    if not pairs:
        return mask
    swapped = mask.copy()
    for a, b in pairs:
        swapped[mask == a] = b
        swapped[mask == b] = a
    return swapped


def swap_channels(count: int, pairs: tuple[tuple[int, int], ...]) -> list[int]:
    """Returns the order of channels after mirroring: ``probabilities[order]`` puts the sides right again."""
    order = list(range(count))
    for a, b in pairs:
        order[a], order[b] = b, a
    return order
