"""Which files are at fault where a case cannot be loaded, so that the rest of it can still be looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction, Sample
from autoseg_lib.data.pairing import TrainingCase, labelled_part
from autoseg_lib.data.scan import load_scan
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.errors import AutosegError
from autoseg_lib.io import raster
from autoseg_lib.io.volume_files import all_files, is_volume_file, read_label_file, read_volume_file
from autoseg_lib.settings import TrainSettings

# A picture with more grey values than this is an image; label files with as many ROIs are not known in 2D.
MOST_LABEL_GREYS = 120


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a case.

    Attributes:
        findings: one for each file at fault.
        rest: the slices that can be read, None where there are none.
    """

    findings: tuple[Finding, ...]
    rest: TrainingCase | None = None


def diagnose(case: TrainingCase, settings: TrainSettings, error: Exception) -> Diagnosis:
    """Looks which files of a case are at fault.

    Args:
        case: the case that could not be loaded.
        settings: how it is read.
        error: what was raised.
    """
    if case.label_volume is not None or not case.label_files:
        return Diagnosis((_finding(case, case.name, _text(case.name, error), settings),))
    partners = case.label_files
    findings, kept = [], list(partners)
    for index, partner in enumerate(partners):
        alone = labelled_part(case.source, [partner if i == index else None for i in range(len(partners))])
        if alone is None:
            continue
        trouble = _trouble(lambda part=alone: load_training_case(part, settings))  # type: ignore[misc]
        if trouble is not None:
            kept[index] = None
            findings.append(_finding(alone, case.name, _text(case.name, trouble), settings))
    if not findings:
        return _mixed_sizes(case, error)
    return Diagnosis(tuple(findings), labelled_part(case.source, kept))


def _mixed_sizes(case: TrainingCase, error: Exception) -> Diagnosis:
    """Every slice can be read alone: the pictures of one scan folder differ in size, or something else is odd."""
    text = _text(case.name, error)
    if case.source.kind != "raster":
        return Diagnosis((_named("unreadable", case, case.name, text, None),))
    sizes = [raster.picture_size(file) for file in case.source.files]
    usual, _ = Counter(sizes).most_common(1)[0]
    odd = [index for index, size in enumerate(sizes) if size != usual]
    kept = [None if index in odd else partner for index, partner in enumerate(case.label_files)]
    files = [case.source.files[index] for index in odd]
    labels = [label for index in odd if (label := case.label_files[index]) is not None]
    reason = "its size differs from the other slices of the scan"
    fix = Fix(
        f"Leave out {len(odd)} slices of another size",
        (FixAction("leave_out", (*files, *labels), {"reason": reason}),),
    )
    names = tuple(file.name for file in files)
    finding = Finding("error", "size_mismatch", text, names, (Sample(case.name),), fix)
    return Diagnosis((finding,), labelled_part(case.source, kept))


def _finding(case: TrainingCase, name: str, text: str, settings: TrainSettings) -> Finding:
    """Tells which of image and label cannot be read; where both can, they do not fit together."""
    label = case.labels[0]
    bad_image = _trouble(lambda: load_scan(case.source, slice_axis=settings.slice_axis)) is not None
    bad_label = _trouble(lambda: _read_label(label, settings)) is not None
    if _is_label(case.source.files[0]) and _is_image(label) and (bad_label or not bad_image):
        image = case.source.files[0]
        fix = Fix(
            "Let image and label change places", (FixAction("swap_image_label", (image, label)),), sure=False
        )
        text = (
            f"image '{image.name}' and label '{label.name}' seem to have changed places: the image holds few values, as a "
            "label does, and the label many, as an image does. Put each into the other's folder."
        )
        return _named("swapped_files", case, name, text, fix)
    files = tuple(
        dict.fromkeys((*case.source.files, *(all_files(label) if is_volume_file(label) else (label,))))
    )
    code = "unreadable" if bad_image or bad_label else "size_mismatch"
    what = "the image with its label" if len(case.source.images) == 1 else "the scan with its label"
    reason = "it cannot be read" if code == "unreadable" else "image and label do not fit together"
    fix = Fix(f"Leave out {what}", (FixAction("leave_out", files, {"reason": reason}),))
    return _named(code, case, name, text, fix)


def _named(code: str, case: TrainingCase, name: str, text: str, fix: Fix | None) -> Finding:
    files = tuple(dict.fromkeys(file.name for file in (*case.source.images, *case.labels)))
    return Finding("error", code, text, files if len(files) <= 2 else (name,), (Sample(name),), fix)


def _text(name: str, error: Exception) -> str:
    if isinstance(error, AutosegError):
        return str(error)
    return f"'{name}': it cannot be read ({type(error).__name__}: {error}). Export it again, or leave it out."


def _trouble(work: Callable[[], Any]) -> Exception | None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - readers raise anything on damaged files; what it was is told
        return error
    return None


def _read_label(path: Path, settings: TrainSettings) -> Any:
    if is_volume_file(path):
        return read_label_file(path)
    if path.suffix.lower() in raster.LABEL_SUFFIXES:
        count = settings.num_labels if isinstance(settings.num_labels, int) else None
        return raster.read_label(path, count)
    return None  # files with named ROIs are read together with their scan


def _pixels(path: Path) -> Any:
    if is_volume_file(path):
        return read_volume_file(path).array
    return raster.read_image(path) if path.suffix.lower() in raster.IMAGE_SUFFIXES else None


def _is_label(path: Path) -> bool:
    """Whether an image file looks like a label: few whole numbers, 0 among them and often."""
    try:
        array = _pixels(path)
    except Exception:  # noqa: BLE001 - then it is certainly no label
        return False
    if array is None or not np.isfinite(array).all():
        return False
    values = np.unique(array)
    return bool(
        values.size <= MOST_LABEL_GREYS // 4 and np.array_equal(values, np.rint(values)) and values[0] == 0
    )


def _is_image(path: Path) -> bool:
    """Whether a label file looks like an image: more grey values than there could be ROIs."""
    try:
        array = _pixels(path)
    except Exception:  # noqa: BLE001 - then it is certainly no image
        return False
    return array is not None and np.unique(array).size > MOST_LABEL_GREYS
