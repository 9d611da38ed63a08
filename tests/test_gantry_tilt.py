"""A tilted gantry: areas, volumes and the 3D network's grid of a shape that is known, and of a real scan."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from autoseg_lib.data.discover import discover
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.dicom_series import read_series
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import measure_slices
from autoseg_lib.measure.volumes import measure_volumes
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.preprocess.resample import resample
from autoseg_lib.volume import Mask, Volume
from tests.helpers.dicom import write_series
from tests.helpers.real_data import real_data

TILT = 18.5
DISTANCE = 2.5  # mm along the normal
CENTRE, RADII = (
    np.array([20.0, 25.0, 30.0]),
    np.array([14.0, 12.0, 16.0]),
)  # an ellipsoid in the patient, x y z in mm


def inside(geometry: Geometry) -> np.ndarray:
    """The ellipsoid at the pixel centres of a grid."""
    index = np.moveaxis(np.indices(geometry.shape_zyx), 0, -1)
    point = index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    return (((point - CENTRE) / RADII) ** 2).sum(axis=-1) <= 1


def tilted_scan(folder: Path) -> Volume:
    """Writes the ellipsoid as a CT with a tilted gantry, slices going along the table (+z), and reads it."""
    tilt = math.radians(TILT)
    orientation = (1, 0, 0, 0, math.cos(tilt), -math.sin(tilt))
    step = np.array(
        [0, 0, DISTANCE / math.cos(tilt)]
    )  # the table moves along z, so the step is not the normal
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, 0.5 * np.array(orientation[3:]), (0.4, 0, 0)
    affine[:3, 3] = (0, 0, 6)
    pixels = inside(Geometry((20, 110, 105), affine)).astype(np.int16) * 100
    write_series(
        folder, pixels, orientation=orientation, step=tuple(step), origin=(0, 0, 6), spacing=(0.5, 0.4), modality="CT",
        RescaleSlope=1, RescaleIntercept=0,
    )  # fmt: skip
    (source,) = discover(folder).sources
    assert any(f"tilted by {TILT:.1f}°" in text for text in source.warnings)
    return read_series(source.series)


def test_areas_and_volume_of_a_tilted_scan(tmp_path: Path) -> None:
    volume = tilted_scan(tmp_path)
    geometry = volume.geometry
    assert geometry.spacing_zyx_mm == pytest.approx((DISTANCE, 0.5, 0.4))
    assert geometry.shear_degrees == pytest.approx(TILT)
    mask = Mask((volume.array > 50).astype(np.uint8), geometry)
    assert np.array_equal(mask.array > 0, inside(geometry))
    (row,) = measure_volumes(mask, LabelTable(("shape",)), case="x")
    exact = 4 / 3 * math.pi * RADII.prod() / 1000
    assert row.volume_ml == pytest.approx(exact, rel=0.005)
    # The widest cut of an ellipsoid by planes with this normal: pi abc / |radii * normal|.
    widest = math.pi * RADII.prod() / np.linalg.norm(RADII * geometry.normal_xyz)
    names = [f"s{k}" for k in range(20)]
    slices = measure_slices(mask, LabelTable(("shape",)), slice_names=names, slice_files=[""] * 20, case="x")
    largest = max(one.area_mm2 or 0 for one in slices)
    assert largest == pytest.approx(widest, rel=0.01)


@pytest.mark.parametrize("spacing", [None, (2.5, 0.8, 0.8)])
def test_the_3d_network_never_sees_the_shear(tmp_path: Path, spacing) -> None:
    volume = tilted_scan(tmp_path)
    plan = Preprocessing("3D", spacing_zyx_mm=spacing)
    target = plan.network_geometry(volume.geometry)
    assert target.shear_degrees == pytest.approx(0, abs=1e-6)
    assert np.allclose(
        target.affine[:3, 0] / np.linalg.norm(target.affine[:3, 0]), volume.geometry.normal_xyz
    )
    # Every corner of the scan lies on the new grid.
    corners = np.array([[k, j, i] for k in (0, 19) for j in (0, 109) for i in (0, 104)])
    index = target.point_to_index(volume.geometry.index_to_point(corners))
    assert (index > -1).all()
    assert (index < np.array(target.shape_zyx)).all()
    # The shape on the network's grid is the shape itself, not a sheared one.
    prepared = plan.prepare_mask(Mask((volume.array > 50).astype(np.uint8), volume.geometry))
    expected = inside(prepared.geometry)
    both = 2 * (expected & (prepared.array > 0)).sum() / (expected.sum() + (prepared.array > 0).sum())
    assert both > 0.97
    # And back: the scan's own mask, but for pixels at the edge.
    chance = np.stack([prepared.array == 0, prepared.array == 1]).astype(np.float32)
    back = plan.restore(chance, volume.geometry)
    own = volume.array > 50
    assert 2 * (own & (back == 1)).sum() / (own.sum() + (back == 1).sum()) > 0.97
    assert back.shape == volume.array.shape


def test_straightening_leaves_straight_grids_alone() -> None:
    geometry = Geometry.from_spacing((5, 6, 7), (2, 1, 1), spacing_known=True, positions_known=True)
    assert geometry.straightened() is geometry


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("place", "degrees"), [("ge_gantry_tilt_18deg", 18.5), ("dicom2nifti/failing__gantrytilting__001", 14.0)]
)
def test_a_real_tilted_scan_is_straightened_slice_by_slice(place: str, degrees: float) -> None:
    folder = real_data("nasty_dicom") / place
    if not folder.exists():
        pytest.skip("this scan is not among the scans here")
    volume = read_series(discover(folder).sources[0].series)
    geometry = volume.geometry
    assert geometry.shear_degrees == pytest.approx(degrees, abs=0.2)
    straight = geometry.straightened()
    ours = resample(volume, straight, order="linear", fill=-1000.0)
    for k in range(geometry.shape_zyx[0]):
        # Slice by slice the straight grid is the slice itself, shifted within its plane by what the headers say.
        shift = np.linalg.lstsq(
            geometry.affine[:3, 1:3], (straight.affine - geometry.affine)[:3, [0, 3]] @ (k, 1), rcond=None
        )[0]
        rows, columns = np.indices(straight.shape_zyx[1:])
        y, x = rows + shift[0], columns + shift[1]
        n_rows, n_columns = geometry.shape_zyx[1:]
        good = (y >= 0) & (y <= n_rows - 1) & (x >= 0) & (x <= n_columns - 1)
        y0, x0 = np.floor(y[good]).astype(int), np.floor(x[good]).astype(int)
        fy, fx = y[good] - y0, x[good] - x0
        y1, x1 = np.minimum(y0 + 1, n_rows - 1), np.minimum(x0 + 1, n_columns - 1)
        own = volume.array[k].astype(float)
        expected = (own[y0, x0] * (1 - fx) + own[y0, x1] * fx) * (1 - fy)
        expected += (own[y1, x0] * (1 - fx) + own[y1, x1] * fx) * fy
        assert np.allclose(ours.array[k][good], expected, atol=0.1)
