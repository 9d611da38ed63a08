"""Unpacking compressed slices in helpers, and the quick look at headers against pydicom's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless, RLELossless

import autoseg_lib.io.dicom_decode as decode
from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_headers import _KEYWORDS, _QUICK, read_headers
from autoseg_lib.io.dicom_series import group_series, read_series
from autoseg_lib.io.files import walk_files
from tests.helpers.dicom import write_series
from tests.helpers.real_data import real_data


def packed_series(folder: Path, syntax: str, count: int = 12) -> np.ndarray:
    array = np.random.default_rng(0).integers(-500, 500, (count, 32, 40)).astype(np.int16)
    for path in write_series(folder, array):
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
    return array


def read(folder: Path) -> np.ndarray:
    (series,) = group_series(read_headers(walk_files(folder)).headers)
    return read_series(series).array


@pytest.fixture
def helpers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes helpers worth their while from the first slice, on two cores."""
    monkeypatch.setattr(decode, "_WORTH_SECONDS", -1.0)
    monkeypatch.setattr(decode, "_THREADS_WORTH_SECONDS", -1.0)
    monkeypatch.setattr(decode, "_cores", lambda: 2)


@pytest.mark.usefixtures("helpers_at_once")
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_helpers_give_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    array = packed_series(tmp_path / "é (1)", syntax)
    assert np.array_equal(read(tmp_path), array)


@pytest.mark.usefixtures("helpers_at_once")
def test_a_damaged_slice_is_named_by_a_helper(tmp_path: Path) -> None:
    packed_series(tmp_path, RLELossless)
    path = tmp_path / "slice_009.dcm"
    data = path.read_bytes()
    place = data.index(b"\xfe\xff\x00\xe0", data.index(b"\xe0\x7f\x10\x00") + 20)
    path.write_bytes(data[: place + 8] + b"\xff" * 200 + data[place + 208 :])
    with pytest.raises(DataError, match=r"'slice_009.dcm': its pixels cannot be decoded"):
        read(tmp_path)


@pytest.mark.usefixtures("helpers_at_once")
def test_a_helper_that_dies_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed_series(tmp_path, RLELossless)
    monkeypatch.setattr(decode.sys, "executable", os.devnull if os.name == "nt" else "/bin/false")
    try:
        read(tmp_path)  # where no process can be started, the slices are unpacked here
    except DataError as error:
        assert "the decoder stopped" in str(error)


def test_frames_of_one_packed_file(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 500, (9, 32, 40)).astype(np.uint16)
    (path,) = write_series(tmp_path, array[:1], NumberOfFrames=9)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = array.tobytes()
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert np.array_equal(read(tmp_path), array)


def plain(value: object) -> object:
    """A value of either reader as numbers and text alone."""
    if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
        return None
    if not isinstance(value, str | pydicom.valuerep.PersonName) and hasattr(value, "__iter__"):
        return [plain(item) for item in value]
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


@pytest.mark.real_data
def test_the_quick_look_sees_what_pydicom_sees() -> None:
    compared = 0
    for name in ("nasty_dicom", "chaos_ct_liver"):
        for path in walk_files(real_data(name)):
            if path.suffix in (".png", ".csv", ".md", ".txt"):
                continue
            with path.open("rb") as stream:
                quick = _QUICK.read(stream)
            if quick is None:
                continue
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            for keyword in _KEYWORDS:
                assert plain(quick.get(keyword)) == plain(dataset.get(keyword)), (path.name, keyword)
            compared += 1
    assert compared > 120
