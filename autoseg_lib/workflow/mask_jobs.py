"""Finds masks that exist already, and the scan that tells each one's size in mm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg_lib.data.discover import Discovery, ImageSource, discover
from autoseg_lib.data.label_rules import LabelRules
from autoseg_lib.data.masks import load_case, read_slices
from autoseg_lib.data.naming import shown_name
from autoseg_lib.data.pairing import TrainingCase
from autoseg_lib.data.scan import Scan, scan_of
from autoseg_lib.errors import DataError, name_list
from autoseg_lib.evaluate.match import MaskFolder, find_masks
from autoseg_lib.evaluate.names import RunMemory, read_run_memory
from autoseg_lib.evaluate.reading import case_of, read_whole
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.identity import tells_identity
from autoseg_lib.io.volume_files import is_volume_file
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.privacy import hiding, identities

# How codes and names become ROI numbers → the scan, its mask on the scan's slices, and sentences for the user.
Loader = Callable[[LabelRules], tuple[Scan, Mask, tuple[str, ...]]]


@dataclass(frozen=True)
class MaskJob:
    """One mask to measure.

    Attributes:
        name: the case.
        files: the mask's files.
        load: reads it.
        names: the ROIs that the mask's file names itself; empty where it holds numbers.
        has_image: whether the scan that ``load`` gives is a picture; else it is the mask once more.
    """

    name: str
    files: tuple[Path, ...]
    load: Loader
    names: tuple[str, ...] = ()
    has_image: bool = False


@dataclass(frozen=True)
class FoundMasks:
    """The masks to measure.

    Attributes:
        jobs: one a mask; their names are free of who the patients are.
        notes: sentences on what has no partner.
        told: texts that tell who the patients are, from the headers of scans and masks; they must reach no output.
    """

    jobs: tuple[MaskJob, ...]
    notes: tuple[str, ...]
    told: frozenset[str] = field(repr=False)

    def nameless(self, scan: Scan, job: MaskJob) -> Scan:
        """Returns a job's scan under the job's name, with slices named by number where their names tell a person.

        The slices of DICOM files have safe names already.
        """
        texts = (*scan.slice_names, *scan.slice_files)
        if scan.kind == "dicom" or not any(tells_identity(text, self.told) for text in texts):
            return replace(scan, name=job.name)
        count = len(scan.slice_names)
        names = tuple(f"slice_{number:04d}" for number in range(1, count + 1))
        return replace(scan, name=job.name, slice_names=names, slice_files=("",) * count)


def find_jobs(masks: Path, images: Path | None, slice_axis: str = "auto") -> FoundMasks:
    """Lists the masks to measure, each with what gives its geometry.

    In this order: the image that a manifest lists; the image of the same name, or that the mask says it was drawn on; for
    slices of a run folder, what the run remembers; a volume's own header.

    Args:
        masks: folder of masks (volumes, RTSTRUCT or DICOM SEG files, slices, slices in folders, a run folder), one file, or a
            CSV manifest (columns image, label).
        images: folder or file of the scans, or None.
        slice_axis: as in ``load_scan``.

    Raises:
        DataError: no masks there, or images were given and none fits.
    """
    found = find_masks(masks)
    notes: list[str] = []
    names = {path: said.names for path, said in found.named.items()}
    jobs = [_training_job(name, case, slice_axis, names) for name, case in found.scans.items()]
    listing = discover(images) if images is not None and not jobs else None
    told = _told(found, listing)
    taken: set[Path] = set()
    if listing is not None:
        hide = hiding(told)
        notes += [hide(note) for note in listing.notes]
        one_each = found.is_single and images is not None and images.is_file()
        jobs, without = _jobs_with_images(listing.sources, found, taken, slice_axis, names, told, one_each)
        if not jobs:
            have = [shown_name(name, told) for name in (*found.cases, *found.loose)]
            raise DataError(
                f"no mask fits an image: the images are {name_list(without, 3)}, the masks {name_list(have, 3)}. A mask needs "
                "the name of its image (slice by slice, or as a whole); or list the pairs in a CSV file with the columns image,label."
            )
        if without:
            notes.append(f"images without a mask, not measured: {name_list(without)}.")
    alone = [
        replace(job, name=shown_name(job.name, told))
        for job in _jobs_alone(found, taken, read_run_memory(found.path), slice_axis, names)
    ]
    if images is not None and alone:
        notes.append(
            f"masks without an image, measured as they are: {name_list([job.name for job in alone])}."
        )
    return FoundMasks((*jobs, *alone), tuple(notes), told)


def _told(found: MaskFolder, listing: Discovery | None) -> frozenset[str]:
    """Returns what the headers of scans and of masks say of patients: files of both kinds may be named after them."""
    scans = identities(Discovery(tuple(case.source for case in found.scans.values())))
    if listing is not None:
        scans |= identities(listing)
    return scans.union(*(said.identity for said in found.named.values()))


# --- with images
# ------------------------------------------------------------------------------------------------------


def _jobs_with_images(
    sources: Sequence[ImageSource],
    found: MaskFolder,
    taken: set[Path],
    slice_axis: str,
    names: dict[Path, tuple[str, ...]],
    told: frozenset[str],
    one_each: bool,
) -> tuple[list[MaskJob], list[str]]:
    """Returns the masks that have an image, and the names of images without one; adds the masks' files to ``taken``.

    With ``one_each`` the user named one file on each side: then names do not matter.

    Raises:
        DataError: masks fit several scans.
    """
    jobs: list[MaskJob] = []
    without: list[str] = []
    claimed: dict[Path, str] = {}
    # Scans come before pictures: a folder of label pictures beside the scans is no scan.
    rank = {"dicom": 0, "volume": 1, "raster": 2}
    for source in sorted(sources, key=lambda item: rank[item.kind]):
        case = case_of(source, found)
        # A volume's own header names nobody; the mask's may.
        name = source.name if source.series is not None else shown_name(source.name, told)
        twice = sorted({claimed[path] for path in case.labels if path in claimed}) if case else []
        if twice and source.kind != "raster":
            doubled = [path.name for path in case.labels if path in claimed] if case else []
            raise DataError(
                f"the masks {name_list([shown_name(item, told) for item in doubled], 3)} fit several scans by name "
                f"({name_list([*twice, name])}), so it is unclear whose they are. Put the masks of each scan into "
                "a folder of the scan's name."
            )
        if case is None or twice:
            without.append(name)
            continue
        jobs.append(_training_job(name, case, slice_axis, names, _gap_note(source, case)))
        claimed.update(dict.fromkeys(case.labels, name))
        taken.update(case.labels)
    if not jobs and (only := _only_pair(sources, found) if one_each else None):
        source, path = only
        name = source.name if source.series is not None else shown_name(source.name, told)
        note = "the mask has another name than the image; each was named alone, so they are taken as a pair"
        jobs.append(_training_job(name, TrainingCase(source, label_volume=path), slice_axis, names, note))
        taken.add(path)
        return jobs, []
    for name, source, path in _drawn_on(sources, found, taken):
        case = TrainingCase(source, label_volume=path)
        jobs.append(_training_job(shown_name(name, told), case, slice_axis, names))
        taken.add(path)
        without = [item for item in without if item != source.name]
    return jobs, without


def _only_pair(sources: Sequence[ImageSource], found: MaskFolder) -> tuple[ImageSource, Path] | None:
    """Returns scan and mask where both are one volume."""
    volumes = [case.volume for case in found.cases.values() if case.volume is not None and not case.slices]
    alone = len(sources) == len(found.cases) == len(volumes) == 1 and not found.loose
    return (sources[0], volumes[0]) if alone and not found.named.get(volumes[0]) else None


def _drawn_on(
    sources: Sequence[ImageSource], found: MaskFolder, taken: set[Path]
) -> list[tuple[str, ImageSource, Path]]:
    """Returns (case, scan, file) of the files that say which series they were drawn on, several of one scan included."""
    by_uid: dict[str, list[ImageSource]] = defaultdict(list)
    for source in sources:
        if source.series is not None:
            by_uid[source.series.headers[0].series_uid].append(source)
    result = []
    for name, case in found.cases.items():
        said = found.named.get(case.volume) if case.volume and case.volume not in taken else None
        scans = [source for uid in said.series_uids for source in by_uid.get(uid, [])] if said else []
        if case.volume and len(scans) == 1:
            result.append((name, scans[0], case.volume))
    return result


def _gap_note(source: ImageSource, case: TrainingCase) -> str:
    missing = len(source.files) - len(case.source.files)
    if not missing or case.label_volume is not None:
        return ""
    count = "1 of {0} slices has" if missing == 1 else f"{missing} of {{0}} slices have"
    return f"{count.format(len(source.files))} no mask; areas are of the others, and a volume spans the gaps between them"


def _training_job(
    name: str, case: TrainingCase, slice_axis: str, names: dict[Path, tuple[str, ...]], note: str = ""
) -> MaskJob:
    def load(rules: LabelRules) -> tuple[Scan, Mask, tuple[str, ...]]:
        scan, mask, notes = load_case(case, rules=rules, slice_axis=slice_axis)
        return replace(scan, name=name), mask, (*notes, note) if note else notes

    own = names.get(case.label_volume, ()) if case.label_volume else ()
    return MaskJob(name, case.labels, load, own, has_image=True)


# --- masks alone
# ------------------------------------------------------------------------------------------------------


def _jobs_alone(
    found: MaskFolder,
    taken: set[Path],
    memory: dict[str, RunMemory],
    slice_axis: str,
    names: dict[Path, tuple[str, ...]],
) -> list[MaskJob]:
    jobs = []
    for name, case in found.cases.items():
        if taken & {*case.slices.values(), *([case.volume] if case.volume else [])}:
            continue
        if case.slices and (name in memory or case.volume is None):
            jobs.append(_slices_job(name, case.slices, memory.get(name)))
        elif case.volume is not None:
            jobs.append(_volume_job(name, case.volume, slice_axis, names.get(case.volume, ())))
    loose = {name: path for name, path in found.loose.items() if path not in taken}
    if loose and not taken & set(found.loose.values()):
        folder = next(iter(loose.values())).parent
        name = next(iter(loose)) if len(loose) == 1 else folder.resolve().name
        jobs.append(_slices_job(name, loose, None))
    return jobs


def _volume_job(name: str, path: Path, slice_axis: str, names: tuple[str, ...]) -> MaskJob:
    def load(rules: LabelRules) -> tuple[Scan, Mask, tuple[str, ...]]:
        # The mask is its own image here: it is sliced and turned as an image volume would be. A DICOM SEG keeps its slices.
        mask, said = read_whole(path, rules)
        own_slices = not is_volume_file(path)
        source = "header of the mask" if mask.geometry.spacing_known else ""
        scan = scan_of(name, Volume(mask.array, mask.geometry, "", source), slice_axis, own_slices=own_slices)
        scan = replace(scan, warnings=(*scan.warnings, *said, *_no_spacing(mask.geometry)))
        turned = scan.volume.array.astype(mask.array.dtype, copy=False)
        return scan, Mask(turned, scan.volume.geometry), scan.warnings

    return MaskJob(name, (path,), load, names)


def _no_spacing(geometry: Geometry) -> tuple[str, ...]:
    if geometry.spacing_known:
        return ()
    return (
        "no image and so no pixel spacing: pixels are counted, areas in mm² are unknown. Give the images (--images)",
    )


def _slices_job(name: str, files: dict[str, Path], memory: RunMemory | None) -> MaskJob:
    names = list(files)
    if memory:
        order = {known: index for index, known in enumerate(memory.position_mm)}
        names.sort(key=lambda item: order.get(item, len(order)))

    def load(rules: LabelRules) -> tuple[Scan, Mask, tuple[str, ...]]:
        planes, notes = _read_planes(name, [files[item] for item in names], rules)
        shape = (planes.shape[1], planes.shape[2])
        geometry = memory.geometry(names, shape) if memory else Geometry.from_spacing(planes.shape)
        notes += _no_spacing(geometry)
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

    return MaskJob(name, tuple(files[item] for item in names), load)


def _read_planes(
    name: str, files: Sequence[Path], rules: LabelRules
) -> tuple[npt.NDArray[np.unsignedinteger], list[str]]:
    planes: list[npt.NDArray[np.unsignedinteger]] = []
    notes: list[str] = []
    for file, label in zip(files, read_slices(files, rules), strict=True):
        if isinstance(label, DataError):
            raise label
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
