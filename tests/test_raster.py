"""Flat pictures: every PNG kind, JPG labels that can and cannot be told apart, arrays that could run code."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg_lib.data.label_map import apply_map
from autoseg_lib.errors import DataError
from autoseg_lib.io.label_codes import code_key
from autoseg_lib.io.raster import (
    page_count,
    read_image,
    read_label,
    read_label_stack,
    write_jpg,
    write_mask_npy,
    write_mask_png,
)

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


def test_colours_become_codes_that_no_roi_has(tmp_path: Path) -> None:
    red, blue, grey = (255, 0, 0), (0, 0, 255), (7, 7, 7)
    picture = np.array([[(0, 0, 0), red], [blue, grey]], np.uint8)
    codes = read_label(save(tmp_path / "a.png", picture)).array
    assert [[code_key(code) for code in row] for row in codes] == [[0, "#FF0000"], ["#0000FF", 7]]
    solid = np.dstack([picture, np.full((2, 2), 255, np.uint8)])
    assert np.array_equal(read_label(save(tmp_path / "b.png", solid)).array, codes)
    solid[0, 0] = (255, 255, 255, 0)
    label = read_label(save(tmp_path / "c.png", solid))
    assert np.array_equal(label.array, codes)
    assert label.warning == "label 'c.png': its transparent pixels are taken as background."


def test_a_drawing_in_the_transparency_is_refused(tmp_path: Path) -> None:
    black = np.zeros((2, 2, 4), np.uint8)
    black[0, 0, 3] = 255
    with pytest.raises(
        DataError, match=r"label 'a.png': found a picture whose drawing lies in its transparency"
    ):
        read_label(save(tmp_path / "a.png", black))


def sub_byte_png(path: Path, depth: int, colour: int, row: bytes, width: int, palette: bytes = b"") -> Path:
    """A PNG of one row, written by hand: Pillow cannot write 2 or 4 bits of grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        chunk(b"PLTE", palette) if palette else b"",
        chunk(b"IDAT", zlib.compress(b"\0" + row)),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("depth", "colour", "row", "expected"),
    [
        (1, 0, bytes([0b01100000]), [0, 1, 1, 0]),
        (2, 0, bytes([0b00011011]), [0, 1, 2, 3]),
        (4, 0, bytes([0x01, 0x2F]), [0, 1, 2, 15]),
        (2, 3, bytes([0b00011011]), [0, 1, 2, 3]),
        (4, 3, bytes([0x01, 0x23]), [0, 1, 2, 3]),
        (16, 0, struct.pack(">4H", 0, 1, 2, 300), [0, 1, 2, 300]),
        (16, 2, struct.pack(">12H", *(v for v in (0, 1, 2, 300) for _ in range(3))), [0, 1, 2, 300]),
        (16, 4, struct.pack(">8H", *(v for x in (0, 1, 2, 300) for v in (x, 65535))), [0, 1, 2, 300]),
        (16, 6, struct.pack(">16H", *(v for x in (0, 1, 2, 300) for v in (x, x, x, 65535))), [0, 1, 2, 300]),
    ],
)
def test_stored_values_of_every_depth(tmp_path: Path, depth: int, colour: int, row: bytes, expected) -> None:
    """2 and 4 bits are stored values, not shades; 16 bits with transparency or colour keep their low bytes."""
    palette = bytes(range(12)) if colour == 3 else b""
    assert read_label(sub_byte_png(tmp_path / "a.png", depth, colour, row, 4, palette)).array.tolist() == [
        expected
    ]


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_one_hot_stacks_become_planes(tmp_path: Path, last: bool, suffix: str) -> None:
    label = np.kron(LABEL, np.ones((4, 4), np.uint8))
    planes = np.stack([label == value for value in range(3)], axis=-1 if last else 0)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, planes)
    elif last:
        tifffile.imwrite(path, planes.astype(np.uint8), photometric="rgb")
    else:
        tifffile.imwrite(path, planes.astype(np.uint8), photometric="minisblack")
    codes = read_label(path).array
    assert [code_key(code) for code in np.unique(codes)] == ["plane 1", "plane 2", "plane 3"]
    assert np.array_equal(apply_map(codes, {"plane 1": 0, "plane 2": 1, "plane 3": 2}), label)


