"""Each row of docs/reading.md on values, grids and partners of labels: what is done, and what is said."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from autoseg_lib.data.label_map import codes_message
from autoseg_lib.data.pairing import pair
from autoseg_lib.data.training_case import load_training_case
from autoseg_lib.errors import AutosegError
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.volume_files import write_mask_file, write_volume_file
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.volume import Mask, Volume, reorient
from tests.helpers.dicom import write_series, write_slice
from tests.helpers.named_labels import write_rtstruct, write_slicer
from tests.helpers.segments import follows

# Two ROIs on one slice of 10 × 12 pixels, and on the second of three slices.
FLAT = np.zeros((10, 12), np.uint8)
FLAT[2:5, 3:7], FLAT[6:9, 5:11] = 1, 2
DEEP = np.stack([FLAT * 0, FLAT, FLAT * 0])
GRID = Geometry((3, 10, 12), np.array([[0, 0, 1, 5], [0, 1, 0, -7], [2, 0, 0, 3], [0, 0, 0, 1]], float))


def outcome(main: Path, **values: Any) -> tuple[str, list[str], list[np.ndarray]]:
    """Returns what was done, what was said, and the labels."""
    settings = make_settings(TrainSettings, {"main_dir": str(main), **values})
    found = pair(settings)
    texts, masks, failed = [issue.text for issue in found.issues], [], found.has_errors
    for case in found.cases:
        try:
            scan, mask, notes = load_training_case(case, settings)
        except AutosegError as error:
            texts.append(str(error))
            failed = True
            continue
        texts += [note for note in notes if note not in scan.warnings]
        masks.append(mask.array)
    counts = {
        int(v): int(n) for mask in masks for v, n in zip(*np.unique(mask, return_counts=True), strict=True)
    }
    share = {value: count / sum(counts.values()) for value, count in counts.items()}
    codes = codes_message(counts, share)
    refused = failed or bool(codes)
    return (
        ("refused" if refused else "read, said" if texts else "read"),
        [*texts, codes] if codes else texts,
        masks,
    )


def flat(main: Path) -> Path:
    """An image of one slice; returns where its label goes, without suffix."""
    write_slice(main / "train/images/x.dcm", np.zeros((10, 12), np.int16))
    (main / "train/labels").mkdir()
    return main / "train/labels/x"


def picture(main: Path, array: np.ndarray, suffix: str = ".png", **options: Any) -> None:
    path = flat(main).with_suffix(suffix)
    if suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)


def volume(main: Path, mask: Mask, name: str = "S.nii.gz") -> None:
    (main / "train/images").mkdir(parents=True)
    (main / "train/labels").mkdir()
    write_volume_file(main / "train/images/S.nii.gz", Volume(np.zeros((3, 10, 12), np.int16), GRID))
    write_mask_file(main / "train/labels" / name, mask)


def series(main: Path, name: str = "S", **options: Any) -> list[Path]:
    array = np.zeros((3, 10, 12), np.int16)
    return write_series(main / "train/images" / name, array, step=(0, 0, 2), series=name, **options)


def stack(main: Path, array: np.ndarray) -> None:
    (main / "train/labels").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(main / "train/labels/S.tif", array, imagej=True)


def rtstruct(main: Path, name: str, files: list[Path], roi: str = "GTV") -> None:
    write_rtstruct(main / "train/labels" / name, files, {roi: (2, 3, 5, 7, (1,))})


def placed(shape: tuple[int, int, int], origin: tuple[float, float, float]) -> Geometry:
    affine = GRID.affine.copy()
    affine[:3, 3] = origin
    return Geometry(shape, affine)


MAKERS: dict[str, Callable[[Path], Any]] = {}
SETTINGS: dict[str, dict[str, Any]] = {}


def row(name: str, **settings: Any) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def register(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
        MAKERS[name], SETTINGS[name] = make, settings
        return make

    return register


PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
ALPHA = np.where(FLAT > 0, 255, 0).astype(np.uint8)

row("label-values")(lambda main: picture(main, np.asfortranarray(FLAT.astype(">f8")), ".npy"))
row("label-grey-rgb")(lambda main: picture(main, np.dstack([FLAT] * 3 + [np.full_like(FLAT, 255)])))
row("label-transparent")(lambda main: picture(main, np.dstack([FLAT] * 3 + [ALPHA])))
row("label-in-transparency")(lambda main: picture(main, np.dstack([FLAT * 0] * 3 + [ALPHA])))
row("label-codes")(lambda main: picture(main, FLAT * 63))
row("label-mapped", label_map={63: 1, 126: 2})(lambda main: picture(main, FLAT * 63))
row("label-inverted")(lambda main: picture(main, (FLAT == 0).astype(np.uint8) * 255))
row("label-gap")(lambda main: picture(main, np.array([0, 1, 3], np.uint8)[FLAT]))
row("label-colours")(lambda main: picture(main, PALETTE[FLAT]))
row("label-one-hot")(lambda main: picture(main, np.stack([v == FLAT for v in range(3)], axis=-1), ".npy"))
row("label-planes-overlap")(
    lambda main: picture(main, np.dstack([FLAT > 0, FLAT == 1, FLAT * 0]).astype(np.uint8))
)
row("label-soft-edges")(lambda main: picture(main, np.arange(120, dtype=np.uint16).reshape(10, 12) * 7 + 3))
row("label-fractions")(lambda main: picture(main, FLAT * 0.5, ".npy"))
row("label-negative")(lambda main: picture(main, FLAT.astype(np.int8) - 1, ".npy"))
row("label-nan")(lambda main: picture(main, np.where(FLAT > 0, np.nan, 0), ".npy"))
row("label-jpg", num_labels=1)(lambda main: picture(main, FLAT * 0 + 255, ".jpg", quality=100))
row("label-jpg-unclear", num_labels=1)(lambda main: picture(main, FLAT * 0 + 130, ".jpg", quality=100))
row("label-white-is-0")(lambda main: picture(main, FLAT, ".tif", tiffinfo={262: 0}))
row("label-imagej")(lambda main: picture(main, 255 - FLAT, ".tif", tiffinfo={262: 0, 270: "ImageJ=1.54f\n"}))
row("label-size")(lambda main: picture(main, FLAT[1:]))
row("label-volume")(lambda main: volume(main, reorient(Mask(DEEP, GRID), "RIP")))
row("label-shifted")(lambda main: volume(main, Mask(DEEP, placed((3, 10, 12), (8, -7, 3)))))
row("label-outside")(lambda main: volume(main, Mask(DEEP[:, :, 3:], placed((3, 10, 9), (13, -7, 3)))))
row("label-elsewhere")(lambda main: volume(main, Mask(DEEP[:, 1:], placed((3, 9, 12), (500, -7, 3)))))
row("label-other-grid")(lambda main: volume(main, Mask(DEEP[:, 1:], placed((3, 9, 12), (5, -6, 3)))))
row("label-no-place")(lambda main: volume(main, Mask(DEEP[:, 1:], Geometry.from_spacing((3, 9, 12)))))


@row("label-as-stored")
def _(main: Path) -> None:
    volume(main, Mask(DEEP, GRID))
    unplaced = Geometry.from_spacing(
        (3, 10, 12), GRID.spacing_zyx_mm, spacing_known=True, positions_known=True
    )
    write_volume_file(main / "train/images/S.nii.gz", Volume(np.zeros((3, 10, 12), np.int16), unplaced))


@row("label-image-unplaced")
def _(main: Path) -> None:
    volume(main, Mask(DEEP, GRID))
    (main / "train/images/S.nii.gz").unlink()
    series(main, orientation=None)


@row("label-palette")
def _(main: Path) -> None:
    image = Image.fromarray(FLAT, "P")
    image.putpalette(PALETTE.ravel().tolist())
    image.save(flat(main).with_suffix(".png"))


@row("label-pickled")
def _(main: Path) -> None:
    flat(main).with_suffix(".npy").write_bytes(pickle.dumps([1, 2]))


@row("label-pages")
def _(main: Path) -> None:
    tifffile.imwrite(flat(main).with_suffix(".tif"), DEEP * 2, imagej=True)


@row("label-lost-header")
def _(main: Path) -> None:
    volume(main, Mask(DEEP, GRID))
    nibabel.save(nibabel.Nifti1Image(DEEP[:, 1:].T, np.eye(4)), main / "train/labels/S.nii.gz")


@row("label-uneven")
def _(main: Path) -> None:
    for height in (0, 2, 7):
        write_slice(
            main / f"train/images/S/{height}.dcm", np.zeros((10, 12), np.int16), position=(0, 0, height)
        )
    (main / "train/labels").mkdir()
    write_mask_file(main / "train/labels/S.nii.gz", Mask(DEEP, GRID))


@row("label-stack")
def _(main: Path) -> None:
    series(main)
    stack(main, DEEP)


@row("label-stack-size")
def _(main: Path) -> None:
    series(main)
    stack(main, DEEP[:2])


@row("label-stack-order")
def _(main: Path) -> None:
    for index, path in enumerate(series(main)):
        path.rename(path.with_name(f"z{9 - index}.dcm"))
    stack(main, DEEP)


@row("label-by-name")
def _(main: Path) -> None:
    series(main)
    grid = Geometry.from_spacing(
        (3, 10, 12), (2, 1, 1), spacing_known=True, positions_known=True, orientation_known=True
    )
    write_slicer(main / "train/labels/S.seg.nrrd", {"a": DEEP == 1, "b": DEEP == 2}, grid)


@row("label-by-series")
def _(main: Path) -> None:
    rtstruct(main, "plan.dcm", series(main))


@row("label-several")
def _(main: Path) -> None:
    files = series(main)
    for name in ("one.dcm", "two.dcm"):
        rtstruct(main, name, files)


@row("label-orphan")
def _(main: Path) -> None:
    rtstruct(main, "S.dcm", series(main))
    rtstruct(main, "left over.dcm", series(main / "elsewhere", "Z"))


@row("label-no-such-roi", labels_list=["heart"])
def _(main: Path) -> None:
    rtstruct(main, "S.dcm", series(main))


@row("label-lacks-roi", labels_list=["GTV", "heart"])
def _(main: Path) -> None:
    rtstruct(main, "S.dcm", series(main))


@row("label-mixed")
def _(main: Path) -> None:
    rtstruct(main, "S.dcm", series(main))
    series(main, "T")
    stack(main, DEEP)
    (main / "train/labels/S.tif").rename(main / "train/labels/T.tif")


@pytest.mark.parametrize("name", MAKERS)
def test_row(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    done, texts, masks = outcome(tmp_path, **SETTINGS[name])
    follows(name, done, texts)
    assert not any("!" in text or "Traceback" in text for text in texts)
    if done == "read":
        expected = DEEP if masks[0].shape[0] == 3 else FLAT[None]
        # A volume may be shown another way round than it is stored.
        assert sorted(masks[0].ravel()) == sorted(expected.ravel())
        assert masks[0].shape[0] != 1 or np.array_equal(masks[0], expected)
