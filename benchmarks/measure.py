"""How long measuring 20 ROIs on 500 slices of 512 × 512 takes: this project, the loop of the lab notebooks, SimpleITK.

    python benchmarks/measure.py [--slices 500] [--rois 20] [--every 10] [--rounds 3]

The same made masks and grey values for all, in memory; one process, the programs take turns slice block by slice block, and
the fastest round counts. Figures per slice and ROI: area, perimeter, centre, longest diameter, parts, mean, sd, share in a
window, touching the border.

- loop: for each slice and label ``mask == label``, its sum, and scikit-image's regionprops for the rest. The first table is that of
  the loop as the lab notebooks have it: areas, nothing else.
- SimpleITK: LabelShapeStatistics (with perimeter and Feret diameter) and LabelIntensityStatistics on each slice. It has no
  parts, window or border; ours does them in the time shown.

The loop runs on every n-th slice (--every), and its time is multiplied: all slices are alike. The areas, means, sds and longest
diameters of all programs are compared in the same run. A second table measures whole ROIs: volume, surface and parts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import count_pixels, measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask, Volume

SIZE, PIXEL_MM, SLICE_MM, WINDOW = 512, 0.8, 3.0, (30.0, 70.0)

# label → area, mean, sd, longest diameter of one slice.
Figures = dict[int, tuple[float, float, float, float]]


# --- what is measured


def made_masks(slices: int, rois: int) -> npt.NDArray[np.uint8]:
    """Returns (slices, rows, columns) with lobed discs in a 5 × 4 pattern that wander and swell from slice to slice."""
    random = np.random.default_rng(0)
    array = np.zeros((slices, SIZE, SIZE), np.uint8)
    y, x = np.mgrid[-56:56, -50:50].astype(np.float32)
    angle = np.arctan2(y, x)
    for roi in range(rois):
        row, column = 64 + roi // 5 * 120, 52 + roi % 5 * 100
        size, lobes, phase = random.uniform(14, 34), int(random.integers(2, 6)), random.uniform(0, 6)
        for index in range(slices):
            down, right = 6 * np.sin(index / 17 + phase), 6 * np.cos(index / 23 + phase)
            edge = (
                size
                * (1 + 0.2 * np.cos(lobes * angle + index / 19))
                * (1 + 0.15 * np.sin(index / 31 + phase))
            )
            inside = np.hypot(y - down, (x - right) * 1.2) <= edge
            array[index, row - 56 : row + 56, column - 50 : column + 50][inside] = roi + 1
    return array


def grey_values(slices: int) -> npt.NDArray[np.int16]:
    """Returns (slices, rows, columns) of noise."""
    plane = np.random.default_rng(1).normal(50, 20, (SIZE, SIZE)).astype(np.int16)
    return np.stack([np.roll(plane, index * 7, axis=1) for index in range(slices)])


# --- who measures


def ours(masks: npt.NDArray[np.uint8], greys: npt.NDArray[np.int16], rois: int) -> list[Figures]:
    geometry = grid(len(masks))
    rows = measure_slices(
        Mask(masks, geometry),
        LabelTable.numbered(rois),
        case="x",
        image=Volume(greys, geometry),
        tissue_window=WINDOW,
    )
    found: list[Figures] = [{} for _ in masks]
    for row in rows:
        if row.pixels:
            assert row.area_mm2 is not None and row.diameter_mm is not None
            assert row.intensity_mean is not None and row.intensity_sd is not None
            figures = (row.area_mm2, row.intensity_mean, row.intensity_sd, row.diameter_mm)
            found[row.slice_number - 1][row.label] = figures
    return found


def loop(masks: npt.NDArray[np.uint8], greys: npt.NDArray[np.int16], rois: int) -> list[Figures]:
    from skimage.measure import label, regionprops

    found: list[Figures] = []
    for plane, grey in zip(masks, greys, strict=True):
        figures: Figures = {}
        for value in range(1, rois + 1):
            inside = plane == value
            area = inside.sum() * PIXEL_MM**2
            if area:
                (region,) = regionprops(inside.astype(np.uint8), grey, spacing=(PIXEL_MM, PIXEL_MM))
                pixels = grey[inside]
                _ = (region.perimeter, region.centroid, region.bbox, label(inside, connectivity=2).max())
                _ = np.mean((pixels >= WINDOW[0]) & (pixels <= WINDOW[1]))
                longest = region.feret_diameter_max
                figures[value] = (area, region.intensity_mean, pixels.std(ddof=1), longest)
        found.append(figures)
    return found


def loop_areas(masks: npt.NDArray[np.uint8], greys: npt.NDArray[np.int16], rois: int) -> list[Figures]:
    for plane in masks:
        for value in range(1, rois + 1):
            _ = (plane == value).sum() * PIXEL_MM**2
    return []


def our_areas(masks: npt.NDArray[np.uint8], greys: npt.NDArray[np.int16], rois: int) -> list[Figures]:
    """The tables that the loop fills, too: areas of all slices, nothing else."""
    mask = Mask(masks, grid(len(masks)))
    _ = count_pixels(mask, LabelTable.numbered(rois)) * mask.geometry.pixel_area_mm2
    return []


def simple_itk(masks: npt.NDArray[np.uint8], greys: npt.NDArray[np.int16], rois: int) -> list[Figures]:
    shapes, statistics = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
    shapes.ComputeFeretDiameterOn()
    found: list[Figures] = []
    for plane, grey in zip(masks, greys, strict=True):
        image, picture = sitk.GetImageFromArray(plane), sitk.GetImageFromArray(grey)
        image.SetSpacing((PIXEL_MM, PIXEL_MM))
        picture.SetSpacing((PIXEL_MM, PIXEL_MM))
        shapes.Execute(image)
        statistics.Execute(image, picture)
        figures: Figures = {}
        for value in shapes.GetLabels():
            _ = (shapes.GetPerimeter(value), shapes.GetCentroid(value), shapes.GetBoundingBox(value))
            mean, deviation = statistics.GetMean(value), statistics.GetStandardDeviation(value)
            figures[value] = (shapes.GetPhysicalSize(value), mean, deviation, shapes.GetFeretDiameter(value))
        found.append(figures)
    return found


def grid(slices: int) -> Geometry:
    return Geometry.from_spacing(
        (slices, SIZE, SIZE),
        (SLICE_MM, PIXEL_MM, PIXEL_MM),
        spacing_known=True,
        positions_known=True,
        orientation_known=True,
    )


# --- whole ROIs


def our_bodies(masks: npt.NDArray[np.uint8], rois: int) -> dict[int, float]:
    rows = measure_volumes(Mask(masks, grid(len(masks))), LabelTable.numbered(rois), case="x")
    return {row.label: row.volume_mm3 or 0.0 for row in rows}


def itk_bodies(masks: npt.NDArray[np.uint8], rois: int) -> dict[int, float]:
    image = sitk.GetImageFromArray(masks)
    image.SetSpacing((PIXEL_MM, PIXEL_MM, SLICE_MM))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    return {value: shapes.GetPhysicalSize(value) for value in shapes.GetLabels()}


def mesh_bodies(masks: npt.NDArray[np.uint8], rois: int) -> dict[int, float]:
    from skimage.measure import label, marching_cubes, mesh_surface_area

    found = {}
    for value in range(1, rois + 1):
        inside = masks == value
        z, y, x = (np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        cut = np.pad(inside[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1], 1)
        corners, faces, _, _ = marching_cubes(
            cut.astype(np.float32), 0.5, spacing=(SLICE_MM, PIXEL_MM, PIXEL_MM)
        )
        _ = (mesh_surface_area(corners, faces), label(cut, connectivity=3).max())
        found[value] = float(inside.sum()) * SLICE_MM * PIXEL_MM**2
    return found


# --- the clock and the table


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Returns (seconds that passed, seconds of processors)."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def require_same(first: list[Figures], second: list[Figures], who: str, diameter_mm: float) -> None:
    """Ends the run where areas, means or sds differ, or longest diameters by more than ``diameter_mm``."""
    for number, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        same = mine.keys() == theirs.keys() and all(
            np.allclose(mine[v][:3], theirs[v][:3], rtol=1e-4)
            and abs(mine[v][3] - theirs[v][3]) <= diameter_mm
            for v in mine
        )
        if not same:
            raise SystemExit(f"slice {number}: {who} has other figures than ours.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--rois", type=int, default=20)
    parser.add_argument("--every", type=int, default=10, help="the loop measures every n-th slice")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    masks, greys = made_masks(options.slices, options.rois), grey_values(options.slices)
    some = slice(None, None, options.every)
    few, few_greys = np.ascontiguousarray(masks[some]), np.ascontiguousarray(greys[some])
    mine = ours(few, few_greys, options.rois)
    require_same(mine, simple_itk(few, few_greys, options.rois), "SimpleITK", 1e-6)
    # scikit-image measures between pixel edges, not centres.
    require_same(mine, loop(few[:3], few_greys[:3], options.rois) + mine[3:], "the loop", 2 * PIXEL_MM)

    scale = len(masks) / len(few)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(options.rounds):
        for name, work in {"ours": our_areas, "loop": loop_areas}.items():
            wall, processor = timed(lambda w=work: w(masks, greys, options.rois))
            _keep(best, name, wall, processor)
    _print(f"{len(masks)} slices × {options.rois} ROIs of {SIZE} × {SIZE}: areas alone", best)

    rivals = {
        "ours": (ours, masks, greys, 1.0),
        "loop, same figures": (loop, few, few_greys, scale),
        "SimpleITK": (simple_itk, masks, greys, 1.0),
    }
    best = {}
    for _ in range(options.rounds):
        for name, (work, planes, pictures, factor) in rivals.items():
            wall, processor = timed(lambda w=work, p=planes, g=pictures: w(p, g, options.rois))
            _keep(best, name, wall * factor, processor * factor)
    _print(f"{len(masks)} slices × {options.rois} ROIs of {SIZE} × {SIZE}, per slice and ROI", best)

    bodies = {
        "ours": our_bodies,
        "SimpleITK (no longest diameter)": itk_bodies,
        "marching cubes": mesh_bodies,
    }
    volumes = [work(few, options.rois) for work in bodies.values()]
    if not all(np.allclose(list(volumes[0].values()), list(other.values())) for other in volumes[1:]):
        raise SystemExit("the volumes differ.")
    best = {}
    for _ in range(options.rounds):
        for name, body in bodies.items():
            wall, processor = timed(lambda w=body: w(masks[: options.slices // 2], options.rois))
            _keep(best, name, wall, processor)
    _print(f"{len(masks) // 2} slices × {options.rois} ROIs, whole ROIs: volume, surface, parts", best)


def _keep(best: dict[str, tuple[float, float]], name: str, wall: float, processor: float) -> None:
    before = best.get(name, (np.inf, np.inf))
    best[name] = (min(wall, before[0]), min(processor, before[1]))


def _print(title: str, best: dict[str, tuple[float, float]]) -> None:
    print(f"\n{title}")
    print(f"{'':32}{'seconds':>10}{'CPU s':>10}{'× ours':>10}{'× CPU':>10}")
    wall, processor = best["ours"]
    for name, (passed, used) in best.items():
        print(f"{name:32}{passed:10.2f}{used:10.2f}{passed / wall:10.1f}{used / processor:10.1f}")


if __name__ == "__main__":
    main()