@pytest.mark.parametrize("shape", [(2, 8, 9), (8, 9, 2), (8, 9, 3), (6, 8, 9)])
def test_a_one_hot_stack_with_nothing_drawn_is_an_empty_label(tmp_path: Path, shape) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, bool))
    label = read_label(tmp_path / "a.npy").array
    assert label.shape == (8, 9) and not label.any()
    if shape[0] < 8:
        tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="minisblack")
        assert np.array_equal(read_label(tmp_path / "a.tif").array, label)


def test_planes_that_overlap_are_refused(tmp_path: Path) -> None:
    planes = np.zeros((8, 9, 3), np.uint8)
    planes[2:4, 2:4, 0] = planes[3:5, 3:5, 1] = 1
    np.save(tmp_path / "a.npy", planes)
    with pytest.raises(DataError, match=r"label 'a.npy': found 3 planes of 0 and 1 that overlap on 1 pixels"):
        read_label(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8", "float16", "int64", "uint64"])
def test_npy_in_any_byte_order_and_layout(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(LABEL.astype(dtype)))
    assert np.array_equal(read_label(tmp_path / "a.npy").array, LABEL)


# --- ImageJ and TIFF ----------------------------------------------------------------------------------------------------------


def test_imagej_masks_with_an_inverting_lut_keep_their_stored_values(tmp_path: Path) -> None:
    mask = (LABEL > 0).astype(np.uint8) * 255
    for name, text in (("a.tif", "ImageJ=1.54f\n"), ("b.tif", None)):
        # 262: PhotometricInterpretation, 0 is white.
        info = {262: 0} | ({270: text} if text else {})
        Image.fromarray(255 - mask).save(tmp_path / name, tiffinfo=info)
    stored = tifffile.imread(tmp_path / "a.tif")
    label = read_label(tmp_path / "a.tif")
    assert np.array_equal(label.array, stored)
    assert label.warning is not None
    assert "ImageJ saved it with an inverting LUT" in label.warning
    with pytest.raises(DataError, match=r"label 'b.tif': found a TIFF that calls 0 white"):
        read_label(tmp_path / "b.tif")
    # An image is read as it is shown.
    assert np.array_equal(read_image(tmp_path / "b.tif"), np.asarray(Image.open(tmp_path / "b.tif")))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_imagej_label_images_and_stacks(tmp_path: Path, dtype) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LABEL.astype(dtype), imagej=True)
    assert np.array_equal(read_label(tmp_path / "a.tif").array, LABEL)
    plane = np.kron(LABEL, np.ones((4, 4), np.uint8))
    stack = np.stack([plane, plane * 0, plane[::-1], plane, plane]).astype(dtype)
    tifffile.imwrite(tmp_path / "s.tif", stack, imagej=True)
    assert page_count(tmp_path / "s.tif") == 5
    assert np.array_equal(read_label_stack(tmp_path / "s.tif"), stack)
    with pytest.raises(DataError, match=r"label 's.tif': found 5 pages, expected one for this slice"):
        read_label(tmp_path / "s.tif")


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate", "group4"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    label = np.kron(LABEL, np.ones((8, 8), np.uint8))
    picture = Image.fromarray(label > 0) if compression == "group4" else Image.fromarray(label)
    info = {262: 1} if compression == "group4" else {}
    picture.save(tmp_path / "a.tif", compression=compression, tiffinfo=info)
    expected = (label > 0) if compression == "group4" else label
    assert np.array_equal(read_label(tmp_path / "a.tif").array, expected)


def test_palette_tiff(tmp_path: Path) -> None:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, 1], colours[:, 2] = (65535, 0, 0), (0, 65535, 0)
    tifffile.imwrite(tmp_path / "a.tif", LABEL, photometric="palette", colormap=colours)
    assert np.array_equal(read_label(tmp_path / "a.tif").array, LABEL)
    with pytest.raises(DataError, match="found a colour picture"):
        read_image(tmp_path / "a.tif")
    tifffile.imwrite(
        tmp_path / "g.tif",
        LABEL,
        photometric="palette",
        colormap=np.tile(np.arange(256)[::-1] * 257, (3, 1)).astype(np.uint16),
    )
    assert np.array_equal(read_image(tmp_path / "g.tif"), 255 - LABEL)


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
