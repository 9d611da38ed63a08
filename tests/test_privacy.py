"""What a DICOM file says of a person reaches no output: no file, no picture, no message, no log."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg_lib import cli
from tests.helpers import planted
from tests.helpers.dicom import write_series
from tests.helpers.named_labels import write_rtstruct
from tests.helpers.studies import two_disc_slice

SCANS, SLICES, SIZE = 3, 4, 64


class Study:
    """A study whose every header is full of the marker, and what was said about it so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main, self.out = folder / "study", folder / "out"
        self.out.mkdir()
        self.uids: set[str] = set()
        rng = np.random.default_rng(0)
        for scan in range(1, SCANS + 1):
            images, labels = zip(*(two_disc_slice(SIZE, rng) for _ in range(SLICES)), strict=True)
            self._scan(self.main / "train", f"scan_{scan}", scan, np.stack(images), np.stack(labels))
        self._scan(self.main / "test", "scan_9", 9, np.stack(images), np.stack(labels))

    def _scan(self, folder: Path, name: str, number: int, images: np.ndarray, labels: np.ndarray) -> None:
        paths = write_series(
            folder / "images" / name, images.astype(np.int16), step=(0, 0, 5), spacing=(1.5, 1.5), series=name
        )
        if number == 2:  # one scan with contours, which have names and dates of their own
            rois = {"bright": (10, 10, 30, 30, range(SLICES)), "dark": (36, 36, 52, 52, range(SLICES))}
            target = folder / "labels" / f"{name}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            self.uids |= planted.plant(write_rtstruct(target, paths, rois), number)
        else:
            for path, label in zip(paths, labels, strict=True):
                target = folder / "labels" / name / f"{path.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(label).save(target)
        for path in paths:
            self.uids |= planted.plant(path, number)

    @property
    def secrets(self) -> tuple[str, ...]:
        """UIDs of the originals, and the bare hash of a patient's number, which anyone can undo by trying numbers."""
        hashes = [
            hashlib.sha256(f"{planted.TEXT}{n}".encode()).hexdigest()[:12] for n in (*range(1, SCANS + 1), 9)
        ]
        return (*sorted(self.uids), *hashes)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    yield Study(tmp_path_factory.mktemp("privacy"))


def run(capfd: pytest.CaptureFixture[str], study: Study, *arguments: object) -> int:
    """Runs a command and searches what it says."""
    code = cli.main([str(argument) for argument in arguments])
    said = "\n".join(capfd.readouterr())
    assert said.strip()
    assert planted.traces_in("screen", said.encode(), study.secrets) == []
    return code


def test_the_marker_is_really_everywhere(study: Study) -> None:
    """The search finds what it should, so that finding nothing means something."""
    path = next((study.main / "train" / "images" / "scan_1").iterdir())
    found = planted.traces_in("slice", path.read_bytes(), study.secrets)
    assert {f"slice: {planted.TEXT}", f"slice: {planted.DATE}"} <= set(found)
    assert planted.traces_in("text", f"age {planted.AGE}".encode()) == [f"text: {planted.AGE}"]
    assert any(uid in text for uid in study.uids for text in found)
    assert planted.traces_in(f"{planted.TEXT}.png", b"") != []


def test_check(capfd: pytest.CaptureFixture[str], study: Study) -> None:
    report = study.out / "check_report.html"
    for options in ((), ("--json",), ("--report", report)):
        assert run(capfd, study, "check", study.main, *options) in (0, 1)
    run(capfd, study, "check", study.main / "test" / "images")
    run(capfd, study, "check", study.main / "test" / "images", "--json")
    assert report.stat().st_size > 1000
    assert planted.traces_below(study.out, study.secrets) == []


def test_corrected_copy(capfd: pytest.CaptureFixture[str], study: Study) -> None:
    """The copy holds the scans as they are; the log beside them says nothing of the person."""
    broken = study.folder / "broken"
    shutil.copytree(study.main, broken)
    labels = broken / "train" / "labels" / "scan_1"
    first = sorted(labels.iterdir())[0]
    first.rename(
        first.with_name(first.name.upper().replace("SLICE", "Slice"))
    )  # an orphan that can be renamed
    run(capfd, study, "check", broken, "--fix", study.folder / "fixed")
    logs = [path for path in (study.folder / "fixed").rglob("*") if path.suffix.lower() != ".dcm"]
    assert logs
    assert planted.traces_below(study.folder / "fixed", study.secrets, leave_out=(".dcm",)) == []


def test_damaged_files_are_named_without_the_person(capfd: pytest.CaptureFixture[str], study: Study) -> None:
    damaged = study.folder / "damaged"
    shutil.copytree(study.main, damaged)
    for number, path in enumerate(sorted((damaged / "train" / "images" / "scan_1").iterdir())):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // (number + 2)])
    label = damaged / "train" / "labels" / "scan_2.dcm"
    label.write_bytes(label.read_bytes()[:-500])
    assert run(capfd, study, "check", damaged) == 1
    run(capfd, study, "check", damaged / "train" / "images")
    run(capfd, study, "check", damaged, "--json")


def test_training_segmenting_measuring(
    capfd: pytest.CaptureFixture[str], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.out)
    values = {
        "main_dir": study.main, "model_filename": "m", "dimension": "2D", "input_shape": 64, "epochs": 1, "batch_size": 2,
        "labels_list": "[bright, dark]", "num_workers": 0, "model_dir": study.out / "models", "augment_params": "false",
    }  # fmt: skip
    settings = [text for name, value in values.items() for text in ("--set", f"{name}={value}")]
    assert run(capfd, study, "train", *settings) == 0
    [model] = (study.out / "models").glob("m_best.safetensors")
    test = study.main / "test"
    predictions = study.out / "predictions"
    formats = ("--formats", "png,npy,jpg,nifti", "--json")
    assert (
        run(capfd, study, "segment", test / "images", "--model", model, "--output", predictions, *formats)
        == 0
    )
    measured = study.out / "measured"
    assert (
        run(capfd, study, "measure", test / "labels", "--images", test / "images", "--output", measured) == 0
    )
    scores = study.out / "scores.csv"
    assert (
        run(
            capfd,
            study,
            "evaluate",
            "--reference",
            test / "labels",
            "--prediction",
            predictions,
            "--output",
            scores,
        )
        == 0
    )
    assert scores.is_file()
    kinds = {path.suffix for path in study.out.rglob("*") if path.is_file()}
    assert {
        ".safetensors",
        ".ckpt",
        ".png",
        ".npy",
        ".jpg",
        ".gz",
        ".json",
        ".csv",
        ".html",
        ".yaml",
    } <= kinds
    # The run's record of settings holds the folder the user typed; nothing else of the study's surroundings.
    assert planted.traces_below(study.out, study.secrets) == []
    report = json.loads((predictions / "run_report.json").read_text(encoding="utf-8"))
    assert report["cases"]
