"""Cross-validation: folds by patient, each scan judged once by a network that has not seen it, nothing trained twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from autoseg_lib.cli import main
from autoseg_lib.errors import DataError, ModelError, SettingsError
from autoseg_lib.events import Event, FoldStarted, Message, StepDone, TrainingStarted, nobody
from autoseg_lib.labels import LabelTable
from autoseg_lib.metrics.overlap import dice_per_roi
from autoseg_lib.networks.joining import join_models
from autoseg_lib.networks.model_file import load_model, read_metadata
from autoseg_lib.networks.registry import NetworkSpec
from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings
from autoseg_lib.train.machine import Machine
from autoseg_lib.volume import Volume
from autoseg_lib.widgets.views import history_html, performance_html
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.folds import (
    PreparedFolds,
    _Known,
    _seconds_for,
    prepare_folds,
    train_prepared_folds,
)
from autoseg_lib.workflow.folds_result import FoldsResult
from autoseg_lib.workflow.model_choice import find_model, make_predictor, segmenting_predictor
from autoseg_lib.workflow.run_history import find_history
from autoseg_lib.workflow.runs import require_one_run
from autoseg_lib.workflow.segmenting import segment
from autoseg_lib.workflow.training_data import validation_scans
from tests.helpers.stopping import StopAfter
from tests.helpers.studies import write_png_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")
QUICK = {
    "model_filename": "cv",
    "input_shape": 32,
    "epochs": 2,
    "batch_size": 4,
    "labels_list": ["bright", "dark"],
    "patient_pattern": r"p\d+",
    "spacing_mm": 1.5,
    "folds": 3,
    "network": "light_unet",
}
ENDINGS = (
    "_answers.zip",
    "_best.safetensors",
    "_calibration.csv",
    "_history.csv",
    "_last.ckpt",
    "_report.json",
    "_settings.yaml",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six patients with two slices each."""
    return write_png_study(tmp_path / "étude cv", patients=6, slices=2, size=32)


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FoldsResult, list[Event]]:
    """The same study, all folds trained."""
    folder = write_png_study(tmp_path_factory.mktemp("done") / "étude cv", patients=6, slices=2, size=32)
    return folder, *run(folder)


@pytest.fixture
def trained(done_once: tuple[Path, FoldsResult, list[Event]], tmp_path: Path) -> Path:
    """A copy of it, to go on with."""
    return Path(shutil.copytree(done_once[0], tmp_path / "trained"))


def prepare(folder: Path, **changes: object) -> PreparedFolds:
    values = {**QUICK, "main_dir": str(folder), "model_dir": str(folder / "models"), **changes}
    return prepare_folds(check_study(make_settings(TrainSettings, values)), folder, nobody, CPU)


def run(folder: Path, stop_after: int | None = None, **changes: object) -> tuple[FoldsResult, list[Event]]:
    listener = StopAfter(stop_after)
    return train_prepared_folds(prepare(folder, **changes), listener, listener.stop), listener.events


def folds_begun(events: list[Event]) -> list[int]:
    return [event.fold for event in events if isinstance(event, FoldStarted)]


