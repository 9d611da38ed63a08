"""Labels that do not fit their images: planted ones are found and named, clean sets are left alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.data.doctor.agreement import Agreement, compare_labels
from autoseg_lib.data.doctor.examine import examine
from autoseg_lib.data.doctor.finding import Finding
from autoseg_lib.data.doctor.fit import Fitter, Unit, base_planes, fitted
from autoseg_lib.data.doctor.fixing import apply_fixes
from autoseg_lib.data.doctor.local_fit import whole_set_transform
from autoseg_lib.data.doctor.planted import _limit, exchanged, judge_labels, overlap, possible_transforms
from autoseg_lib.data.doctor.report import CheckReport
from autoseg_lib.data.doctor.runs import Run, shifted_runs
from autoseg_lib.data.doctor.transforms import TRANSFORMS, transformed
from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.data.pairing import pair
from autoseg_lib.settings import TrainSettings, make_settings
from tests.helpers.real_data import real_data

FITTING = {
    "labels_turned",
    "label_turned",
    "label_swapped",
    "label_shifted",
    "roi_numbers",
    "sides_swapped",
    "label_unlike",
}
SIDES = ["body", "psoas left", "psoas right", "back left", "back right", "fat"]


def check(folder: Path, **values: object) -> CheckReport:
    settings = make_settings(TrainSettings, {"main_dir": str(folder), **values})
    return examine(pair(settings), settings)


def fitting(report: CheckReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.code in FITTING]


def change(path: Path, label: np.ndarray) -> None:
    assert cv2.imwrite(str(path), np.ascontiguousarray(label))


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_study(tmp_path_factory.mktemp("example") / "study", scans=10, seed=5).folder


@pytest.fixture(scope="module")
def clean(example: Path) -> CheckReport:
    return check(example, labels_list=SIDES)


def test_clean_example_accuses_nobody(clean: CheckReport):
    assert not fitting(clean)
    assert {finding.code for finding in clean.fine} >= {"labels_turned", "label_turned", "label_unlike"}


def test_scans_that_are_wrong_as_a_whole(example: Path, tmp_path: Path):
    folder = tmp_path / "study"
    shutil.copytree(example, folder)
    scans = sorted(path for path in (folder / "train" / "labels").iterdir() if path.is_dir())
    mirrored = sorted(scans[1].glob("*.png"))
    for file in mirrored[:-1]:  # all but one, which is right and must not be accused for being different
        change(file, read(file)[:, ::-1])
    sides = sorted(scans[5].glob("*.png"))
    for file in sides:
        change(file, exchanged(exchanged(read(file), 2, 3), 4, 5))
    by_code = {finding.code: finding for finding in fitting(check(folder, labels_list=SIDES))}
    assert set(by_code) == {"label_turned", "sides_swapped"}
    assert by_code["label_turned"].details["transform"] == "flip left-right"
    assert {sample.case for sample in by_code["label_turned"].samples} == {scans[1].name}
    assert sorted(by_code["label_turned"].files) == [file.name for file in mirrored[:-1]]
    assert by_code["sides_swapped"].details["map"] == {2: 3, 3: 2, 4: 5, 5: 4}
    assert len(by_code["sides_swapped"].samples) == len(sides)


def test_two_scans_whose_labels_have_changed_places(example: Path, tmp_path: Path):
    folder = tmp_path / "study"
    shutil.copytree(example, folder)
    scans = sorted(path for path in (folder / "train" / "labels").iterdir() if path.is_dir())
    first, second = (sorted(scans[k].glob("*.png")) for k in (0, 4))
    assert len(first) == len(second) and read(first[0]).shape == read(second[0]).shape
    for one, other in zip(first, second, strict=True):
        ours, theirs = read(one), read(other)
        change(one, theirs)
        change(other, ours)
    by_code = {finding.code: finding for finding in fitting(check(folder, labels_list=SIDES))}
    assert set(by_code) == {"label_swapped"}
    assert (
        f"the labels of '{scans[0].name}' and '{scans[4].name}' seem to have changed places"
        in by_code["label_swapped"].text
    )
    fix = by_code["label_swapped"].fix
    assert fix is not None and len(fix.actions) == len(first)


def test_planted_faults_are_found_named_and_offered_to_be_fixed(example: Path, tmp_path: Path):
    folder = tmp_path / "study"
    shutil.copytree(example, folder)
    labels = sorted((folder / "train" / "labels").rglob("*.png"))
    turned, renumbered, sides = labels[4], labels[13], labels[22]
    change(turned, read(turned)[::-1])
    change(renumbered, exchanged(read(renumbered), 1, 6))
    change(sides, exchanged(exchanged(read(sides), 2, 3), 4, 5))
    report = check(folder, labels_list=SIDES)
    by_code = {finding.code: finding for finding in fitting(report)}
    assert set(by_code) == {"label_turned", "roi_numbers", "sides_swapped"}
    assert by_code["label_turned"].details["transform"] == "flip up-down"
    assert by_code["roi_numbers"].details["map"] == {1: 6, 6: 1}
    assert by_code["sides_swapped"].details["map"] == {2: 3, 3: 2, 4: 5, 5: 4}
    for code, file in (("label_turned", turned), ("roi_numbers", renumbered), ("sides_swapped", sides)):
        finding = by_code[code]
        assert finding.severity == "warning"
        assert finding.files == (file.name,)
        assert finding.fix is not None and not finding.fix.sure
        assert finding.fix.actions[0].files == (file,)
        assert [sample.case for sample in finding.samples] == [file.parent.name]
    assert "left and right seem to be exchanged" in by_code["sides_swapped"].text
    assert "'body'" in by_code["roi_numbers"].text
    assert by_code["label_turned"].text.endswith("look at the picture before you change anything.")


def test_fixing_what_is_found_gives_back_the_true_labels(example: Path, tmp_path: Path):
    folder = tmp_path / "study"
    shutil.copytree(example, folder)
    labels = sorted((folder / "train" / "labels").rglob("*.png"))
    true = {path: read(path) for path in labels}
    wrong = {
        labels[4]: true[labels[4]][::-1],
        labels[13]: true[labels[13]][:, ::-1],
        labels[30]: true[labels[30]][::-1, ::-1],
        labels[9]: true[labels[53]],
        labels[53]: true[labels[9]],
        labels[22]: exchanged(exchanged(true[labels[22]], 2, 3), 4, 5),
        labels[40]: exchanged(exchanged(true[labels[40]], 2, 3), 4, 5),
    }
    for path, label in wrong.items():
        change(path, label)
    settings = make_settings(TrainSettings, {"main_dir": str(folder), "labels_list": SIDES})
    pairing = pair(settings)
    report = examine(pairing, settings)
    log = apply_fixes(report.findings, settings, pairing, tmp_path / "corrected")
    assert not log.failed
    for path, label in true.items():
        assert np.array_equal(read(log.folder / path.relative_to(folder)), label), path
    for path, label in wrong.items():
        assert np.array_equal(read(path), label)
    place = {(log.folder / path.relative_to(folder)).relative_to(log.folder).as_posix() for path in wrong}
    assert {change.file for change in log.changes} == place
    assert not any(change.sure for change in log.changes)


def test_sides_exchanged_in_three_of_ten_labels_are_found(clean: CheckReport):
    samples = units(clean, None)
    wrong = set(np.random.default_rng(1).permutation(len(samples))[: 3 * len(samples) // 10].tolist())
    for index in wrong:
        label = exchanged(exchanged(samples[index].label, 2, 3), 4, 5)
        samples[index] = Unit(samples[index].image, label, samples[index].group)
    fitter = Fitter(samples, 6)
    weights = np.ones(len(samples), np.float32)
    for number in range(2):
        verdicts = judge_labels(fitter, fitter.fit(weights), weights, seed=number)
        weights = verdicts.weights
    assert set(np.flatnonzero(verdicts.scores > verdicts.limit).tolist()) == wrong


class Knows:
    """Stands for what is learnt: the label of slice i shows a square of i pixels; ``wrong`` is how far off one is."""

    def __init__(self, place: int) -> None:
        self.place = place

    def likelihood(self, label: np.ndarray) -> float:
        return -self.wrong(label)

    def measures(self, label: np.ndarray) -> np.ndarray:
        return np.array([self.wrong(label)], np.float32)

    def wrong(self, label: np.ndarray) -> float:
        return abs(float(label.sum()) - self.place)


def runs_of(sizes: list[int]) -> list[Run]:
    labels = [(np.arange(40)[None, None] < size).astype(np.uint8) for size in sizes]
    judges = [Knows(place) for place in range(len(sizes))]
    score = SimpleNamespace(score=lambda index, measures: 3 * float(measures[0]) - 3)
    verdicts = SimpleNamespace(
        judges=judges,
        model=score,
        scores=np.array([3 * judge.wrong(label) - 3 for judge, label in zip(judges, labels, strict=True)]),
    )
    return shifted_runs(SimpleNamespace(labels=labels), verdicts, [list(range(len(sizes)))])  # type: ignore[arg-type]


def test_a_run_of_labels_out_of_step_is_found_with_its_step():
    assert runs_of(list(range(20))) == []
    # Slices 6 to 12 have the label of two slices before: drawn on slice 4, it lies at 6 and fits two back.
    (run,) = runs_of([*range(6), *range(4, 11), *range(13, 20)])
    assert run.slices == -2
    assert set(run.members) <= set(range(6, 13))
    assert len(run.members) >= 5
    assert run.scan == tuple(range(20))


def test_single_wrong_labels_are_no_run():
    sizes = list(range(20))
    sizes[4], sizes[11], sizes[16] = 30, 0, 2
    assert runs_of(sizes) == []


def test_few_wrong_labels_ask_for_more_certainty():
    random = np.random.default_rng(0)
    right, wrong = random.normal(-5, 1, 100), random.normal(6, 2, 40)
    few = _limit(np.concatenate([right, wrong[:1]]), wrong)
    many = _limit(np.concatenate([right, wrong]), wrong)
    assert 1.5 <= many < few <= 4.5
    # 40 of 140: log((1 - 0.29) / 0.29) + 0.75
    assert many == pytest.approx(1.67, abs=0.15)
    assert _limit(right, wrong[:0]) == float("inf")


def test_with_few_samples_nothing_is_said(clean: CheckReport):
    assert compare_labels(clean.facts[:1]) == Agreement()


def units(report: CheckReport, way: str | None) -> list[Unit]:
    found = []
    for case in report.facts:
        for item in case.slices:
            label = item.small_label[None].astype(np.uint8)
            found.append(Unit(item.small_image[None], transformed(label, way) if way else label, case.name))
    return found


def test_a_whole_set_turned_the_same_way_is_seen(clean: CheckReport):
    assert whole_set_transform(Fitter(units(clean, None), 6)) is None
    for way in ("flip left-right", "flip up-down", "rotate 180"):
        found = whole_set_transform(Fitter(units(clean, way), 6))
        assert found is not None
        assert found.transform == way  # each undoes itself


def test_overlap_is_the_mean_dice_of_the_rois():
    first = np.array([[1, 1, 0, 2]], np.uint8)
    second = np.array([[1, 0, 0, 2]], np.uint8)
    # ROI 1: 2 * 1 / (2 + 1); ROI 2: 1.
    assert overlap(first, second) == pytest.approx((2 / 3 + 1) / 2)
    assert overlap(first * 0, second * 0) == 1
    assert overlap(first, second * 0) == 0
    assert exchanged(first, 1, 2).tolist() == [[2, 2, 0, 1]]


def test_only_square_labels_can_be_transposed():
    assert set(possible_transforms(np.zeros((1, 5, 5), np.uint8))) == set(TRANSFORMS)
    assert set(possible_transforms(np.zeros((1, 5, 6), np.uint8))) == {
        "flip left-right",
        "flip up-down",
        "rotate 180",
    }


def test_labels_of_another_size_keep_their_values():
    label = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    assert fitted(label, (1, 4, 2))[0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert base_planes(np.zeros((20, 30), np.uint8)).shape[1:] == (20, 30)


@pytest.mark.real_data
def test_liver_turned_and_exchanged_labels(tmp_path: Path):
    source = real_data("chaos_ct_liver")
    for kind, suffix in (("images", "dcm"), ("labels", "png")):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for number in range(20, 68):
            name = f"chaos_ct3_{number:03d}.{suffix}"
            shutil.copy(source / kind / name, tmp_path / "train" / kind / name)
    labels = tmp_path / "train" / "labels"
    turned = labels / "chaos_ct3_031.png"
    change(turned, (read(turned) > 0).T.astype(np.uint8))
    first, second = labels / "chaos_ct3_026.png", labels / "chaos_ct3_062.png"
    a, b = ((read(path) > 0).astype(np.uint8) for path in (first, second))
    change(first, b)
    change(second, a)
    by_code = {finding.code: finding for finding in fitting(check(tmp_path))}
    assert by_code["label_turned"].files == (turned.name,)
    assert by_code["label_turned"].details["transform"] == "transpose"
    accused = {name for finding in by_code.values() for name in finding.files}
    assert {first.name, second.name} <= accused
    assert len(accused) <= 4


@pytest.mark.real_data
def test_hippocampus_volume_with_heads_and_tails_exchanged(tmp_path: Path):
    source = real_data("hippocampus_msd")
    names = [path.name for path in sorted((source / "labels").iterdir())[:24]]
    for kind in ("images", "labels"):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(source / kind / name, tmp_path / "train" / kind / name)
    target = tmp_path / "train" / "labels" / names[7]
    old = sitk.ReadImage(str(target))
    new = sitk.GetImageFromArray(exchanged(sitk.GetArrayFromImage(old).astype(np.uint8), 1, 2))
    new.CopyInformation(old)
    sitk.WriteImage(new, str(target))
    findings = fitting(check(tmp_path))
    numbered = [finding for finding in findings if finding.code == "roi_numbers"]
    assert [finding.files for finding in numbered] == [(names[7],)]
    assert numbered[0].details["map"] == {1: 2, 2: 1}
    # With so few volumes one odd drawing may look wrong too.
    assert sum(len(finding.files) for finding in findings) <= 3
