"""The grid of a scan: points by hand, by SimpleITK, and through all 48 axis permutations and flips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import DISPLAY_ORIENTATION, Geometry
from autoseg_lib.volume import Mask, Volume, crop_or_pad, reorient, reorient_like

SHAPE = (3, 4, 5)
SPACING = (6.5, 0.7, 1.9)


def rotation(x_degrees: float, y_degrees: float, z_degrees: float) -> np.ndarray:
    """Rotation about x, then y, then z."""
    a, b, c = np.radians([x_degrees, y_degrees, z_degrees])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rz @ ry @ rx


def grid(axes=(2, 1, 0), signs=(1, 1, 1), turn=(0, 0, 0), shear=0.0, shape=SHAPE) -> Geometry:
    """A grid whose (slice, row, column) run along the world axes ``axes`` with ``signs``, then turned."""
    matrix = np.zeros((3, 3))
    for column, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[world, column] = sign * SPACING[column]
    matrix[:, 0] += shear * matrix[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = rotation(*turn) @ matrix
    affine[:3, 3] = (-12.5, 40.25, 7.0)
    return Geometry(shape, affine)


ALL_48 = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
TURNS = [(0, 0, 0), (17, -9, 23)]
ids = [f"{''.join('xyz'[a] for a in axes)}{''.join('+-'[s < 0] for s in signs)}" for axes, signs in ALL_48]


def numbered(geometry: Geometry) -> Volume:
    return Volume(
        np.arange(np.prod(geometry.shape_zyx), dtype=np.int16).reshape(geometry.shape_zyx), geometry
    )


def points_by_value(volume: Volume) -> np.ndarray:
    """(n, 3) points of the pixels in the order of their values: where each value lies, whatever the axes."""
    index = np.argwhere(np.ones(volume.array.shape, bool))
    points = volume.geometry.index_to_point(index)
    return points[np.argsort(volume.array.reshape(-1))]


# --- points ---------------------------------------------------------------------------------------------------------------


def test_points_by_hand() -> None:
    # Coronal: column to L (x), row to I (-z), slice to P (y).
    affine = [[0, 0, 2, 10], [3, 0, 0, 20], [0, -0.5, 0, 30], [0, 0, 0, 1]]
    geometry = Geometry((4, 5, 6), np.array(affine))
    assert geometry.index_to_point([0, 0, 0]).tolist() == [10, 20, 30]
    assert geometry.index_to_point([1, 2, 3]).tolist() == [16, 23, 29]
    assert geometry.point_to_index([16, 23, 29]).tolist() == [1, 2, 3]
    assert geometry.spacing_zyx_mm == (3, 0.5, 2)
    assert geometry.orientation_code == "PIL" == DISPLAY_ORIENTATION["coronal"]
    assert geometry.normal_xyz.tolist() == [0, 1, 0]
    assert geometry.positions_mm.tolist() == [20, 23, 26, 29]
    assert geometry.pixel_area_mm2 == 1.0


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(("axes", "signs"), ALL_48, ids=ids)
def test_points_as_simpleitk(axes, signs, turn) -> None:
    geometry = grid(axes, signs, turn)
    image = sitk.Image([int(n) for n in geometry.shape_zyx[::-1]], sitk.sitkUInt8)
    spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetDirection([float(v) for v in (geometry.affine[:3, :3] / spacing)[:, ::-1].ravel()])
    image.SetOrigin([float(v) for v in geometry.origin_xyz_mm])
    for k, j, i in ((0, 0, 0), (2, 3, 4), (1, 0, 3), (0, 2, 1)):
        expected = image.TransformIndexToPhysicalPoint((i, j, k))
        assert geometry.index_to_point([k, j, i]) == pytest.approx(expected, abs=1e-9)
        assert geometry.point_to_index(expected) == pytest.approx((k, j, i), abs=1e-9)


def test_normal_is_dicoms_also_with_a_negated_column_cosine() -> None:
    # A column cosine of -1: rows grow to anterior. Row direction x × column direction -y = -z.
    geometry = grid((2, 1, 0), (1, -1, 1))
    assert geometry.normal_xyz.tolist() == [0, 0, -1]
    assert geometry.positions_mm.tolist() == [-7.0, -13.5, -20.0]
    assert geometry.orientation_code == "SAL"
    assert np.diff(geometry.positions_mm).tolist() == [-6.5, -6.5]
    assert geometry.slice_extents_mm.tolist() == [6.5, 6.5, 6.5]


# --- reorienting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(("axes", "signs"), ALL_48, ids=ids)
def test_reorient_moves_no_value_and_comes_back(axes, signs, turn) -> None:
    volume = numbered(grid(axes, signs, turn))
    expected = points_by_value(volume)
    for code in DISPLAY_ORIENTATION.values():
        turned = reorient(volume, code)
        assert turned.geometry.orientation_code == code
        assert points_by_value(turned) == pytest.approx(expected, abs=1e-9)
        back = reorient(turned, volume.geometry.orientation_code)
        assert np.array_equal(back.array, volume.array)
        assert np.allclose(back.geometry.affine, volume.geometry.affine, atol=1e-9)
        like = reorient_like(turned, volume.geometry)
        assert np.array_equal(like.array, volume.array)
        assert like.geometry is volume.geometry


@pytest.mark.parametrize(("axes", "signs"), ALL_48, ids=ids)
def test_sheared_grids_turn_too(axes, signs) -> None:
    volume = numbered(grid(axes, signs, (5, 8, -4), shear=0.3))
    turned = reorient(volume, "SPL")
    assert points_by_value(turned) == pytest.approx(points_by_value(volume), abs=1e-9)
    assert np.array_equal(reorient_like(turned, volume.geometry).array, volume.array)


def test_reorient_like_refuses_other_points() -> None:
    volume = numbered(grid())
    with pytest.raises(GeometryError, match=r"not the same points. Resample instead"):
        reorient_like(volume, grid(turn=(0, 0, 5)))


@pytest.mark.parametrize("code", ["SP", "SSL", "XYZ", "SPLA"])
def test_wrong_orientation_code(code) -> None:
    with pytest.raises(GeometryError, match=r"one letter of L/R, P/A and S/I each"):
        grid().oriented(code)


# --- cropping and padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axes", "signs"), ALL_48[::7], ids=ids[::7])
def test_padding_and_its_inverse(axes, signs) -> None:
    volume = numbered(grid(axes, signs, (17, -9, 23)))
    before, shape = (1, 2, 3), (6, 9, 11)
    padded = crop_or_pad(volume, before, shape, fill=-1)
    assert padded.array.shape == shape
    assert padded.geometry.index_to_point(before) == pytest.approx(volume.geometry.origin_xyz_mm)
    back = crop_or_pad(padded, [-b for b in before], volume.array.shape)
    assert np.array_equal(back.array, volume.array)
    assert back.geometry.is_same_grid(volume.geometry, 1e-9)


def test_cropping_by_hand() -> None:
    volume = numbered(grid())
    cut = crop_or_pad(volume, (-1, -2, 1), (2, 2, 4), fill=-9)
    assert cut.array[0].tolist() == [[-9, 30, 31, 32], [-9, 35, 36, 37]]
    assert cut.geometry.index_to_point([0, 0, 1]) == pytest.approx(volume.geometry.index_to_point([1, 2, 0]))


def test_cropping_everything_away_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"leaves nothing"):
        crop_or_pad(numbered(grid()), (-3, 0, 0), (2, 4, 5))


# --- uneven stacks ---------------------------------------------------------------------------------------------------------------


def uneven(positions=(0.0, 2.0, 8.0)) -> Geometry:
    affine = np.diag([(positions[-1] - positions[0]) / 2, 0.5, 0.5, 1.0])[[2, 1, 0, 3]]
    affine[3] = (0, 0, 0, 1)
    return Geometry((3, 4, 5), affine, positions)


def test_uneven_stack_by_hand() -> None:
    geometry = uneven()
    assert geometry.positions_mm.tolist() == [0, 2, 8]
    # Half the way to each neighbour; outwards as far as inwards.
    assert geometry.slice_extents_mm.tolist() == [2.0, 4.0, 6.0]
    assert geometry.spacing_text == "2.00 to 6.00 mm"
    assert geometry.has_one_image_per_position
    assert not geometry.is_even
    for call in (lambda: geometry.index_to_point([0, 0, 0]), lambda: geometry.point_to_index([0, 0, 0])):
        with pytest.raises(GeometryError, match=r"evenly spaced slices; found distances of 2.00 to 6.00 mm"):
            call()


def test_repeated_positions() -> None:
    geometry = uneven((0.0, 0.0, 8.0))
    assert not geometry.has_one_image_per_position


def test_uneven_stack_turns_in_plane_and_along_but_not_across() -> None:
    volume = numbered(uneven())
    flipped = reorient(volume, "IAL")
    # The normal follows row and column: one flip in plane turns it round, so positions change sign.
    assert flipped.geometry.positions_mm.tolist() == [-8, -2, 0]
    assert np.array_equal(flipped.array, volume.array[::-1, ::-1])
    assert np.array_equal(reorient_like(flipped, volume.geometry).array, volume.array)
    with pytest.raises(GeometryError, match=r"turns slices into rows or columns"):
        reorient(volume, "PIL")
    with pytest.raises(GeometryError, match=r"crops or pads slices"):
        crop_or_pad(volume, (1, 0, 0), (4, 4, 5))
    assert crop_or_pad(volume, (0, 1, 1), (3, 6, 7)).geometry.positions_mm.tolist() == [0, 2, 8]


# --- other grids, refusals ---------------------------------------------------------------------------------------------------------


def test_respaced_keeps_the_centre() -> None:
    geometry = grid(turn=(17, -9, 23), shape=(10, 20, 30))
    other = geometry.respaced((3.25, 1.4, 1.9))
    assert other.shape_zyx == (20, 10, 30)
    assert other.spacing_zyx_mm == pytest.approx((3.25, 1.4, 1.9))
    middle, other_middle = [(n - 1) / 2 for n in geometry.shape_zyx], [(n - 1) / 2 for n in other.shape_zyx]
    assert other.index_to_point(other_middle) == pytest.approx(geometry.index_to_point(middle))


def test_gantry_tilt_is_measured() -> None:
    # A step of (0, tan 20°, 1) against a normal along z.
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 1], [np.tan(np.radians(20)) * 5, 1, 0], [5, 0, 0]]
    geometry = Geometry((4, 5, 6), affine)
    assert geometry.shear_degrees == pytest.approx(20)
    assert geometry.spacing_zyx_mm[0] == pytest.approx(5)


@pytest.mark.parametrize(
    ("shape", "affine", "positions", "words"),
    [
        ((2, 2, 2), np.diag([1, 1, 0, 1.0]), None, "lie in one plane"),
        ((2, 2, 2), np.full((4, 4), np.nan), None, "finite"),
        ((0, 2, 2), np.eye(4), None, "at least 1"),
        ((2, 2, 2), np.eye(4), (0.0, 1.0, 2.0), "one for each slice"),
        ((3, 2, 2), np.eye(4), (0.0, 2.0, 1.0), "in order"),
    ],
)
def test_broken_grids_are_refused(shape, affine, positions, words) -> None:
    with pytest.raises(GeometryError, match=words):
        Geometry(shape, affine, positions)


def test_is_same_grid() -> None:
    geometry = grid(turn=(17, -9, 23))
    moved = geometry.affine.copy()
    moved[0, 3] += 0.05
    other = Geometry(SHAPE, moved)
    assert not geometry.is_same_grid(other)
    assert geometry.is_same_grid(other, 0.1)
    assert not geometry.is_same_grid(geometry.permuted((0, 2, 1)))
    assert not geometry.is_same_grid(grid(turn=(17, -9, 24)), 0.1)


def test_mask_and_volume_check_their_shape_and_type() -> None:
    with pytest.raises(GeometryError, match=r"their grid says"):
        Volume(np.zeros((3, 4, 6)), grid())
    with pytest.raises(DataError, match=r"unsigned whole numbers, found int16"):
        Mask(np.zeros(SHAPE, np.int16), grid())


def test_from_spacing_knows_what_it_does_not_know() -> None:
    geometry = Geometry.from_spacing((1, 4, 5), (1, 0.5, 0.25), spacing_known=True)
    assert geometry.spacing_zyx_mm == (1, 0.5, 0.25)
    assert (geometry.spacing_known, geometry.positions_known, geometry.orientation_known) == (
        True,
        False,
        False,
    )
    assert geometry.orientation_code == "SPL"
