"""Flat pictures: every PNG kind, JPG labels that can and cannot be told apart, arrays that could run code."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg_lib.errors import DataError
from autoseg_lib.io.raster import read_image, read_label, write_jpg, write_mask_npy, write_mask_png

LABEL = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options) -> Path:
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


# --- labels -----------------------------------------------------------------------------------------------------------------


def test_one_bit_png(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 255], [255, 0]], np.uint8), "1")
    label = read_label(path)
    assert label.array.tolist() == [[0, 1], [1, 0]]
    assert label.warning is None


def test_indexed_png_gives_the_indices_not_the_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(LABEL, "P")
    picture.putpalette([0, 0, 0, 230, 159, 0, 86, 180, 233])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_label(tmp_path / "a.png").array, LABEL)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, bool])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_whole_numbers_of_any_type(tmp_path: Path, dtype, suffix) -> None:
    array = LABEL.astype(dtype)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif dtype is bool:
        pytest.skip("TIFF holds bits in another way")
    else:
        tifffile.imwrite(path, array)
    label = read_label(path).array
    assert label.dtype == np.uint8
    assert np.array_equal(label, array.astype(np.uint8))


def test_16_bit_png_and_equal_channels(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.array([[0, 300]], np.uint16))
    assert read_label(tmp_path / "a.png").array.tolist() == [[0, 300]]
    save(tmp_path / "b.png", np.stack([LABEL] * 3, axis=-1))
    assert np.array_equal(read_label(tmp_path / "b.png").array, LABEL)
    save(tmp_path / "c.png", np.dstack([LABEL] * 3 + [np.full_like(LABEL, 255)]))
    assert np.array_equal(read_label(tmp_path / "c.png").array, LABEL)


def test_colour_label_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.dstack([LABEL, LABEL * 0, LABEL]))
    with pytest.raises(DataError, match=r"label 'a.png': found colours; expected one grey value per ROI"):
        read_label(tmp_path / "a.png")


def test_interpolated_and_negative_labels_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[0, 0.5]]))
    with pytest.raises(DataError, match=r"label 'a.npy': found the value 0.5"):
        read_label(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([[0, -3]]))
    with pytest.raises(DataError, match=r"label 'b.npy': found the value -3"):
        read_label(tmp_path / "b.npy")


class _Trap:
    opened = False

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (setattr, (_Trap, "opened", True))


def test_pickled_npy_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([_Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(_Trap()))
    for name in ("a.npy", "b.npy"):
        for read in (read_label, read_image):
            with pytest.raises(
                DataError, match=rf"'{name}': found Python objects .* such files can run code"
            ):
                read(tmp_path / name)
    assert not _Trap.opened


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", r"the file is empty"), (b"\x89PNG not really", "cannot be read as a picture")],
)
def test_damaged_png(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"label 'a.png': .*{words}"):
        read_label(tmp_path / "a.png")


def test_truncated_png(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cannot be read as a picture"):
        read_label(path)


def test_three_dimensional_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", LABEL[None, :, :, None])
    assert np.array_equal(read_label(tmp_path / "one.npy").array, LABEL)
    np.save(tmp_path / "many.npy", np.zeros((7, 5, 6), np.uint8))
    with pytest.raises(DataError, match=r"found the shape \(7, 5, 6\), expected \(rows, columns\)"):
        read_label(tmp_path / "many.npy")


# --- JPG labels ----------------------------------------------------------------------------------------------------------------


def blocks(values: list[int]) -> np.ndarray:
    """Squares of 16 pixels, which JPEG keeps exactly or nearly so."""
    return np.kron(np.array([values], np.uint8), np.ones((16, 16), np.uint8))


def test_jpg_of_one_roi(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", blocks([0, 255, 0, 255]), quality=95)
    for count in (None, 1):
        label = read_label(path, count)
        assert np.array_equal(label.array, blocks([0, 1, 0, 1]))
        assert label.warning is not None
        assert "save labels as PNG" in label.warning


def test_jpg_of_several_rois_spread_evenly(tmp_path: Path) -> None:
    codes = [round(255 * k / 6) for k in range(7)]
    path = save(tmp_path / "a.jpg", blocks(codes), quality=100)
    assert np.array_equal(read_label(path, 6).array, blocks(list(range(7))))


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([0, 128, 255], None),  # which ROI is 128? one file cannot say
        ([0, 128, 255], 1),
        ([0, 1, 2], 2),  # stored as they are: JPEG's own error is as large as the difference
        ([0, 1, 1], 1),
        ([0, 128, 255], 60),  # codes too close
        ([0, 100, 255], 2),
    ],
)
def test_jpg_that_cannot_be_told_apart(tmp_path: Path, values, count) -> None:
    path = save(tmp_path / "a.jpg", blocks(values), quality=100)
    with pytest.raises(
        DataError, match=r"label 'a.jpg': the ROIs of this JPG cannot be told apart: found the grey values"
    ):
        read_label(path, count)


def test_jpg_with_blurred_edges_is_refused(tmp_path: Path) -> None:
    row, column = np.mgrid[:64, :64]
    disc = (((row - 30) ** 2 + (column - 33) ** 2 < 400) * 255).astype(np.uint8)
    path = save(tmp_path / "a.jpg", disc, quality=60)
    with pytest.raises(DataError, match=r"cannot be told apart"):
        read_label(path, 1)


def test_empty_jpg_label_is_background(tmp_path: Path) -> None:
    assert not read_label(save(tmp_path / "a.jpg", blocks([0, 0])), 3).array.any()


# --- images and writing -----------------------------------------------------------------------------------------------------------


def test_images(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(read_image(save(tmp_path / "Café n° 1.png", np.dstack([grey] * 3))), grey)
    deep = (grey.astype(np.uint16) * 5000) % 65535
    assert np.array_equal(read_image(save(tmp_path / "b.png", deep)), deep)
    np.save(tmp_path / "c.npy", grey.astype(np.float64) / 7)
    assert np.allclose(read_image(tmp_path / "c.npy"), grey / 7)
    picture = Image.fromarray(grey, "P")
    picture.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    picture.save(tmp_path / "d.png")
    assert np.array_equal(read_image(tmp_path / "d.png"), 255 - grey)


def test_colour_image_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.dstack([LABEL * 9, LABEL, LABEL]))
    with pytest.raises(DataError, match=r"image 'a.png': found a colour picture, expected grey values"):
        read_image(tmp_path / "a.png")


def test_written_masks_come_back(tmp_path: Path) -> None:
    for array in (LABEL, LABEL.astype(np.uint16) * 200):
        write_mask_png(tmp_path / "é.png", array)
        write_mask_npy(tmp_path / "é.npy", array)
        for name in ("é.png", "é.npy"):
            assert np.array_equal(read_label(tmp_path / name).array, array)


def test_write_jpg(tmp_path: Path) -> None:
    write_jpg(tmp_path / "a.jpg", np.zeros((8, 9, 3), np.uint8))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (9, 8)
