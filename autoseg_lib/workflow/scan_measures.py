"""Everything that is measured on the mask of one scan, whether a model drew it or it was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from autoseg_lib.data.scan import Scan
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes
from autoseg_lib.volume import Mask, Volume


def measure_scan(
    scan: Scan,
    mask: Mask,
    labels: LabelTable,
    *,
    case: str,
    image: Volume | None,
    tissue_window: Sequence[float] | None = None,
    fat_image: Volume | None = None,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement]]:
    """Measures the slices and, beside them in a thread of its own, the whole ROIs.

    Args:
        scan: tells the names of the slices.
        mask: label values on the scan's own grid, (slices, rows, columns).
        labels: names of the ROIs.
        case: name in the tables.
        image: the scan's grey values; None measures none.
        tissue_window: see ``measure_slices``.
        fat_image: see ``measure_slices``.
        pairs: see ``measure_volumes``.

    Raises:
        DataError, SettingsError: see the two.
    """
    with ThreadPoolExecutor(1) as thread:
        whole = thread.submit(measure_volumes, mask, labels, case=case, pairs=pairs)
        rows = measure_slices(
            mask,
            labels,
            case=case,
            slice_names=scan.slice_names,
            slice_files=scan.slice_files,
            image=image,
            tissue_window=tissue_window,
            fat_image=fat_image,
        )
        return rows, whole.result()
