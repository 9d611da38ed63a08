"""The example study: exact areas, sides, grids, and the same bytes each time."""

import csv
import hashlib
from collections import defaultdict

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.data.example_study import ROI_NAMES, write_example_study
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.labels import LabelTable


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_example_study(tmp_path_factory.mktemp("é study") / "example", scans=7)


def read_scan(study, part, name):
    """Image, labels (slices along the normal) as SimpleITK sorts the DICOM files by position."""
    reader = sitk.ImageSeriesReader()
    files = reader.GetGDCMSeriesFileNames(str(study.folder / part / "images" / name))
    reader.SetFileNames(files)
    labels = [
        cv2.imdecode(
            np.frombuffer((study.folder / part / "labels" / name / f"{stem}.png").read_bytes(), np.uint8), -1
        )
        for stem in (file.replace("\\", "/").rsplit("/", 1)[1].removesuffix(".dcm") for file in files)
    ]
    return reader.Execute(), np.stack(labels)


def read_truth(study):
    areas = defaultdict(dict)
    with study.truth.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            areas[row["case"], row["roi"]][int(row["slice_number"])] = float(row["area_mm2"])
    return areas


def all_scans(study):
    return [("train", name) for name in study.train_scans] + [("test", name) for name in study.test_scans]


def test_raster_areas_match_the_formulas(study):
    truth = read_truth(study)
    signed = defaultdict(list)
    for part, name in all_scans(study):
        image, labels = read_scan(study, part, name)
        pixel_mm2 = image.GetSpacing()[0] * image.GetSpacing()[1]
        for value, roi in enumerate(ROI_NAMES, start=1):
            exact = truth[name, roi]
            assert sorted(exact) == list(range(1, labels.shape[0] + 1))
            for index, area in exact.items():
                counted = (labels[index - 1] == value).sum() * pixel_mm2
                signed[roi].append(counted / area - 1)
    for roi, errors in signed.items():
        # One slice may be off by its edge pixels (far below a ring of half pixels);
        # over all slices the signs cancel, so the mean shows any true mistake in a formula.
        assert max(np.abs(errors)) < 0.035, roi
        assert abs(np.mean(errors)) < 0.004, roi


def test_left_is_on_the_patients_left(study):
    for part, name in all_scans(study):
        image, labels = read_scan(study, part, name)
        for left, right in LabelTable(ROI_NAMES).mirror_pairs:
            assert ROI_NAMES[left - 1].endswith("left")
            x_of = {}
            for value in (left, right):
                z, y, x = (float(np.mean(axis)) for axis in np.nonzero(labels == value))
                x_of[value] = image.TransformContinuousIndexToPhysicalPoint((x, y, z))[0]
            assert x_of[left] > x_of[right] + 30, name  # LPS: x grows to the patient's left


def test_test_scans_hold_an_oblique_and_a_non_square_one(study):
    images = [read_scan(study, "test", name)[0] for name in study.test_scans]
    assert any(abs(image.GetDirection()[8]) < 0.99 for image in images)
    assert any(image.GetSpacing()[0] != pytest.approx(image.GetSpacing()[1]) for image in images)


def test_muscle_is_darker_than_fat_in_every_scan(study):
    for part, name in all_scans(study):
        image, labels = read_scan(study, part, name)
        pixels = sitk.GetArrayFromImage(image)
        assert pixels[labels == 2].mean() < 0.6 * pixels[labels == 6].mean()


def test_same_seed_same_bytes_other_seed_others(tmp_path):
    def digest(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            (path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
            for path in files
        ]

    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_example_study(tmp_path / name, scans=2, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_an_existing_study_is_kept_and_an_interrupted_one_finished(tmp_path):
    events = []
    write_example_study(tmp_path / "s", scans=2)
    write_example_study(tmp_path / "s", scans=2, on_event=events.append)
    assert events == []
    marker = tmp_path / "s" / "example_study.json"
    marker.write_text(marker.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    write_example_study(tmp_path / "s", scans=2, on_event=events.append)
    assert [event.done for event in events] == [0, 1, 2]


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="holds other files; nothing was written"):
        write_example_study(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="is a file"):
        write_example_study(tmp_path / "mine.txt")
    write_example_study(tmp_path / "s", scans=2)
    with pytest.raises(DataError, match="holds another example study"):
        write_example_study(tmp_path / "s", scans=3)
    with pytest.raises(SettingsError, match="2 scans or more"):
        write_example_study(tmp_path / "t", scans=1)
