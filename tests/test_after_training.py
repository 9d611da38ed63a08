"""What a training leaves to read: scores, verdict, reasons, Methods paragraph, report, and its history without training."""

import dataclasses
import json
import re
import shutil
from html import unescape

import numpy as np
import pytest

from autoseg_lib.cli import main
from autoseg_lib.errors import ModelError
from autoseg_lib.events import EpochDone
from autoseg_lib.geometry import Geometry
from autoseg_lib.train.validate import CaseScore, Scores
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.widgets.scan_scores import most_wrong
from autoseg_lib.widgets.views import history_html, next_steps_html, performance_html
from autoseg_lib.workflow.final_scores import ShownScan, extremes, mean_with_interval
from autoseg_lib.workflow.methods_text import methods_paragraph
from autoseg_lib.workflow.progress_line import progress_line
from autoseg_lib.workflow.run_history import find_history
from tests.helpers.studies import write_volume_study
from tests.test_training import prepare, run


def plain(html):
    return unescape(re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", str(html), flags=re.S)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_volume_study(tmp_path_factory.mktemp("Étude") / "balls", scans=4)


VALUES = {
    "labels_list": ["left ball", "right ball"],
    "dimension": "2D",
    "network": "unet",
    "input_shape": 32,
    "patient_pattern": None,
    "spacing_mm": None,
    "epochs": 2,
    "batch_size": 16,
}


@pytest.fixture(scope="module")
def trained(study):
    """A run of two epochs, with logs for TensorBoard."""
    pytest.importorskip("tensorboard")
    return run(study, tensorboard=True, **VALUES)[0]


def test_the_table_has_all_scores_of_each_roi(trained):
    table = trained.table()
    assert [line[0] for line in table] == ["left ball", "right ball", "mean"]
    for number, (_, dice, _, hd95, error) in enumerate(table[:2]):
        assert float(dice) == pytest.approx(trained.scores.per_roi[number], abs=0.0006)
        expected = trained.scores.hd95_per_roi[number]
        assert hd95 == ("" if expected is None else f"{expected:.1f}")
        assert float(error) == pytest.approx(trained.scores.area_error_per_roi[number], abs=0.06)
    text = plain(performance_html(trained))
    assert "HD95, mm" in text
    assert "What keeps the score from being higher" in text
    assert "It learned from 3 scans of 3 patients" in text
    assert "Looked at and found in order" in text


def test_the_report_keeps_its_keys_and_tells_the_new_ones(trained, study):
    report = json.loads((study / "models" / "tiny_report.json").read_text(encoding="utf-8"))
    assert set(report) >= {
        "name", "created", "reason", "epochs_done", "epochs", "seconds", "device", "precision", "settings", "choices",
        "data", "split", "validation", "validation_cases", "findings", "verdict", "methods", "versions",
    }  # fmt: skip
    assert set(report["validation"]) >= {
        "split",
        "scans",
        "mean_dice",
        "dice",
        "dice_sd",
        "area_error_percent",
        "hd95_mm",
    }
    assert report["validation"]["dice_interval_95"]["mean"] == [
        None,
        None,
    ]  # one patient kept back tells nothing
    few = next(reason for reason in report["reasons"] if reason["code"] == "few_scans")
    assert few["applies"]
    assert report["methods"] == trained.methods


def test_the_methods_paragraph_has_the_numbers_a_paper_needs(trained):
    text = trained.methods
    for part in (
        r"2D unet \(resnet18\) with \d+\.\d\d million weights",
        r"AutoSeg Workbench \d+\.\d+\.\d+ \(torch [\d.+a-z]+, segmentation-models-pytorch [\d.]+\)",
        r"2 regions of interest \(left ball, right ball\)",
        r"1\.00 mm",
        r"32 × 32 pixels; grey values: clipped",
        r"rotation up to 15°, scaling up to 15%",
        r"The data were 4 scans of 4 patients \(\d+ labelled slices",
        r"1 scan of 1 patient was kept back for validation, and 3 scans of 3 patients were learned from\.",
        r"The network was trained for 2 epochs of \d+ steps of 16 slices with \S+",
        r"learning rate 0\.\d+, weight decay 0\.0001, 3% linear warm-up and cosine decay",
        r"Dice loss with squared denominators and cross-entropy, 32-bit precision, dropout \S+ and seed 0",
        r"exponential moving average",
        r"On the 1 scan of 1 patient kept back, Dice was 0\.\d\d\d: left ball 0\.\d\d\d; right ball",
        r"Training took \d\.\d minutes on \d+ CPU cores?\.",
    ):
        assert re.search(part, text), (part, text)
    assert text.count("Training took") == 1
    assert "planned" not in text
    assert "étude" not in text.lower()
    assert "scan_" not in text


def test_no_score_no_augmentation_and_patches_are_told_too(study):
    changes = {**VALUES, "dimension": "3D", "input_shape": None, "batch_size": None, "validation_fraction": 0}
    prepared = prepare(study, augment_params=False, model_filename="other", **changes)
    text = methods_paragraph(
        prepared.plan,
        prepared.study,
        None,
        None,
        weights=1_234_567,
        epochs_done=1,
        seconds=7200,
        epochs=9,
        reason="stopped",
    )
    assert "with 1.23 million weights" in text
    assert re.search(r"resampled to 1 × 1 × 1 mm voxels .* patches of \d+ × \d+ × \d+ voxels", text)
    assert "No augmentation was used." in text
    assert "No scans were kept back for validation." in text
    assert "The network was trained for 1 epoch of" in text
    assert "Of 9 planned epochs, 1 was done: training ended when it was stopped." in text
    assert "2.0 hours" in text


def test_the_history_is_read_without_training(trained, study, capsys):
    found = find_history(study / "models")
    assert (found.name, len(found.rows), found.roi_names) == ("tiny", 2, ("left ball", "right ball"))
    assert find_history(study / "models", "tiny_best").rows == found.rows
    assert found.headline.startswith("Run 'tiny': 2 epochs in ")
    assert f"{trained.history[-1]['val_dice']:.3f}" in found.headline
    assert len(found.lines()) == 4
    assert main(["history", "--models", str(study / "models")]) == 0
    assert capsys.readouterr().out.splitlines() == found.lines()
    assert main(["history", "tiny", "--models", str(study / "models"), "--json"]) == 0
    assert [row["epoch"] for row in json.loads(capsys.readouterr().out)["epochs"]] == [1, 2]
    page = str(history_html(found))
    assert "image/png" in page
    assert "left ball" in plain(page)
    with pytest.raises(ModelError, match=r"found no run named 'tinny'\. There are: 'tiny'\."):
        find_history(study / "models", "tinny")
    with pytest.raises(ModelError, match=r"found no run\. No run was trained there yet\."):
        find_history(study)
    (study / "models" / "broken_history.csv").write_bytes(b"")
    with pytest.raises(ModelError, match=r"'broken_history.csv' cannot be read"):
        find_history(study / "models", "broken")


def test_more_epochs_go_on_and_the_logs_have_each_once(trained, study):
    """What the button after the end does: epochs = done + 10, here 1."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    longer, _ = run(study, tensorboard=True, **{**VALUES, "epochs": 3}, early_stopping=False)
    assert (longer.epochs_done, longer.reason) == (3, "finished")
    reader = accumulator.EventAccumulator(str(study / "models" / "tiny_tensorboard"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss/training")] == [1, 2, 3]
    logged = [event.value for event in reader.Scalars("loss/training")]
    assert logged == pytest.approx([row["train_loss"] for row in longer.history], rel=1e-5)
    # And a finished run stays finished, whatever number the Settings cell still holds.
    assert prepare(study, tensorboard=True, **VALUES).state == "finished"


def test_without_a_model_the_next_steps_say_so(trained):
    nothing = dataclasses.replace(trained, model_path=None)
    assert "run the training cell again" in plain(next_steps_html(nothing))
    assert 'model_filename = "tiny_best"' in plain(next_steps_html(trained))


def test_what_may_be_deleted_is_said_with_its_size(trained, tmp_path):
    best, last = tmp_path / "tiny_best.safetensors", tmp_path / "tiny_last.ckpt"
    run = dataclasses.replace(trained, model_path=best, judged_epoch=2)
    shutil.copy(trained.model_path.with_name("tiny_last.ckpt"), last)
    sizes = {"tiny_2.safetensors": 7, "tiny_history.csv": 1, "tiny_best.safetensors": 4}
    for name, megabytes in sizes.items():
        (tmp_path / name).write_bytes(bytes(megabytes * 1_000_000))
    assert "Disk space" not in plain(next_steps_html(run)), "tiny_2 is the one that the scores are of"
    (tmp_path / "tiny_last.previous.ckpt").write_bytes(bytes(9_000_000))
    (tmp_path / "tiny_other_4.safetensors").write_bytes(bytes(1_000_000))
    for epoch in (4, 10, 12):
        (tmp_path / f"tiny_{epoch}.safetensors").write_bytes(bytes(4_000_000))
    assert (
        "Disk space: 'tiny_last.previous.ckpt', 'tiny_4.safetensors', 'tiny_10.safetensors' and 1 more (21 MB) may be deleted; "
        "segmenting does without. Keep tiny_last.ckpt: without it Run All trains anew."
    ) in plain(next_steps_html(run))
    last.write_bytes(b"damaged")
    assert "previous" not in plain(next_steps_html(run)), "then it is what there is to go on from"


# --- pieces -----------------------------------------------------------------------------------------------------------


def shown(name, dice, slices=1):
    geometry = Geometry.from_spacing((slices, 10, 10))
    empty = Mask(np.zeros((slices, 10, 10), np.uint8), geometry)
    return ShownScan(name, dice, Volume(np.zeros((slices, 10, 10), np.float32), geometry), empty, empty)


def test_the_three_worst_and_best_scans_are_kept():
    scans = [shown(str(n), n / 10) for n in (5, 1, 9, 3, 7, 2, 8)]
    assert [scan.name for scan in extremes(scans)] == ["1", "2", "3", "7", "8", "9"]
    assert [scan.name for scan in extremes(scans[:2])] == ["1", "5"]
    # 250 voxels hold two scans of 100: the two worst.
    assert [scan.name for scan in extremes(scans, most_voxels=250)] == ["1", "2"]


def test_the_slice_with_most_wrong_pixels_is_flagged():
    scan = shown("a", 0.5, slices=3)
    assert most_wrong(scan) == {}
    answer = np.zeros((3, 10, 10), np.uint8)
    answer[1, :2], answer[2, :3] = 1, 1
    wrong = dataclasses.replace(scan, answer=scan.answer.with_array(answer))
    assert list(most_wrong(wrong)) == [2]


def case(dice, hd95=()):
    return CaseScore("a", 0.1, dice, (None,) * len(dice), 0, np.zeros(1), np.zeros(1), np.zeros(1), hd95)


def test_distances_are_averaged_over_the_scans_that_have_one():
    scores = Scores(
        (case((0.5, None), (2.0, None)), case((0.7, None), (4.0, None)), case((0.9, 0.0), (None, None)))
    )
    assert scores.hd95_per_roi == (3.0, None)
    means, whole = mean_with_interval(scores, ["p", "q", "q"])
    assert means[0].mean == pytest.approx(0.7)
    assert (whole.cases, whole.patients) == (3, 2)


@pytest.mark.parametrize(
    ("worst", "history", "parts"),
    [
        (1.0, [{"epoch": 10, "val_dice": 0.25}], ["Dice loss: 0.631 |", "Mean dice score: 0.250 |"]),
        (1.0, [{"epoch": 8, "val_dice": 0.25}, {"epoch": 10}], ["Mean dice score: 0.250 (of epoch 8) |"]),
        (1.0, [{"val_dice": None}], ["Dice loss: 0.631 |", "Mean dice score (training images): 0.369 |"]),
        (
            2.0,
            [{"val_dice": None}],
            ["Dice loss: 0.631 (0 best, 2 worst) |", "score (training images): 0.684 |"],
        ),
    ],
)
def test_the_progress_line_says_on_which_scale_the_loss_is(worst, history, parts):
    line = progress_line(EpochDone(10, 500, {"train_loss": 0.631}, 0.0), 3695, history, worst)
    assert line.startswith("Completed epochs:   10/500 | ")
    assert line.endswith("Time elapsed: 1 hrs 1 mins 35 secs")
    assert all(part in line for part in parts)
