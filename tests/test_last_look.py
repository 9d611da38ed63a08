"""What the last look decides, and when: a region finder first, then scores and error bars with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoseg_lib.errors import ModelError
from autoseg_lib.events import Event, Message, Progress, nobody
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.infer.region import RegionFinder
from autoseg_lib.networks.model_file import load_model, read_metadata, save_model
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.machine import Machine, best_precision
from autoseg_lib.train.validate import score_case
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.last_look import REGION_TEXT, last_look, with_region_finder
from autoseg_lib.workflow.model_choice import REGION_FINDER, edited, segmenting_predictor
from autoseg_lib.workflow.model_metadata import model_metadata
from autoseg_lib.workflow.training import PreparedTraining, prepare_training
from autoseg_lib.workflow.training_data import validation_scans
from autoseg_lib.workflow.training_time import Speed
from tests.helpers.studies import write_volume_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")
ON = "A region finder is on: tried."


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedTraining:
    """A run with one scan kept back, of eight windows; its best model has learned nothing."""
    folder = write_volume_study(tmp_path_factory.mktemp("last") / "étude", scans=3, size=32)
    values = {
        "main_dir": str(folder),
        "model_dir": str(folder / "models"),
        "model_filename": "tiny",
        "dimension": "3D",
        "network": "light_unet",
        "patch_size": [16, 16, 16],
        "labels_list": ["one", "two"],
        "epochs": 1,
        "batch_size": 2,
        "patient_pattern": r"\d+",
        "validation_fraction": 0.34,
    }
    study = check_study(make_settings(TrainSettings, values))
    prepared = prepare_training(study, folder, nobody, CPU, speed=Speed(0.1, 0.05, 0.1, 3))
    path = prepared.plan.files.best
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, prepared.network.eval(), model_metadata(prepared.plan, study, 1, None))
    assert len(prepared.plan.split.validation) == 1
    return prepared


class Proposing:
    """Stands where the trial is asked for: says what was decided, and keeps what it was asked."""

    def __init__(self, finder: RegionFinder | None, text: str) -> None:
        self.answer, self.asked = (finder, text), []  # type: tuple[RegionFinder | None, str], list[Predictor]

    def __call__(self, predictor: Predictor, *_: Any, on_event: Any, **__: Any) -> tuple[Any, str]:
        self.asked.append(predictor)
        on_event(Message("trying"))
        return self.answer


def test_the_region_finder_comes_first_and_the_scores_are_with_it(
    prepared: PreparedTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So narrow a box of so weak a network changes the answer: scores without it would be others.
    proposing = Proposing(RegionFinder(2.0, 0.0), ON)
    monkeypatch.setattr("autoseg_lib.workflow.last_look.propose_region_finder", proposing)
    heard: list[Event] = []
    done = last_look(prepared.plan, prepared.study, heard.append, already=False)
    assert proposing.asked[0].finder is None
    trying = heard.index(Message("trying"))
    looking = [i for i, event in enumerate(heard) if isinstance(event, Progress)]
    assert trying < looking[0]
    assert ON in done.found
    path = prepared.plan.files.best
    metadata = read_metadata(path)
    assert metadata[REGION_FINDER] == {"factor": 2.0, "margin_mm": 0.0}
    assert metadata[REGION_TEXT] == ON
    # The counts that the error bars are calibrated on are those of the predictor that segments.
    model = load_model(path)
    segmenting = segmenting_predictor(model)
    assert segmenting.finder == RegionFinder(2.0, 0.0)
    assert done.scores is not None
    scan = next(iter(validation_scans(prepared.study, prepared.plan)))
    again = score_case(segmenting, scan, prepared.plan.labels, thorough=True)
    counts = done.scores.cases[0].counts
    assert counts is not None and again.counts is not None
    assert (counts.likely == again.counts.likely).all()
    assert (counts.sure == again.counts.sure).all()


def test_a_refusal_takes_an_earlier_finder_away_and_a_failure_is_told(
    prepared: PreparedTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(prepared.plan.files.best)
    # Epochs were added to a run that had one.
    table = {**model.metadata, REGION_FINDER: {"factor": 3.0}, REGION_TEXT: "old"}
    failed = "No region finder: trying it failed (a scan cannot be read)"
    for text, told in ((failed, [Message(failed, "warning")]), ("No region finder: it would ...", [])):
        monkeypatch.setattr("autoseg_lib.workflow.last_look.propose_region_finder", Proposing(None, text))
        heard: list[Event] = []
        found = with_region_finder(
            replace(model, metadata=table), prepared.plan, prepared.study, heard.append
        )
        assert heard == [Message("trying"), *told]
        assert REGION_FINDER not in found.metadata
        assert REGION_TEXT not in found.metadata


def test_no_trial_with_a_time_limit(prepared: PreparedTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    proposing = Proposing(RegionFinder(), ON)
    monkeypatch.setattr("autoseg_lib.workflow.last_look.propose_region_finder", proposing)
    model = load_model(prepared.plan.files.best)
    limited = replace(prepared.plan, loop=replace(prepared.plan.loop, time_limit_seconds=600.0))
    with_region_finder(model, limited, prepared.study, nobody)
    assert proposing.asked == []
    with_region_finder(model, prepared.plan, prepared.study, nobody)
    assert len(proposing.asked) == 1


def test_changing_the_region_finder_drops_the_error_bars(prepared: PreparedTraining) -> None:
    model = load_model(prepared.plan.files.best)
    known = {"level": 0.9}
    plain = replace(model, metadata={**model.metadata, REGION_FINDER: None, "calibration": known})
    two = replace(plain, metadata={**plain.metadata, REGION_FINDER: {"factor": 2.0, "margin_mm": 20.0}})
    # The same as before: nothing, or the default in other words.
    assert edited(plain, {REGION_FINDER: {}}).metadata["calibration"] == known
    assert edited(two, {REGION_FINDER: {"factor": 2}}).metadata["calibration"] == known
    for model, change in ((plain, {"factor": 2}), (two, {"factor": 3}), (two, None)):
        changed = edited(model, {REGION_FINDER: change}).metadata["calibration"]
        assert changed["reason"].startswith("what is done before or after the network was changed")
    with pytest.raises(ModelError, match="region_finder: the model's settings cannot be read"):
        edited(plain, {REGION_FINDER: {"colour": 1}})


def test_segmenting_computes_in_the_16_bits_of_the_device(prepared: PreparedTraining) -> None:
    asked = segmenting_predictor(load_model(prepared.plan.files.best))
    assert asked.half == best_precision("cpu")
    assert asked.half_precision == (asked.half != "32")