def test_files_table_and_one_model_of_all(done_once: tuple[Path, FoldsResult, list[Event]]) -> None:
    folder, result, events = done_once
    models = folder / "models"
    assert folds_begun(events) == [1, 2, 3]
    assert all(event.folds == 3 for event in events if isinstance(event, FoldStarted))
    names = {path.name for path in models.iterdir()}
    for number in (1, 2, 3):
        assert {f"cv_fold{number}{ending}" for ending in ENDINGS} <= names
    whole = {name for name in names if not name.startswith("cv_fold")} | {"cv_folds.csv"}
    assert whole == {"cv_best.safetensors", "cv_folds.csv", "cv_report.json", "cv_settings.yaml"}

    table = pd.read_csv(models / "cv_folds.csv")
    assert list(table.columns)[:4] == ["case", "fold", "roi", "dice"]
    # Each slice once for each ROI, whole patients together, four slices of two patients in each fold.
    assert len(table) == 12 * 2 and not table.duplicated(["case", "roi"]).any()
    table["patient"] = table["case"].str[:2]
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    assert (table.groupby("fold")["patient"].nunique() == 2).all()

    # Mean and sd by pandas from the file; the interval holds the mean.
    report = json.loads((models / "cv_report.json").read_text(encoding="utf-8"))
    rows = {row["roi"]: row for row in report["cross_validation"]}
    for roi, group in table.groupby("roi")["dice"]:
        assert rows[roi]["dice"] == pytest.approx(group.mean(), abs=1e-4)
        assert rows[roi]["dice_sd"] == pytest.approx(group.std(ddof=1), abs=1e-4)
        assert rows[roi]["dice_low_95"] <= rows[roi]["dice"] <= rows[roi]["dice_high_95"]
        assert (rows[roi]["scans"], rows[roi]["patients"]) == (12, 6)
    assert rows["mean"]["dice"] == pytest.approx(
        np.mean([rows["bright"]["dice"], rows["dark"]["dice"]]), abs=1e-4
    )
    assert report["members"] == report["folds"] == 3
    assert sorted(name for fold in report["fold_runs"] for name in fold["validation"]) == sorted(
        set(table["case"])
    )

    lines = "\n".join(result.lines())
    assert "95 % interval" in lines and "3 of 3 folds" in lines
    assert "Segmenting takes about 3 times as long as with one." in lines
    assert "not even the best epoch" in result.methods

    metadata = read_metadata(result.model_path)
    assert metadata["members"] == 3 and metadata["validation"]["cross_validated"] is True
    assert metadata["validation"]["mean_dice"] == pytest.approx(rows["mean"]["dice"], abs=1e-4)
    assert str(folder) not in json.dumps(metadata, ensure_ascii=False)
    # "auto" in test.ipynb means the model of all folds, not one of its parts.
    assert find_model(make_settings(SegmentSettings, {}), models) == models / "cv_best.safetensors"

    # The model of all gives the mean of the folds' probabilities, through the predictor of test.ipynb.
    settings = make_settings(SegmentSettings, {})
    volume = first_volume(folder)
    single = [
        make_predictor(load_model(models / f"cv_fold{n}_best.safetensors"), settings, []).probabilities(
            volume
        )
        for n in (1, 2, 3)
    ]
    together = make_predictor(load_model(result.model_path), settings, []).probabilities(volume)
    assert np.abs(single[0] - single[1]).max() > 0.01
    np.testing.assert_allclose(together, np.mean(single, axis=0), atol=2e-6)


def first_volume(folder: Path) -> Volume:
    prepared = prepare(folder)
    (scan,) = list(validation_scans(prepared.study, prepared.plan, 1))
    return scan.volume


def test_each_scan_is_scored_by_the_network_that_has_not_seen_it(trained: Path) -> None:
    folder, models = trained, trained / "models"
    table = pd.read_csv(models / "cv_folds.csv").set_index(["case", "roi"])["dice"]
    prepared = prepare(folder)
    for number, known in enumerate(prepared.known, start=1):
        model = load_model(models / f"cv_fold{number}_best.safetensors")
        # As segmenting does it by default, which decides on half precision and mirrored images.
        predictor = segmenting_predictor(model)
        for scan in validation_scans(prepared.study, known.plan):
            found = predictor.predict(scan.volume)
            for roi, dice in zip(
                ("bright", "dark"), dice_per_roi(scan.mask.array, found.array, model.labels), strict=True
            ):
                assert table[scan.name, roi] == pytest.approx(dice, abs=1e-9)


def test_the_last_weights_are_the_model_so_that_no_score_chooses(trained: Path) -> None:
    for number in (1, 2, 3):
        best = load_file(trained / "models" / f"cv_fold{number}_best.safetensors")
        last = load_file(trained / "models" / f"cv_fold{number}_2.safetensors")
        assert all(torch.equal(best[name], last[name]) for name in last)


