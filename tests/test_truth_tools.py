"""The same masks measured by us and by independent tools, in the same test."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import read_label_file
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.volume import Mask, Volume, reorient
from tests.helpers.phantoms import turn
from tests.helpers.real_data import real_data
from tests.helpers.shapes import ellipsoid_mask, grid

COUNT = 5


def blobs(spacing: tuple[float, float, float], seed: int = 0) -> Mask:
    """Five smooth, irregular ROIs in 24 slices: noise, smoothed and cut at five heights far apart."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 80, 90)), (3, 7, 6))
    array = np.zeros(noise.shape, np.uint8)
    limits = np.quantile(noise, [0.02, 0.06, 0.5, 0.54, 0.94, 0.98])
    for value in (1, 2, 3, 4, 5):
        low, high = limits[value - 1], limits[value]
        array[(noise >= low) & (noise < high)] = value
    array[:, :6], array[:, :, -5:] = 0, 0
    return Mask(array, grid(array.shape, spacing))


def in_itk(mask: Mask | Volume) -> sitk.Image:
    """The mask as SimpleITK has it: the direction's columns are those of column, row and slice."""
    image = sitk.GetImageFromArray(mask.array)
    affine = mask.geometry.affine
    steps = affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(steps, axis=0)
    image.SetSpacing([float(n) for n in lengths])
    image.SetDirection((steps / lengths).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.7, 0.7), (3.0, 0.6, 1.2)])
def test_slices_agree_with_simpleitk(spacing: tuple[float, float, float]) -> None:
    """Pixels, area, centre, mean, sd and Feret diameter to the last digit."""
    mask = blobs(spacing)
    picture = np.random.default_rng(1).normal(50, 20, mask.array.shape).astype(np.float32)
    rows = measure_slices(
        mask,
        LabelTable.numbered(COUNT),
        case="x",
        image=Volume(picture, mask.geometry),
        tissue_window=(30, 60),
    )
    compared = 0
    for index in range(0, 24, 3):
        plane = sitk.GetImageFromArray(mask.array[index])
        plane.SetSpacing(spacing[:0:-1])
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(plane)
        greys = sitk.LabelIntensityStatisticsImageFilter()
        shown = sitk.GetImageFromArray(picture[index])
        shown.SetSpacing(plane.GetSpacing())
        greys.Execute(plane, shown)
        feret = sitk.LabelShapeStatisticsImageFilter()
        feret.ComputeFeretDiameterOn()
        for row in rows[index * COUNT : (index + 1) * COUNT]:
            if row.label not in shapes.GetLabels():
                assert row.pixels == 0
                continue
            compared += 1
            assert row.pixels == shapes.GetNumberOfPixels(row.label)
            assert row.area_mm2 == pytest.approx(shapes.GetPhysicalSize(row.label))
            x, y = shapes.GetCentroid(row.label)
            assert (row.centroid_column, row.centroid_row) == pytest.approx((x / spacing[2], y / spacing[1]))
            assert row.intensity_mean == pytest.approx(greys.GetMean(row.label), rel=1e-5)
            if row.pixels > 1:
                assert row.intensity_sd == pytest.approx(greys.GetStandardDeviation(row.label), rel=1e-4)
            # ITK takes the Feret diameter over all parts of a label, so each part is measured by itself here.
            parts = sitk.ConnectedComponent(plane == row.label, True)
            feret.Execute(parts)
            assert row.components == len(feret.GetLabels())
            assert row.diameter_mm == pytest.approx(max(map(feret.GetFeretDiameter, feret.GetLabels())))
            inside = picture[index][mask.array[index] == row.label]
            assert row.in_window_percent == pytest.approx(100 * np.mean((inside >= 30) & (inside <= 60)))
    assert compared > 25


def test_perimeter_and_surface_agree_with_simpleitk_where_its_estimator_is_good() -> None:
    """On square pixels and round shapes ITK's Crofton estimate is within 2 % of the truth, and so of ours."""
    ball = ellipsoid_mask((20, 16, 14), (1, 1, 1), turn(20))
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(in_itk(ball))
    (row,) = measure_volumes(ball, LabelTable(["a"]), case="x")
    assert row.surface_area_mm2 == pytest.approx(shapes.GetPerimeter(1), rel=0.02)
    middle = len(ball.array) // 2
    shapes.Execute(sitk.GetImageFromArray(ball.array[middle]))
    perimeter = measure_slices(ball, LabelTable(["a"]), case="x")[middle].perimeter_mm
    assert perimeter == pytest.approx(shapes.GetPerimeter(1), rel=0.02)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_bodies_agree_with_simpleitk(degrees: float) -> None:
    """Volume, parts, longest diameter, and where the centre lies in the patient."""
    body = blobs((3.0, 0.6, 1.2), seed=2)
    affine = np.array(body.geometry.affine)
    affine[:3, :3] = turn(degrees) @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, 103.0)
    mask = Mask(body.array, Geometry(body.array.shape, affine))
    image = in_itk(mask)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    slices = measure_slices(mask, LabelTable.numbered(COUNT), case="x")
    for row in measure_volumes(mask, LabelTable.numbered(COUNT), case="x"):
        assert row.volume_mm3 == pytest.approx(shapes.GetPhysicalSize(row.label))
        own = [r for r in slices if r.label == row.label and r.pixels]
        places = [[r.centroid_x_mm, r.centroid_y_mm, r.centroid_z_mm] for r in own]
        centre = np.average(places, axis=0, weights=[r.pixels for r in own])
        assert centre == pytest.approx(shapes.GetCentroid(row.label))
        parts = sitk.ConnectedComponent(image == row.label, True)
        feret = sitk.LabelShapeStatisticsImageFilter()
        feret.ComputeFeretDiameterOn()
        feret.Execute(parts)
        assert row.components == len(feret.GetLabels())
        assert row.diameter_3d_mm == pytest.approx(max(map(feret.GetFeretDiameter, feret.GetLabels())))


