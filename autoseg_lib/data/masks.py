"""Loading a training case: the scan and its labels on one grid, whatever kind of file the labels are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.label_map import apply_map
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.other_grid import LABEL_GRID_TOLERANCE_MM, grid_text, onto_scan, size_text
from autoseg_lib.data.pairing import TrainingCase
from autoseg_lib.data.scan import Scan, SpacingOverride, load_scan
from autoseg_lib.errors import DataError, GeometryError, name_list
from autoseg_lib.geometry import Geometry
from autoseg_lib.io import raster
from autoseg_lib.io.files import natural_key
from autoseg_lib.io.segments import is_segment_file, open_segments, paint, same_name
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.volume import Mask, reorient


def load_case(
    case: TrainingCase,
    *,
    rules: LabelRules | None = None,
    num_labels: int | None = None,
    slice_axis: str = "auto",
    override: SpacingOverride | None = None,
) -> tuple[Scan, Mask, tuple[str, ...]]:
    """Reads a scan and its labels.

    The range of the label values is not checked here (the data check does).

    Args:
        case: from ``pair``.
        rules: how codes and names become ROI numbers; None: values as they are, names as the case has them.
        num_labels: number of ROIs where known and ``rules`` is None; JPG labels need it.
        slice_axis: as in ``load_scan``.
        override: as in ``load_scan``.

    Returns:
        The scan, its mask on the grid of ``scan.volume``, and sentences for the user.

    Raises:
        DataError: a file cannot be read, or label and image do not fit together.
    """
    rules = rules or LabelRules(roi_values=dict(case.roi_values), num_labels=num_labels)
    scan = load_scan(case.source, slice_axis=slice_axis, override=override)
    notes = list(scan.warnings)
    if case.label_volume is not None:
        mask = _whole_label(case, scan, rules, notes)
    else:
        mask = Mask(_slice_labels(case, scan.source_geometry, rules, notes), scan.source_geometry)
    if scan.is_turned:
        turned = reorient(mask, scan.volume.geometry.orientation_code)
        mask = turned.with_array(turned.array, scan.volume.geometry)
    return scan, mask, tuple(notes)


# --- one file per slice -----------------------------------------------------------------------------------------------


def read_slice(path: Path, rules: LabelRules) -> raster.LabelImage:
    """Returns one label slice with the user's map applied.

    Raises:
        DataError: see ``raster.read_label``.
    """
    label = raster.read_label(path, rules.num_labels, rules.grey_codes)
    return raster.LabelImage(apply_map(label.array, rules.label_map), label.warning)


def read_slices(files: Sequence[Path], rules: LabelRules) -> Iterator[raster.LabelImage | DataError]:
    """Yields the label slices of ``files`` in order; a file that cannot be read gives its error."""

    def read(path: Path) -> raster.LabelImage | DataError:
        try:
            return read_slice(path, rules)
        except DataError as error:
            return error

    return raster.in_threads(read, files)


def _slice_labels(
    case: TrainingCase, geometry: Geometry, rules: LabelRules, notes: list[str]
) -> npt.NDArray[np.unsignedinteger]:
    problems: list[str] = []
    rows, columns = geometry.shape_zyx[1:]
    stack: npt.NDArray[np.unsignedinteger] = np.zeros(geometry.shape_zyx, np.uint8)
    present = [(index, file) for index, file in enumerate(case.label_files) if file is not None]
    labels = read_slices([file for _, file in present], rules)
    for image, file in zip(case.source.files, case.label_files, strict=True):
        if file is None:
            problems.append(f"'{image.name}': it has no label. Add the label file, or leave the image out.")
    for (index, file), label in zip(present, labels, strict=True):
        if isinstance(label, DataError):
            problems.append(str(label))
            continue
        if label.array.shape != (rows, columns):
            found = f"{label.array.shape[0]}×{label.array.shape[1]}"
            problems.append(
                f"label '{file.name}' is {found}, image '{case.source.files[index].name}' is {rows}×{columns}. "
                "They must have the same rows and columns; save the label at the image's own size."
            )
            continue
        if label.warning:
            notes.append(label.warning)
        if label.array.dtype.itemsize > stack.dtype.itemsize:
            stack = stack.astype(label.array.dtype)
        stack[index] = label.array
    if problems:
        raise DataError("\n".join(problems))
    return stack


# --- one file for the whole scan --------------------------------------------------------------------------------------


def _whole_label(case: TrainingCase, scan: Scan, rules: LabelRules, notes: list[str]) -> Mask:
    """Reads the one label file of a scan onto the grid of the image file."""
    path = case.label_volume
    if path is None:
        raise DataError(f"'{case.name}': it has no label volume.")
    if is_segment_file(path):
        return _named_label(path, case, scan, rules, notes)
    if path.suffix.lower() in raster.STACK_SUFFIXES:
        return _stack_label(path, case, scan, rules, notes)
    label = read_label_file(path)
    label = label.with_array(apply_map(label.array, rules.label_map))
    _require_place(label.geometry, path.name, case, scan.source_geometry, as_stored=True)
    return _volume_label(label, path.name, case.name, scan.source_geometry, notes)


def _require_place(
    label: Geometry, name: str, case: TrainingCase, target: Geometry, *, as_stored: bool = False
) -> None:
    """Makes sure that an image can be matched with a label that lies in the patient.

    Args:
        label: the label's grid.
        name: the label's name, for the message.
        case: the image.
        target: the image's grid.
        as_stored: whether the label's voxels lie in the order of its file, so that two volume files can be matched by it.

    Raises:
        DataError: the image does not say how it lies; in which order, and which way up, the label holds it, nobody knows.
    """
    if as_stored and case.source.kind == "volume":
        return
    if label.orientation_known and not target.orientation_known:
        whose = f"'{case.name}' does" if case.source.kind == "volume" else f"the slices of '{case.name}' do"
        advice = (
            "on the image's own grid"
            if case.source.kind == "volume"
            else "slice by slice as PNG, named like the images"
        )
        raise DataError(
            f"label '{name}' says how it lies in the patient, but {whose} not (no image orientation), so "
            f"which pixel belongs to which cannot be told. Save the labels {advice}."
        )


def _volume_label(label: Mask, name: str, scan: str, target: Geometry, notes: list[str]) -> Mask:
    """Turns a label volume onto the image file's own grid; axes may be stored in another order."""
    if not target.is_even:
        raise DataError(
            f"label '{name}': the slices of '{scan}' lie {target.spacing_text} apart, which a label volume cannot "
            "hold. Save one label PNG per slice."
        )
    silent = not (label.geometry.orientation_known and target.orientation_known)
    # Directions that a header does not give are no reason to turn anything: the voxels are matched as both files store them.
    turned = label if silent else reorient(label, target.orientation_code)
    if turned.array.shape != target.shape_zyx:
        return onto_scan(label, target, name, scan, notes)
    if label.geometry.orientation_known and silent:
        notes.append(
            f"label '{name}' says how it lies in the patient, image '{scan}' does not; they were matched voxel by voxel, as "
            "both files store them. Please look."
        )
    if not silent and not turned.geometry.is_same_grid(target, LABEL_GRID_TOLERANCE_MM):
        shift = float(np.abs(turned.geometry.affine - target.affine).max())
        raise DataError(
            f"label '{name}' and image '{scan}' have the same size but lie in different places "
            f"(up to {shift:.1f} mm apart at the first voxel, or with another spacing: "
            f"{grid_text(turned.geometry)} and {grid_text(target)}). Save the label on the image's own grid."
        )
    return turned.with_array(turned.array, target)