def test_all_folds_prepare_their_scans_alike(trained: Path) -> None:
    tables = [read_metadata(trained / "models" / f"cv_fold{n}_best.safetensors") for n in (1, 2, 3)]
    assert all(table["preprocessing"] == tables[0]["preprocessing"] for table in tables)
    assert all(table["network"] == tables[0]["network"] for table in tables)


def test_killed_within_the_second_fold_it_goes_on_there_to_the_same_end(folder: Path, trained: Path) -> None:
    seen: list[Event] = []

    def die(event: Event) -> None:
        seen.append(event)
        # 8 slices to learn from are 2 steps an epoch, 4 a fold: in the second epoch of the second fold.
        if sum(isinstance(e, StepDone) for e in seen) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_prepared_folds(prepare(folder), die)
    before = (folder / "models" / "cv_fold1_last.ckpt").read_bytes()
    prepared = prepare(folder)
    assert (prepared.state, prepared.number) == ("continue", 2)
    assert prepared.found.startswith(
        "Found a training with folds: 1 of 3 folds are done, fold 2 stands at epoch 1."
    )
    events: list[Event] = []
    result = train_prepared_folds(prepared, events.append)
    assert folds_begun(events) == [2, 3]
    assert [e.first_epoch for e in events if isinstance(e, TrainingStarted)] == [1, 0]
    assert any(isinstance(e, Message) and e.text == "Fold 1 of 3 is done already." for e in events)
    assert (folder / "models" / "cv_fold1_last.ckpt").read_bytes() == before
    assert result.reason == "finished" and len(result.fold_lines) == 3
    mine = load_file(folder / "models" / "cv_best.safetensors")
    theirs = load_file(trained / "models" / "cv_best.safetensors")
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    pd.testing.assert_frame_equal(
        pd.read_csv(folder / "models" / "cv_folds.csv"), pd.read_csv(trained / "models" / "cv_folds.csv")
    )
    # The scans of the fold that was done before are shown too.
    assert len(result.shown) == 6


def test_finished_folds_are_shown_not_trained_again(
    trained: Path, done_once: tuple[Path, FoldsResult, list[Event]]
) -> None:
    before = {path.name: path.read_bytes() for path in (trained / "models").iterdir()}
    prepared = prepare(trained)
    assert prepared.state == "finished" and prepared.found.startswith("All 3 folds of 'cv' are finished")
    events: list[Event] = []
    again = train_prepared_folds(prepared, events.append)
    assert not folds_begun(events) and not any(isinstance(event, StepDone) for event in events)
    assert again.already_finished and again.interval_table() == done_once[1].interval_table()
    assert [case.name for case in again.worst_cases] == [case.name for case in done_once[1].worst_cases]
    changed = {p.name for p in (trained / "models").iterdir() if before.get(p.name) != p.read_bytes()}
    assert changed <= {"cv_settings.yaml"}
    # Everything that the notebook shows of it can be drawn.
    html = performance_html(again)
    assert "95 % interval of the mean" in html and "fold 3" in html and "Hardest scans" in html


def test_what_is_said_of_time_folds_and_the_last_look(
    trained: Path, folder: Path, done_once: tuple[Path, FoldsResult, list[Event]]
) -> None:
    finished = prepare(trained)
    assert "left for" not in finished.summary and "min" not in finished.summary
    assert [choice.value for choice in finished.plan.choices if choice.setting == "folds"] == [3]
    # Each of the two folds to come is prepared, too.
    new = prepare(folder)
    assert new.minutes == pytest.approx(3 * new.run.minutes + 2 * new.prepare_seconds / 60)
    result, texts = done_once[1], [event.text for event in done_once[2] if isinstance(event, Message)]
    assert result.headline.endswith(" minutes of training in all.")
    assert texts.count("Looking at all validation scans with the trained model ...") == 3
    assert sum(text.startswith("Looked at 4 validation scans: mean Dice 0.") for text in texts) == 3


