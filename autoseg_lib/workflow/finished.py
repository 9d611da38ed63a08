"""Runs that exist already: found again for the same input, model and settings, and their masks read back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg_lib.data.discover import Discovery, ImageSource
from autoseg_lib.data.naming import hashed_name, image_stem
from autoseg_lib.data.scan import Scan
from autoseg_lib.errors import DataError
from autoseg_lib.export.masks import NIFTI_NAME, slice_file_names
from autoseg_lib.export.run_folder import next_free_name, read_record, safe_name, unique_names
from autoseg_lib.io.files import sha256_of
from autoseg_lib.io.identity import tells_identity
from autoseg_lib.io.raster import read_label
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.networks.model_file import read_metadata
from autoseg_lib.preprocess.entry_points import own_steps_in, package_of
from autoseg_lib.volume import Mask, reorient_like
from autoseg_lib.workflow.model_choice import hash_of
from autoseg_lib.workflow.pipeline_editing import edit_pipeline, is_pipeline_key, pipeline_of
from autoseg_lib.workflow.privacy import identities
from autoseg_lib.workflow.region_masks import RegionMasks

# Where results go and which folder was chosen changes nothing in them; of masks to crop to the bytes count.
SETTINGS_WITH_PATHS = ("input_dir", "predictions_dir", "model_dir", "model_filename", "region_masks")


def result_key(
    source: ImageSource,
    model_hash: str,
    settings: Mapping[str, Any],
    sha256: Callable[[Path], str] = sha256_of,
    *,
    regions: RegionMasks | None = None,
) -> str:
    """Returns what must be equal for an earlier result of a scan to hold.

    Args:
        source: the scan; the bytes of its files count.
        model_hash: from ``model_key``.
        settings: all settings as a plain table.
        sha256: gives the checksum of a file.
        regions: the masks to crop to; None: as the settings say. The bytes of the scan's own one count.

    Raises:
        DataError: the folder of these masks does not exist or holds none.
    """
    digest = hashlib.sha256(model_hash.encode())
    regions = RegionMasks(settings.get("region_masks") or "") if regions is None else regions
    for path in (*source.all_files, *(regions.files(source) if regions.folder else ())):
        digest.update(sha256(path).encode())
    relevant = {key: value for key, value in settings.items() if key not in SETTINGS_WITH_PATHS}
    digest.update(repr(sorted(relevant.items())).encode())
    return digest.hexdigest()


def model_key(paths: Sequence[Path], changes: Mapping[str, Any] | None) -> str:
    """Returns what must be equal for results to be of the same model: its files, and the packages of a lab's own steps.

    Args:
        paths: the model files.
        changes: to what is done before and after the network, see ``model_choice.edited``.

    Raises:
        ModelError: a file is no model, or a step is not installed.
        SettingsError: the changes do not work.
    """
    packages = own_packages(paths, changes)
    if not packages:
        return hash_of(paths)
    return hashlib.sha256((hash_of(paths) + repr(sorted(packages.items()))).encode()).hexdigest()


def own_packages(paths: Sequence[Path], changes: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns name → package and version of each of a lab's own steps, before and after the network.

    Args:
        paths: the model files.
        changes: see ``model_key``.

    Raises:
        ModelError, SettingsError: see ``model_key``.
    """
    rest = {key: value for key, value in (changes or {}).items() if is_pipeline_key(key)}
    sections = [pipeline_of(read_metadata(path)) for path in paths]
    if rest:
        sections = [edit_pipeline(section, rest) for section in sections]
    return {name: package_of(name) for name in own_steps_in(sections)}


def input_checksums(
    source: ImageSource, scan: Scan, sha256: Callable[[Path], str] = sha256_of
) -> dict[str, str]:
    """Returns sha256 of each input file, under the name of its slice (file names may tell who the patient is)."""
    files = list(dict.fromkeys(source.files))
    names = list(scan.slice_names) if len(scan.slice_names) == len(files) else []
    if not names:
        names = [scan.name] if len(files) == 1 else [f"file_{number}" for number in range(1, len(files) + 1)]
    sums = {name: sha256(path) for name, path in zip(names, files, strict=True)}
    beside = [path for path in source.all_files if path not in set(files)]
    return sums | {f"beside_{number}": sha256(path) for number, path in enumerate(beside, start=1)}


def choose_run_folder(
    predictions_dir: Path, input_path: Path, found: Discovery, model_hash: str, settings: Mapping[str, Any]
) -> tuple[Path, str]:
    """Returns the run folder for an input and the mode to open it with.

    A folder that this input, model and settings have gone into already is continued (all of it done: just shown);
    otherwise a new name is taken, so that nothing is overwritten.

    Args:
        predictions_dir: folder of all runs.
        input_path: what is segmented.
        found: the scans in it.
        model_hash: from ``model_key``.
        settings: all settings as a plain table.
    """
    name = run_name(input_path, found)
    sources = dict(zip(unique_names([source.name for source in found.sources]), found.sources, strict=True))
    keys: dict[str, str] = {}
    regions = RegionMasks(settings.get("region_masks") or "")
    number, folder = 1, predictions_dir / safe_name(name)
    while folder.exists():
        record = read_record(folder)
        # Somebody else's scans may well lie in a folder of the same name ("DICOM"): every case must be ours.
        if record and set(record) <= set(sources):
            for case in record:
                keys.setdefault(case, result_key(sources[case], model_hash, settings, regions=regions))
            if all(record[case]["key"] == keys[case] for case in record):
                return folder, "continue"
        number += 1
        folder = predictions_dir / f"{safe_name(name)}_{number}"
    return next_free_name(predictions_dir, name), "new"


def run_name(input_path: Path, found: Discovery) -> str:
    """Returns the name of a run: the folder's or file's, or a hash where that name tells who the patient is."""
    name = input_path.name if input_path.is_dir() else image_stem(input_path)
    if not name:
        return "scan"  # the root of a drive
    return hashed_name(name) if tells_identity(name, identities(found)) else name


def read_mask(folder: Path, scan: Scan) -> Mask:
    """Reads back the mask of a case that was written earlier.

    Args:
        folder: the case's folder.
        scan: the scan it belongs to.

    Raises:
        DataError: no mask files are there, or they do not fit the scan.
    """
    geometry = scan.volume.geometry
    names = slice_file_names(scan.slice_names, geometry.shape_zyx[0])
    for suffix in ("png", "npy"):
        paths = [folder / "masks" / f"{name}.{suffix}" for name in names]
        if all(path.is_file() for path in paths):
            planes = [np.asarray(read_label(path, None).array) for path in paths]
            return Mask(np.stack(planes).astype(np.uint16), geometry)
    if (folder / NIFTI_NAME).is_file():
        mask = read_label_file(folder / NIFTI_NAME)
        return reorient_like(mask.with_array(mask.array, scan.source_geometry), geometry)
    raise DataError(
        f"'{folder.name}': its mask files are not there any more, so it cannot be shown. "
        "Remove the run folder and segment the scan again."
    )
