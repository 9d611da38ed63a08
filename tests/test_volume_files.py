"""NIfTI, NRRD and MetaImage: geometry against nibabel and SimpleITK, round trips, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.errors import DataError, GeometryError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import (
    all_files,
    describe_volume_file,
    is_volume_file,
    read_label_file,
    read_volume_file,
    stem_of,
    write_mask_file,
    write_volume_file,
)
from autoseg_lib.volume import Mask, Volume
from tests.helpers.real_data import real_data
from tests.test_geometry import grid

SHAPE = (3, 4, 5)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def example(geometry: Geometry, dtype=np.int16) -> Volume:
    return Volume(np.arange(60, dtype=dtype).reshape(SHAPE), geometry)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_names() -> None:
    assert is_volume_file(Path("a.NII.GZ"))
    assert not is_volume_file(Path("a.gz"))
    assert stem_of(Path("x/scan.1.nii.gz")) == "scan.1"
    assert stem_of(Path("scan.nrrd")) == "scan"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_round_trip_keeps_values_and_places(tmp_path: Path, axes, signs, suffix) -> None:
    volume = example(grid(axes, signs, (17, -9, 23)))
    path = tmp_path / f"é à{suffix}"
    write_volume_file(path, volume)
    back = read_volume_file(path)
    assert np.array_equal(back.array, volume.array)
    assert back.geometry.is_same_grid(volume.geometry, 1e-4)
    assert back.geometry.spacing_known
    assert back.geometry.orientation_known


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_written_nifti_is_read_alike_by_nibabel_and_simpleitk(tmp_path: Path, signs) -> None:
    volume = example(grid((1, 0, 2), signs, (40, 70, -60)))
    write_volume_file(tmp_path / "a.nii.gz", volume)
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), volume.array.transpose(2, 1, 0))
    lps = RAS_TO_LPS @ image.affine
    assert lps[:, [2, 1, 0, 3]] == pytest.approx(volume.geometry.affine, abs=1e-4)
    assert image.get_qform() == pytest.approx(image.get_sform(), abs=1e-4)
    other = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert other.TransformIndexToPhysicalPoint((4, 2, 1)) == pytest.approx(
        volume.geometry.index_to_point([1, 2, 4]), abs=1e-3
    )


def test_nifti_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_volume_file(tmp_path / f"{name}.nii.gz", example(grid()))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_tilted_stack_fits_into_nifti_only(tmp_path: Path) -> None:
    volume = example(grid(shear=0.4, turn=(5, 6, 7)))
    write_volume_file(tmp_path / "a.nii.gz", volume)
    back = read_volume_file(tmp_path / "a.nii.gz")
    assert np.array_equal(back.array, volume.array)
    assert back.geometry.is_same_grid(volume.geometry, 1e-4)
    affine = nibabel.load(tmp_path / "a.nii.gz").affine
    assert (RAS_TO_LPS @ affine)[:, [2, 1, 0, 3]] == pytest.approx(volume.geometry.affine, abs=1e-4)
    with pytest.raises(GeometryError, match=r"'a.mha': a tilted stack .* fits into NIfTI only"):
        write_volume_file(tmp_path / "a.mha", volume)


def test_uneven_stack_is_not_written(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])[:, [2, 1, 0, 3]]
    mask = Mask(np.zeros(SHAPE, np.uint8), Geometry(SHAPE, affine, (0, 2, 8)))
    with pytest.raises(
        GeometryError, match=r"the slices lie 2.00 to 6.00 mm apart; a volume file can only hold even"
    ):
        write_mask_file(tmp_path / "a.nii.gz", mask)
    assert list(tmp_path.iterdir()) == []


def test_mask_round_trip(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.uint16)
    array[1, 2, 3] = 300
    write_mask_file(tmp_path / "a.nii.gz", Mask(array, grid()))
    back = read_label_file(tmp_path / "a.nii.gz")
    assert back.array.dtype == np.uint16
    assert np.array_equal(back.array, array)


def test_unknown_orientation_stays_unknown(tmp_path: Path) -> None:
    volume = example(Geometry.from_spacing(SHAPE, (1, 0.5, 0.5), spacing_known=True))
    write_volume_file(tmp_path / "a.nii.gz", volume)
    back = read_volume_file(tmp_path / "a.nii.gz").geometry
    assert not back.orientation_known
    assert back.spacing_zyx_mm == (1, 0.5, 0.5)


def test_nrrd_without_directions(tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header + bytes(range(60)))
    volume = read_volume_file(tmp_path / "a.nrrd")
    assert volume.array.ravel().tolist() == list(range(60))
    assert not volume.geometry.spacing_known
    assert not volume.geometry.orientation_known
    assert volume.spacing_source == ""


def test_nan_and_infinity_are_kept(tmp_path: Path) -> None:
    array = np.zeros((5, 4, 3), np.float32)
    array[0, 0, 0], array[1, 0, 0] = np.nan, -np.inf
    volume = read_volume_file(save_nifti(tmp_path / "a.nii.gz", array))
    assert np.isnan(volume.array[0, 0, 0])
    assert volume.array[0, 0, 1] == -np.inf


def test_labels_as_whole_floats(tmp_path: Path) -> None:
    array = np.zeros((5, 4, 3), np.float64)
    array[0, 1, 2] = 6.0
    mask = read_label_file(save_nifti(tmp_path / "a.nii.gz", array))
    assert mask.array.dtype == np.uint8
    assert mask.array[2, 1, 0] == 6


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            0.5,
            "label 'a.nii.gz': found the value 0.5, expected whole numbers from 0. .*use nearest neighbour",
        ),
        (-1, "label 'a.nii.gz': found the value -1, expected whole numbers from 0"),
        (np.nan, "label 'a.nii.gz': found NaN or infinite values"),
    ],
)
def test_labels_that_are_no_labels(tmp_path: Path, value, words) -> None:
    array = np.zeros((5, 4, 3), np.float32)
    array[0, 0, 0] = value
    with pytest.raises(DataError, match=words):
        read_label_file(save_nifti(tmp_path / "a.nii.gz", array))


def test_four_dimensions_are_refused_one_time_point_is_not(tmp_path: Path) -> None:
    save_nifti(tmp_path / "4d.nii.gz", np.zeros((5, 4, 3, 2), np.int16))
    with pytest.raises(DataError, match=r"'4d.nii.gz': found 4 dimensions \(5 × 4 × 3 × 2\), expected 3"):
        read_volume_file(tmp_path / "4d.nii.gz")
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3, 1)
    volume = read_volume_file(save_nifti(tmp_path / "one.nii.gz", array))
    assert np.array_equal(volume.array, array[..., 0].transpose(2, 1, 0))


def test_colour_volume_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    with pytest.raises(DataError, match=r"found 3 values per voxel"):
        read_volume_file(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_text_under_a_volumes_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is no volume " * 40)
    with pytest.raises(DataError, match=rf"'{name}': .*(Copy|Save|save)"):
        read_volume_file(tmp_path / name)


def test_truncated_nifti(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random((30, 30, 30)))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"'a.nii.gz': "):
        read_volume_file(path)


@pytest.mark.parametrize(
    ("name", "header", "parts"),
    [
        ("a.mhd", "NDims = 3\nElementDataFile = a b.raw\n", ["a b.raw"]),
        ("a.mhd", "NDims = 3\r\nElementDataFile = a.zraw\r\n", ["a.zraw"]),
        ("a.mhd", "ElementDataFile = s%02d.raw 1 5 2\n", ["s01.raw", "s03.raw", "s05.raw"]),
        ("a.mhd", "ElementDataFile = LIST\none.raw\ntwo.raw\n", ["one.raw", "two.raw"]),
        ("a.mhd", "ElementDataFile = LOCAL\n", []),
        ("a.nhdr", "NRRD0004\ntype: short\ndata file: a.raw.gz\n", ["a.raw.gz"]),
        ("a.nhdr", "NRRD0004\ndatafile: s%03d.raw 0 2 1 2\n", ["s000.raw", "s001.raw", "s002.raw"]),
        ("a.nhdr", "NRRD0004\ndata file: 100%s%d.raw 0 2 1\n", ["100%s%d.raw 0 2 1"]),
        ("a.mha", "ElementDataFile = a.raw\n", []),
    ],
)
def test_the_files_of_a_volume(tmp_path: Path, name: str, header: str, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(header.encode() + b"\0\1\2")
    for part in parts:
        (tmp_path / part).write_bytes(b"x")
    # What follows LOCAL and the lists here stands for pixels.
    assert [file.name for file in all_files(tmp_path / name)] == [name, *parts]


def test_missing_file() -> None:
    with pytest.raises(DataError, match=r"not found"):
        read_volume_file(Path("nowhere/a.nii.gz"))


def test_description(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", np.zeros((5, 4, 3), np.int16), np.diag([0.5, 0.5, 2, 1]))
    assert describe_volume_file(path) == "5×4×3, 0.50 × 0.50 × 2.00 mm"


@pytest.mark.real_data
def test_published_volume_of_the_pyradiomics_case() -> None:
    mask = read_label_file(real_data("pyradiomics_nrrd") / "brain1_label.nrrd")
    voxels = int((mask.array == 1).sum())
    assert voxels == 4137
    assert voxels * np.prod(mask.geometry.spacing_zyx_mm) == pytest.approx(16412.658691406243)


@pytest.mark.real_data
def test_real_nifti_as_nibabel() -> None:
    for path in [
        *sorted((real_data("totalsegmentator_ct_mr")).glob("example*.nii.gz")),
        *sorted((real_data("spinal_cord_mri") / "t2").glob("*.nii.gz")),
    ]:
        volume, image = read_volume_file(path), nibabel.load(path)
        assert (RAS_TO_LPS @ image.affine)[:, [2, 1, 0, 3]] == pytest.approx(volume.geometry.affine, abs=1e-4)
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), volume.array)
