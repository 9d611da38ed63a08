"""Finds masks that exist already, and the scan that tells each one's size in mm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.discover import ImageSource, discover
from autoseg_lib.data.masks import load_case
from autoseg_lib.data.naming import image_stem
from autoseg_lib.data.pairing import TrainingCase, labelled_part
from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.evaluate.match import MaskCase, MaskFolder, find_masks
from autoseg_lib.evaluate.names import RunMemory, read_run_memory
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.files import same_text
from autoseg_lib.io.raster import LABEL_SUFFIXES, read_label
from autoseg_lib.io.volume_files import is_volume_file, stem_of
from autoseg_lib.volume import Mask, Volume

# Number of ROIs (None: unknown) → the scan, its mask on the scan's slices, and sentences for the user.
Loader = Callable[[int | None], tuple[Scan, Mask, tuple[str, ...]]]


@dataclass(frozen=True)
class MaskJob:
    """One mask to measure.

    Attributes:
        name: the case.
        files: the mask's files.
        load: reads it.
    """

    name: str
    files: tuple[Path, ...]
    load: Loader


def find_jobs(masks: Path, images: Path | None, slice_axis: str = "auto") -> tuple[list[MaskJob], list[str]]:
    """Lists the masks to measure, each with what gives its geometry.

    In this order: the image of the same name; for slices of a run folder, what the run remembers; a volume's
    own header.

    Args:
        masks: folder of masks (volumes, slices, slices in folders, a run folder), or one file.
        images: folder or file of the scans, or None.
        slice_axis: as in ``load_scan``.

    Returns:
        The jobs, and sentences on what has no partner.

    Raises:
        DataError: no masks there, or images were given and none fits.
    """
    found = _find(masks)
    notes: list[str] = []
    jobs: list[MaskJob] = []
    taken: set[Path] = set()
    if images is not None:
        listing = discover(images)
        notes += listing.notes
        without = []
        claimed: dict[Path, str] = {}
        # Scans come before pictures: a folder of label pictures beside the scans is no scan.
        rank = {"dicom": 0, "volume": 1, "raster": 2}
        for source in sorted(listing.sources, key=lambda item: rank[item.kind]):
            job = _job_of(source, found, slice_axis)
            twice = sorted({claimed[path] for path in job.files if path in claimed}) if job else []
            if twice and source.kind != "raster":
                raise DataError(
                    f"the masks {name_list([path.name for path in job.files if path in claimed], 3) if job else ''} fit several scans by name "
                    f"({name_list([*twice, source.name])}), so it is unclear whose they are. Put the masks of each scan into "
                    "a folder of the scan's name."
                )
            if job is None or twice:
                without.append(source.name)
                continue
            jobs.append(job)
            claimed.update(dict.fromkeys(job.files, job.name))
            taken.update(job.files)
        if not jobs:
            raise DataError(
                f"no mask fits an image: the images are {name_list(without, 3)}, the masks "
                f"{name_list([*found.cases, *found.loose], 3)}. A mask needs the name of its image "
                "(slice by slice, or as a whole)."
            )
        if without:
            notes.append(f"images without a mask, not measured: {name_list(without)}.")
    alone = _jobs_alone(found, taken, read_run_memory(found.path), slice_axis)
    if images is not None and alone:
        notes.append(
            f"masks without an image, measured as they are: {name_list([job.name for job in alone])}."
        )
    return jobs + alone, notes


def _find(masks: Path) -> MaskFolder:
    if not masks.exists():
        raise DataError(f"'{masks}': not found. Give a folder of masks, or one file.")
    if masks.is_dir():
        return find_masks(masks)
    if is_volume_file(masks):
        name = same_text(stem_of(masks))
        return MaskFolder(masks.parent, {name: MaskCase(name, masks)}, {})
    if masks.suffix.lower() in LABEL_SUFFIXES:
        return MaskFolder(masks.parent, {}, {same_text(masks.stem): masks})
    raise DataError(f"'{masks.name}': found no mask. Expected .nii.gz, .nrrd, .mha, .png or .npy.")


# --- with images
# ------------------------------------------------------------------------------------------------------


def _job_of(source: ImageSource, found: MaskFolder, slice_axis: str) -> MaskJob | None:
    names = (source.name, source.files[0].parent.name, image_stem(source.files[0]))
    wanted = dict.fromkeys(same_text(name) for name in names)
    named = [found.cases[name] for name in wanted if name in found.cases]
    for pool in [*(case.slices for case in named), found.loose, *_only_fit(source, found)]:
        case = labelled_part(source, _partners(source, pool)) if pool else None
        if case is not None:
            return _training_job(source.name, case, slice_axis, _gap_note(source, case))
    for candidate in named:
        if candidate.volume is not None:
            return _training_job(source.name, TrainingCase(source, label_volume=candidate.volume), slice_axis)
    return None


def _partners(source: ImageSource, pool: dict[str, Path]) -> list[Path | None]:
    """The mask of each slice, by the slice's name or its file's."""
    frames = len(set(source.files)) < len(source.files)
    result: list[Path | None] = []
    for index, file in enumerate(source.images if source.kind == "volume" else source.files):
        name = same_text(source.slice_names[index]) if source.slice_names else ""
        result.append(pool.get(name) or (None if frames else pool.get(same_text(image_stem(file)))))
    return result


# Names that say what a folder holds, not whose it is.
_LAYOUT_NAMES = {"labels", "label", "masks", "mask", "segmentations", "segmentation"}


def _only_fit(source: ImageSource, found: MaskFolder) -> list[dict[str, Path]]:
    """The slices in a folder "labels" or "masks", where that is all there is and it has a mask for every slice.

    A folder of any other name belongs to the scan of that name: slice names such as "IM_0001" fit every scan.
    """
    if len(found.cases) != 1:
        return []
    ((name, case),) = found.cases.items()
    fits = name.lower() in _LAYOUT_NAMES and case.slices and None not in _partners(source, case.slices)
    return [case.slices] if fits else []


def _gap_note(source: ImageSource, case: TrainingCase) -> str:
    missing = len(source.files) - len(case.source.files)
    if not missing:
        return ""
    return (
        f"{missing} of {len(source.files)} slices have no mask; areas are of the others, and a volume "
        "spans the gaps "
        "between them"
    )


def _training_job(name: str, case: TrainingCase, slice_axis: str, note: str = "") -> MaskJob:
    def load(num_labels: int | None) -> tuple[Scan, Mask, tuple[str, ...]]:
        scan, mask, notes = load_case(case, num_labels=num_labels, slice_axis=slice_axis)
        return replace(scan, name=name), mask, (*notes, note) if note else notes

    return MaskJob(name, case.labels, load)


# --- masks alone
# ------------------------------------------------------------------------------------------------------


def _jobs_alone(
    found: MaskFolder, taken: set[Path], memory: dict[str, RunMemory], slice_axis: str
) -> list[MaskJob]:
    jobs = []
    for name, case in found.cases.items():
        if taken & {*case.slices.values(), *([case.volume] if case.volume else [])}:
            continue
        if case.slices and (name in memory or case.volume is None):
            jobs.append(_slices_job(name, case.slices, memory.get(name)))
        elif case.volume is not None:
            jobs.append(_volume_job(name, case.volume, slice_axis))
    loose = {name: path for name, path in found.loose.items() if path not in taken}
    if loose and not taken & set(found.loose.values()):
        folder = next(iter(loose.values())).parent
        name = next(iter(loose)) if len(loose) == 1 else folder.resolve().name
        jobs.append(_slices_job(name, loose, None))
    return jobs


def _volume_job(name: str, path: Path, slice_axis: str) -> MaskJob:
    def load(num_labels: int | None) -> tuple[Scan, Mask, tuple[str, ...]]:
        # The mask is its own image here: it is sliced and turned as an image volume would be.
        source = replace(discover(path).sources[0], name=name)
        return load_case(
            TrainingCase(source, label_volume=path), num_labels=num_labels, slice_axis=slice_axis
        )

    return MaskJob(name, (path,), load)


def _slices_job(name: str, files: dict[str, Path], memory: RunMemory | None) -> MaskJob:
    def load(num_labels: int | None) -> tuple[Scan, Mask, tuple[str, ...]]:
        names = list(files)
        if memory:
            order = {known: index for index, known in enumerate(memory.position_mm)}
            names.sort(key=lambda item: order.get(item, len(order)))
        planes, notes = _read_planes(name, [files[item] for item in names], num_labels)
        shape = (planes.shape[1], planes.shape[2])
        geometry = memory.geometry(names, shape) if memory else Geometry.from_spacing(planes.shape)
        if not geometry.spacing_known:
            notes.append(
                "no image and so no pixel spacing: pixels are counted, areas in mm² are unknown. Give "
                "the images (--images)"
            )
        source = "run_report.json" if geometry.spacing_known else ""
        scan = Scan(
            name=name,
            volume=Volume(planes, geometry, "", source),
            source_geometry=geometry,
            slice_names=tuple(names),
            slice_files=tuple(files[item].name for item in names),
            kind="raster",
            patient=name,
            warnings=tuple(notes),
        )
        return scan, Mask(planes, geometry), tuple(notes)

    return MaskJob(name, tuple(files.values()), load)


def _read_planes(
    name: str, files: Sequence[Path], num_labels: int | None
) -> tuple[npt.NDArray[np.unsignedinteger], list[str]]:
    planes: list[npt.NDArray[np.unsignedinteger]] = []
    notes: list[str] = []
    for file in files:
        label = read_label(file, num_labels)
        if planes and label.array.shape != planes[0].shape:
            raise DataError(
                f"'{name}': label '{file.name}' differs in size from '{files[0].name}'; slices of one "
                "scan need the same "
                "size. Put the slices of each scan into a folder of its own."
            )
        if label.warning:
            notes.append(label.warning)
        planes.append(label.array)
    return np.stack(planes), notes