def _named_label(path: Path, case: TrainingCase, scan: Scan, rules: LabelRules, notes: list[str]) -> Mask:
    """Reads an RTSTRUCT, DICOM SEG or 3D Slicer segmentation."""
    file = open_segments(path, fractional_threshold=rules.seg_threshold)
    headers = case.source.series.headers if case.source.series is not None else ()
    target = scan.source_geometry
    if headers:
        uids = [header.sop_uid for header in headers]
        file.check_frame_of_reference(headers[0].frame_of_reference_uid, case.name, uids)
    names = [item.name for item in file.segments]
    values = rules.values_for(names)
    known = {same_name(name) for name in names} & {same_name(name) for name in values}
    if not known and not rules.may_be_absent:
        raise DataError(
            f"label '{path.name}': it holds the ROIs {name_list(names, 8)}, none of {name_list(list(values), 8)}. "
            "Correct labels_list, or leave this label out."
        )
    here = {value for name, value in values.items() if same_name(name) in known}
    lacking = list({value: name for name, value in reversed(values.items()) if value not in here}.values())[
        ::-1
    ]
    if lacking and not rules.may_be_absent:
        notes.append(
            f"label '{path.name}': it has no {name_list(lacking, 5)}, which counts as not there. If it goes by another name in "
            "this file, give that name its number in label_map."
        )
    origins = [header.position_xyz_mm for header in headers if header.position_xyz_mm is not None]
    try:
        layers = file.layers(
            target,
            [header.sop_uid for header in headers],
            slice_origins_xyz_mm=origins if origins and len(origins) == len(headers) else None,
        )
        array, said = paint(layers, values, priority=rules.overlap_priority)
        mask = Mask(array, target)
    except GeometryError:
        if file.geometry is None:
            raise
        _require_place(file.geometry, path.name, case, target)
        array, said = paint(file.layers(file.geometry), values, priority=rules.overlap_priority)
        mask = _volume_label(Mask(array, file.geometry), path.name, case.name, target, notes)
    notes += [f"label '{path.name}': {text}" for text in (*file.warnings, *said)]
    return mask


def _stack_label(path: Path, case: TrainingCase, scan: Scan, rules: LabelRules, notes: list[str]) -> Mask:
    """Reads a multi-page file (ImageJ stack): page 1 goes with the first slice by name."""
    pages = apply_map(raster.read_label_stack(path), rules.label_map)
    target = scan.source_geometry
    if pages.shape != target.shape_zyx:
        raise DataError(
            f"label '{path.name}' has {size_text(pages.shape)} pages, rows and columns, scan '{case.name}' has "
            f"{size_text(target.shape_zyx)}. A stack needs one page for each slice, at the image's own size."
        )
    order = _page_order(case)
    if order is None:
        raise DataError(
            f"label '{path.name}': by name the slices of '{case.name}' have another order than by image number, so it is not "
            "certain which page belongs to which slice. Save one label file per slice, with the name of its image."
        )
    first = case.source.slice_names[order[0]] if case.source.slice_names else "slice 1"
    notes.append(
        f"label '{path.name}': its pages are taken in the order of the image files, page 1 for '{first}'."
    )
    array = np.empty_like(pages)
    array[order] = pages
    return Mask(array, target)


def _page_order(case: TrainingCase) -> list[int] | None:
    """Returns the slice of each page, as programs open a folder of slices; None where name and number disagree."""
    source = case.source
    count = len(source.files)
    if source.series is None:
        return list(range(count))
    headers = source.series.headers
    by_name = sorted(range(count), key=lambda i: (natural_key(headers[i].path.name), headers[i].frame or 0))
    numbers = [header.instance_number for header in headers]
    known = [number for number in numbers if number is not None]
    if len(set(known)) < count:
        return by_name
    by_number = sorted(range(count), key=lambda i: known[i])
    return by_name if by_name == by_number else None
