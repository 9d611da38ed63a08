"""The table of the plan in the shell and in the notebook, and what its rows say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.settings import TrainSettings, make_settings
from autoseg_lib.train.choosing import Choice, given_by_others
from autoseg_lib.train.looks import Looks
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.names import check_names
from autoseg_lib.train.planning import Plan, make_plan
from autoseg_lib.train.starting import read_start
from autoseg_lib.widgets.views import choices_html
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.folds import prepare_folds
from autoseg_lib.workflow.plan_table import choice_lines
from tests.helpers.made_facts import report_on, scan_facts
from tests.helpers.studies import write_png_study

SLICES = [scan_facts(f"s{n}", (4, 64, 64), (5.0, 1.0, 1.0), {1: (0, 9, 9, 4, 40, 40)}) for n in range(4)]


def plan_for(seconds_per_step: float | None = None, **values: Any) -> Plan:
    settings = make_settings(TrainSettings, {"main_dir": "data", "dimension": "2D", **values})
    machine = Machine("cpu", 4, 16.0, "32")
    return make_plan(settings, report_on(SLICES, ("organ",)), machine, Path("m"), None, seconds_per_step)


def rows(plan: Plan) -> dict[str, tuple[Any, str]]:
    return {choice.setting: (choice.value, choice.reason) for choice in plan.choices}


def test_long_values_stay_in_their_column() -> None:
    lines = choice_lines(plan_for(model_dir="/a/very/long/folder/" + 5 * "of_the_models_/").choices)
    column = lines[0].index("why")
    assert lines[0][column - 2 : column] == "  "
    assert all(line[column - 2 : column].strip() == "" for line in lines)
    assert all(len(line) <= column for line in lines if line.startswith(" "))
    strengths = " ".join(line[24 : column - 2].strip() for line in lines)
    for key in ("rotation", "elastic", "blur", "probability"):
        assert key in strengths
    assert "…" not in strengths and "..." not in strengths


def test_the_notebook_shows_the_table_as_tall_as_it_is() -> None:
    assert "max-height:none" in str(choices_html(plan_for().choices))


def test_who_gave_a_value_that_the_user_did_not_give() -> None:
    choices = [Choice("epochs", 8, 8, "your value"), Choice("dimension", "auto", "2D", "thick slices")]
    told = given_by_others(choices, {"epochs": "the example's", "dimension": "the example's"})
    assert [choice.reason for choice in told] == ["the example's", "thick slices"]


def test_rows_of_a_short_training() -> None:
    few = rows(plan_for(epochs=3, network="pyramid_vnet"))
    assert "encoder" not in few
    assert few["print_checkpoint"] == (1, "every epoch")
    assert few["save_checkpoint"] == (1, "every epoch")
    assert rows(plan_for(epochs=100))["save_checkpoint"] == (20, "5 times in all")
    assert rows(plan_for(0.5, time_limit_minutes=1))["epochs"][1].startswith("what 1 minute holds at")


def test_scans_looked_at_are_not_those_kept_back() -> None:
    assert Looks(1, 2, 0.1, 2).text == "2 scans kept back, about 10 % of the time"
    assert Looks(1, 1, 0.1, 2).text.startswith("looked at while training: 1 of 2 scans kept back, about 10 %")


def test_too_few_patients_for_the_learning_curve_are_said_before() -> None:
    value, reason = rows(plan_for(learning_curve=True))["learning_curve"]
    assert value == "not possible"
    assert "at least 8 patients" in reason and "found 3 patients" in reason
    assert "learning_curve" not in rows(plan_for())


def test_wrong_names_are_refused_together_before_the_data_are_read(tmp_path: Path) -> None:
    wrong = {"network": "unett", "loss": "dise", "optimizer": "adam", "freeze_encoder_epochs": 3}
    settings = make_settings(TrainSettings, {"main_dir": str(tmp_path / "nowhere"), **wrong})
    with pytest.raises(SettingsError) as error:
        check_study(settings)
    text = str(error.value)
    assert text.startswith("4 settings need correcting:")
    assert all(f"{name} = " in text for name in wrong)
    check_names(make_settings(TrainSettings, {"network": "UNet", "loss": "dice", "optimizer": "muon"}))


@pytest.mark.parametrize(
    ("network", "dimension", "other"), [("pyramid_vnet", "3D", "2D"), ("dynunet", "2D", "3D")]
)
def test_a_network_of_the_other_dimension(network: str, dimension: str, other: str) -> None:
    settings = make_settings(TrainSettings, {"network": network, "dimension": dimension})
    with pytest.raises(SettingsError, match=f'"{network}" is a {other} network.*Set dimension = "{other}"'):
        check_names(settings)


def test_a_model_to_start_from_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"start_from = '.*none\.safetensors': not found") as error:
        read_start(tmp_path / "none.safetensors")
    assert "model_filename" not in str(error.value)


def test_the_name_of_a_fold_is_not_called_the_users(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "two", patients=2, slices=2, size=32)
    values = {"main_dir": str(folder), "model_dir": str(tmp_path / "m"), "model_filename": "heart"}
    small = {
        "network": "light_unet",
        "input_shape": 32,
        "batch_size": 2,
        "epochs": 1,
        "folds": 2,
        "spacing_mm": 1,
    }
    settings = make_settings(TrainSettings, {**values, **small, "patient_pattern": r"p\d+"})
    prepared = prepare_folds(check_study(settings), tmp_path, machine=Machine("cpu", 2, 8.0, "32"))
    assert rows(prepared.plan)["model_filename"] == ("heart_fold1", "fold 1 of 'heart'")
    lines = prepared.lines()
    assert sum(line.startswith("augment_params") for line in lines) == 1
    assert any(line.startswith("validation ") for line in lines)
