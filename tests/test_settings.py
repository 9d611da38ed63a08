"""Settings: everything wrong is said at once, in words that name the remedy."""

from pathlib import Path

import pytest

from autoseg_lib.errors import SettingsError
from autoseg_lib.settings import (
    SegmentSettings,
    TrainSettings,
    make_settings,
    parse_assignments,
    read_settings_file,
    to_table,
)


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(SettingsError) as caught:
        make_settings(
            TrainSettings,
            {
                "epoch": 3,
                "dimension": "4D",
                "batch_size": "x",
                "labels_list": ["a", "b"],
                "num_labels": 3,
                "fov": 300,
                "augment_params": {"turn": 1},
                "learning_rate": float("nan"),
                "pretrained": 1,
            },
        )
    text = str(caught.value)
    assert text.startswith("8 settings need correcting:")
    assert "`epoch` is not a setting; did you mean `epochs`?" in text
    assert 'dimension = \'4D\': expected "auto" or one of "2D", "3D".' in text
    assert "batch_size = 'x': expected \"auto\" or a whole number of at least 1." in text
    assert "num_labels = 3, but labels_list names 2 ROIs besides the background." in text
    assert "fov and matrix_size go together" in text
    assert "('turn' is not one of them)" in text
    assert "learning_rate = nan: expected" in text
    assert "pretrained = 1: expected True or False." in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value", "cleaned"),
    [
        ("dimension", "2d", "2D"),
        ("labels_list", ["background", "liver"], ["liver"]),
        ("labels_list", ["Background"], ["Background"]),
        ("labels_list", "psoas left, psoas right", ["psoas left", "psoas right"]),
        ("series", "1,3", [1, 3]),
        ("series", " 2 , 10,", [2, 10]),
        ("series", "2", 2),
        ("series", [1, 3], [1, 3]),
        ("series", "auto", "auto"),
        ("input_shape", 256, 256),
        ("input_shape", (256, 192), [256, 192]),
        ("epochs", 12.0, 12),
        ("intensity", [-160, 240], [-160.0, 240.0]),
        ("augment_params", False, {"probability": 0.0}),
        ("time_limit_minutes", "", None),
        ("epochs", "AUTO", "auto"),
    ],
)
def test_values_are_understood(name, value, cleaned):
    assert getattr(make_settings(TrainSettings, {name: value}), name) == cleaned


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dimension": "2D", "patch_size": [8, 64, 64]},
            'dimension = "2D" takes 2 numbers (rows and columns)',
        ),
        ({"dimension": "3D", "patch_size": [64, 64]}, 'dimension = "3D" takes 3 numbers'),
        ({"dimension": "3D", "encoder": "resnet18"}, 'encoder is for dimension = "2D"'),
        ({"labels_list": ["psoas", "Psoas"]}, "uses the name 'psoas' twice"),
        ({"model_filename": "a/b"}, "a file name without"),
        ({"series": "1,x"}, "series = '1,x': expected"),
        ({"series": "0,1"}, "a whole number of at least 1"),
        ({"folds": 21}, "a whole number from 1 to 20"),
        ({"intensity": [5, 1]}, "a window [low, high]"),
        ({"epochs": True}, "a whole number"),
        ({"validation_fraction": 1.5}, "at most 0.9"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(SettingsError) as caught:
        make_settings(TrainSettings, values)
    assert message in str(caught.value)


def test_segment_settings_have_their_own_names():
    assert make_settings(SegmentSettings, {"formats": "png,nifti"}).formats == ["png", "nifti"]
    with pytest.raises(SettingsError, match="`epochs` is not a setting"):
        make_settings(SegmentSettings, {"epochs": 3})


def test_file_and_assignments(tmp_path: Path):
    path = tmp_path / "réglages d'étude.yaml"
    path.write_text("main_dir: données\nepochs: 3\n", encoding="utf-8")
    assert read_settings_file(path) == {"main_dir": "données", "epochs": 3}
    assert parse_assignments(["epochs=5", "labels_list=[a, b]", "main_dir=C:\\x=y"]) == {
        "epochs": 5,
        "labels_list": ["a", "b"],
        "main_dir": "C:\\x=y",
    }
    chosen = make_settings(TrainSettings, parse_assignments(["series=1,3", "labels_list=a,b"]))
    assert (chosen.series, chosen.labels_list) == ([1, 3], ["a", "b"])
    with pytest.raises(SettingsError, match="--set takes name=value, found 'epochs'"):
        parse_assignments(["epochs"])
    path.write_text("a: [1, 2", encoding="utf-8")
    with pytest.raises(SettingsError, match="not valid YAML at line"):
        read_settings_file(path)
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="expected lines `name: value`"):
        read_settings_file(path)
    with pytest.raises(SettingsError, match="not found"):
        read_settings_file(tmp_path / "none.yaml")


def test_settings_survive_a_round_trip_through_yaml(tmp_path: Path):
    import yaml

    settings = make_settings(TrainSettings, {"main_dir": "x", "input_shape": [128, 96], "labels_list": ["a"]})
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(to_table(settings)), encoding="utf-8")
    assert make_settings(TrainSettings, read_settings_file(path)) == settings


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (SegmentSettings, "postprocesing", "; did you mean `postprocessing`?"),
        (SegmentSettings, "preprocesing.crop.margin_mm", "; did you mean `preprocessing`?"),
        (SegmentSettings, "epochs", " here, but one of training."),
        (TrainSettings, "tissue_window", " here, but one of segmenting."),
    ],
)
def test_what_an_unknown_setting_may_have_been_meant_for(kind, name, hint):
    with pytest.raises(SettingsError) as caught:
        make_settings(kind, {name: 1}, ("preprocessing", "postprocessing"))
    assert f"`{name}` is not a setting{hint}" in str(caught.value)