def test_the_history_of_folds_is_their_table(trained: Path, done_once, capsys) -> None:
    models = trained / "models"
    assert main(["history", "cv", "--models", str(models)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("'cv' is a model of 3 folds:") and "3 of 3 are done" in lines[0]
    assert lines[1].split() == ["fold", "scans", "mean", "Dice", "bright", "dark"]
    each = [(str(line.number), str(line.scans), f"{line.mean_dice:.3f}") for line in done_once[1].fold_lines]
    assert [tuple(line.split()[:3]) for line in lines[2:5]] == each
    dice = [row[1] for row in done_once[1].interval_table()]
    assert lines[5].split() == ["all", "12", dice[2], dice[0], dice[1]]
    assert "is a model of 3 folds" in history_html(find_history(models, "cv"))
    assert main(["history", "cv", "--models", str(models), "--json"]) == 0
    assert [fold["fold"] for fold in json.loads(capsys.readouterr().out)["folds"]] == [1, 2, 3, 0]
    # While the first one is trained there is no table yet; a table that is no table is named.
    (models / "cv_folds.csv").unlink()
    assert find_history(models, "cv").lines()[0].endswith("No fold is done yet.")
    (models / "cv_folds.csv").write_bytes(b"")
    with pytest.raises(ModelError, match=r"'cv_folds.csv' cannot be read"):
        find_history(models, "cv")


def test_a_history_is_read_without_heavy_imports() -> None:
    code = "import sys, autoseg_lib.workflow.run_history; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stop_keeps_what_there_is(folder: Path) -> None:
    """12 slices, 8 to learn from: 2 steps an epoch, 4 a fold. Stopped within the first fold, then within the second."""
    first, _ = run(folder, stop_after=3)
    assert first.reason == "stopped" and [line.number for line in first.fold_lines] == [1]
    assert load_model(first.model_path).members == 1
    second, events = run(folder, stop_after=3)
    assert second.reason == "stopped" and folds_begun(events) == [1, 2]
    assert [line.number for line in second.fold_lines] == [1]
    assert load_model(second.model_path).members == 1
    assert "So far 1 of the 3 folds are in these numbers." in second.split_text
    assert "1 of 3 folds have a model" in second.headline
    assert prepare(folder).number == 2


def test_a_time_limit_is_shared_by_the_folds(folder: Path) -> None:
    result, _ = run(folder, epochs=1000, time_limit_minutes=0.15)
    assert result.reason == "time limit" and len(result.fold_lines) == 3
    assert sum(line.seconds for line in result.fold_lines) < 9.5
    assert prepare(folder, epochs=1000, time_limit_minutes=0.15).state == "finished"


def test_the_share_of_each_fold_by_hand(trained: Path) -> None:
    """600 s for five folds."""
    plan = prepare(trained).plan

    def known(*folds: tuple[str, float]) -> list[_Known]:
        return [_Known(plan, state, seconds=seconds) for state, seconds in folds]

    untouched = known(*[("new", 0.0)] * 5)
    assert _seconds_for(1, untouched, 600.0, 0.0, 0.0) == 120
    assert _seconds_for(1, untouched, None, 0.0, 0.0) is None
    # The first has taken 130 s of this sitting, preparing the next takes 7.5: 470 / 4 - 7.5.
    second = known(("finished", 0.0), *[("new", 0.0)] * 4)
    assert _seconds_for(2, second, 600.0, 130.0, 7.5) == 110
    # A new sitting; two have taken 120 s each, the third was killed after 50: it has what the fourth and fifth have, 360 / 3.
    killed = known(("finished", 120.0), ("finished", 120.0), ("continue", 50.0), ("new", 0.0), ("new", 0.0))
    assert _seconds_for(3, killed, 600.0, 0.0, 0.0) == 120
    # It is done after 70 s more: 600 - 240 - 50 - 70 = 240 for two.
    assert (
        _seconds_for(4, [*killed[:2], replace(killed[2], state="finished"), *killed[3:]], 600.0, 70.0, 0.0)
        == 120
    )
    # However little is left, a fold is trained a little.
    assert _seconds_for(2, second, 600.0, 599.0, 30.0) == 1.0


def test_other_settings_ask_for_a_new_name(trained: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"a run named 'cv_fold1' exists already.*\n.*folds: 3 then, 2 now"
    ):
        prepare(trained, folds=2)
    with pytest.raises(SettingsError, match=r"learning_rate: 0\.\d+ then, 0\.5 now"):
        prepare(trained, learning_rate=0.5)


def test_starting_over_sets_everything_aside(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile NAME_folds.csv is open in another program: the folds are trained all the same."""
    real, refused = Path.replace, []

    def locked(self: Path, target: Path) -> Path:
        if Path(target).name == "cv_folds.csv" and len(refused) < 2:
            refused.append(target)
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", locked)
    models = trained / "models"
    old = (models / "cv_best.safetensors").read_bytes()
    result, events = run(trained, epochs=1, resume=False, seed=7)
    assert folds_begun(events) == [1, 2, 3] and len(result.fold_lines) == 3
    warned = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    assert (
        len(refused)
        == len([text for text in warned if text.endswith("Training goes on with the next fold.")])
        == 2
    )
    (aside,) = models.glob("cv_replaced_*")
    assert (aside / "cv_best.safetensors").read_bytes() == old and (aside / "cv_folds.csv").is_file()
    assert len(list(models.glob("cv_fold?_replaced_*"))) == 3


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"folds = 7: found 6 patients; .* Set folds = 6, or folds = 1 for one split"
    ):
        prepare(folder, folds=7)
    with pytest.raises(
        SettingsError, match=r'resume = ".*x.ckpt" names one run, and folds = 3 are 3 runs. Leave resume'
    ):
        prepare(folder, resume="x.ckpt")
    values = {**QUICK, "main_dir": str(folder)}
    with pytest.raises(
        SettingsError, match=r"folds = 3: several processes train one run together, not folds"
    ):
        require_one_run(make_settings(TrainSettings, values))
    with pytest.raises(SettingsError, match="learning_curve = True: several processes train one run"):
        require_one_run(make_settings(TrainSettings, {**values, "folds": 1, "learning_curve": True}))


def test_segmenting_with_all_of_them_says_what_it_costs(trained: Path, tmp_path: Path) -> None:
    settings = make_settings(SegmentSettings, {"formats": "png"})
    image = trained / "train" / "images" / "p0_0.png"
    result = segment(image, trained / "models" / "cv_best.safetensors", tmp_path / "out", settings)
    assert len(result.cases) == 1 and not result.failures
    assert any("3 networks answer together: it takes about 3 times" in n for n in result.notes)


def test_models_that_cannot_answer_together(trained: Path) -> None:
    first = load_model(trained / "models" / "cv_fold1_best.safetensors")
    second = load_model(trained / "models" / "cv_fold2_best.safetensors")
    assert join_models([first]) is first
    assert join_models([first, second, first]).members == 3
    other = replace(second, labels=LabelTable(["bright", "shady"]))
    with pytest.raises(
        ModelError,
        match=r"'cv_fold1_best.safetensors' and 'cv_fold2_best.safetensors' cannot be used together: their ROIs are bright, "
        r"dark and bright, shady\. Use models of one training",
    ):
        join_models([first, other])
    other = replace(second, preprocessing=replace(second.preprocessing, input_shape=(64, 64)))
    with pytest.raises(ModelError, match="they prepare scans differently"):
        join_models([first, other])
    other = replace(second, spec=replace(second.spec, in_channels=3))
    with pytest.raises(
        ModelError, match=r"their networks are 2D .*light.* and 2D .*, or differ in their sizes"
    ):
        join_models([first, other])
    with pytest.raises(ModelError, match="no model was given"):
        join_models([])
    # Weights that belong to places of the patch: one window cannot suit both.
    sizes = [NetworkSpec("3D", "unetr", 3, (side, 32, 32)) for side in (32, 48)]
    with pytest.raises(ModelError, match=r"3D unetr and 3D unetr, or differ in their sizes"):
        join_models([replace(first, spec=size) for size in sizes])