# --- programs of others


def test_volumes_agree_with_plastimatch(tmp_path: Path) -> None:
    """``plastimatch stats`` tells the mean and the number of voxels: for a mask of 0 and 1 its volume."""
    if shutil.which("plastimatch") is None:
        if os.environ.get("AUTOSEG_REQUIRE_ALL") == "1":
            pytest.fail("plastimatch is not installed (Debian: apt-get install plastimatch)")
        pytest.skip("plastimatch is not installed")
    mask = blobs((3.0, 0.6, 1.2), seed=3)
    rows = measure_volumes(mask, LabelTable.numbered(COUNT), case="x")
    for row in rows[:2]:
        path = tmp_path / f"roi{row.label}.nrrd"
        sitk.WriteImage(in_itk(Mask((mask.array == row.label).astype(np.uint8), mask.geometry)), str(path))
        done = subprocess.run(
            ["plastimatch", "stats", str(path)], capture_output=True, text=True, check=True, timeout=60
        )
        words = done.stdout.replace("=", " ").split()
        said = {name: float(words[words.index(name) + 1]) for name in ("NONZERO", "NUMVOX", "AVE")}
        assert int(said["NONZERO"]) == row.voxels
        assert said["AVE"] * said["NUMVOX"] == pytest.approx(row.voxels, rel=1e-4)


def test_bodies_agree_with_pycerr() -> None:
    """pyCERR (GPL, no dependency) measures the same volume; its mesh's surface is the larger one, as always with meshes of
    voxels. Only where somebody has it installed.
    """
    shape = pytest.importorskip("cerr.radiomics.shape")
    ball = ellipsoid_mask((20, 16, 14), (2, 1, 1), turn(20))
    (row,) = measure_volumes(ball, LabelTable(["a"]), case="x")
    # It wants rows, columns, slices, and the axes in cm.
    planes = np.moveaxis(ball.array, 0, 2).astype(bool)
    y, x, z = (np.arange(n) * step / 10 for n, step in zip(planes.shape, (1, 1, 2), strict=True))
    found = shape.calcShapeFeatures(planes, x, y, z, "LPS")
    assert row.volume_mm3 == pytest.approx(found["volume"])
    assert 0.85 * found["surfArea"] < row.surface_area_mm2 < found["surfArea"]
    # Between the corners of its mesh, half a voxel outside the centres.
    assert (
        row.diameter_3d_mm < found["max3dDiameter"] < row.diameter_3d_mm + float(np.hypot(2, np.hypot(1, 1)))
    )


# --- published figures


@pytest.mark.real_data
def test_pyradiomics_published_figures() -> None:
    """PyRadiomics' baseline_shape.csv: VoxelVolume 16412.658691406243 mm³, SurfaceArea 6433.73 mm².

    The surface is that of a marching-cubes mesh; on slices eight times thicker than the pixels such meshes are some 25 to 35 %
    larger than the smooth body (on ellipsoids of known surface), ours within 5 %. PyRadiomics' diameter of 69.6 mm bridges the
    lesion's two parts; ours is that of the larger one.
    """
    mask = read_label_file(real_data("pyradiomics_nrrd") / "brain1_label.nrrd")
    (row,) = measure_volumes(mask, LabelTable(["lesion"]), case="brain1")
    assert row.volume_mm3 == pytest.approx(16412.658691406243, rel=1e-6)
    assert 0.7 < row.surface_area_mm2 / 6433.7343171 < 0.8
    assert row.components == 2
    assert row.diameter_3d_mm < 69.6009903059


@pytest.mark.real_data
def test_spinal_cord_toolbox_published_sections() -> None:
    """The data set's mean section, 77.73 mm², is not corrected for the cord's angle; corrected it is a little smaller."""
    mask = reorient(read_label_file(real_data("spinal_cord_mri") / "t2" / "t2_seg-manual.nii.gz"), "SPL")
    rows = [row for row in measure_slices(mask, LabelTable(["cord"]), case="t2") if row.pixels]
    assert np.mean([row.area_mm2 for row in rows]) == pytest.approx(77.73, abs=0.005)
    assert 0.9 * 77.73 < np.mean([row.area_orthogonal_mm2 for row in rows]) < 77.73
    assert all(0 <= row.obliquity_degrees < 30 for row in rows)


def test_tables_are_plain_numbers(tmp_path: Path) -> None:
    """What is written can be read by anything: no nan, no inf, no text where numbers belong."""
    from autoseg_lib.export.tables import write_measurements

    mask = blobs((3.0, 0.6, 1.2))
    write_measurements(tmp_path / "m.csv", measure_slices(mask, LabelTable.numbered(COUNT), case="x"))
    text = (tmp_path / "m.csv").read_text(encoding="utf-8")
    assert "nan" not in text
    assert "inf" not in text
    for row in csv.DictReader(io.StringIO(text)):
        assert float(row["perimeter_mm"] or 0) >= 0
