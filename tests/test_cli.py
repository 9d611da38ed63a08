"""The command line as a shell meets it: exit codes, one JSON object, short messages without traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from autoseg_lib.cli import main
from autoseg_lib.io.raster import write_mask_png
from tests.helpers.dicom import write_slice
from tests.helpers.real_data import real_data
from tests.helpers.studies import write_png_study


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_module_and_console_script_are_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "autoseg_lib", "--version"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("autoseg-workbench ")


def test_system_json_is_one_object(capsys):
    code, out, _ = call(capsys, "system", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["cpu_cores"] >= 1
    assert report["ram_total_gb"] > report["ram_available_gb"] > 0
    assert set(report) >= {"gpu_enabled", "gpu", "disk_free_gb", "versions", "advice", "python_version"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required"),
        (("segmnt",), "invalid choice"),
        (("segment", "x"), "--model"),
        (("train",), "main_dir is missing"),
        (("train", "--set", "epochs"), "--set takes name=value"),
        (("train", "--set", "main_dir=x", "--set", "epoch=3"), "did you mean `epochs`?"),
        (("train", "--settings", "none.yaml"), "not found"),
        (("check", "nowhere"), "not found"),
        (("segment", "nowhere", "--model", "m", "--output", "o"), "not found"),
        (("measure", "nowhere", "--output", "o"), "not found"),
        (("evaluate", "--reference", "nowhere", "--prediction", ".", "--output", "o.csv"), "not found"),
        (("segment", ".", "--model", "m", "--output", "o", "--formats", "gif"), "formats = 'gif'"),
    ],
)
def test_a_wrong_command_exits_with_2(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *words)
    assert code == 2
    assert message in err
    assert out == ""


def test_a_fault_in_the_data_exits_with_1(capsys, tmp_path: Path):
    folder = write_png_study(tmp_path / "s t", patients=2, slices=1)
    code, _, err = call(capsys, "train", "--set", f"main_dir={folder}", "--set", "labels_list=[one]")
    assert code == 1
    assert "the data check found 1 problem" in err
    assert "set num_labels = 2" in err
    code, out, _ = call(capsys, "check", str(folder), "--set", "num_labels=1", "--json")
    assert code == 1
    assert json.loads(out)["errors"][0]["code"] == "label_values"
    code, out, _ = call(capsys, "check", str(folder))
    assert code == 0
    assert out.startswith("2 images, 2 labels, 2 pairs, 2 patients")


def test_debug_shows_the_traceback(capsys, tmp_path: Path):
    assert main(["check", str(tmp_path), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_check_lists_what_a_folder_holds(capsys, tmp_path: Path):
    """Two series, a localizer and junk; nothing of the patient is printed."""
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    folder = tmp_path / "Ordner mit Leerzeichen"
    for series, kind in (
        ("a", ["ORIGINAL"]),
        ("b", ["ORIGINAL"]),
        ("loc", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    ):
        for number in range(4):
            write_slice(
                folder / f"{series}{number}.dcm",
                pixels,
                position=(0, 0, 3.0 * number),
                series=series,
                number=number,
                ImageType=kind,
                PatientName="Musterfrau^Erika",
                PatientID="4711-0815",
            )
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "notes.dcm").write_text("this is a text", encoding="utf-8")
    code, out, err = call(capsys, "check", str(folder), "--json")
    listing = json.loads(out)
    assert code == 0
    assert len(listing["scans"]) == 2
    assert [scan["slices"] for scan in listing["scans"]] == [4, 4]
    assert len(listing["left_out"]) == 1
    assert {item["file"] for item in listing["skipped"]} == {"notes.dcm", "Thumbs.db"}
    assert "Musterfrau" not in out + err
    assert "4711" not in out + err
    code, out, _ = call(capsys, "check", str(folder))
    assert "holds 2 scans" in out
    assert "skipped" in out


def test_no_write_permission(capsys, tmp_path: Path):
    if os.name == "nt" or os.geteuid() == 0:
        # root may write anywhere: a file where the folder should be is refused the same way.
        target = tmp_path / "file"
        target.write_text("x", encoding="utf-8")
    else:
        target = tmp_path / "locked"
        target.mkdir(mode=0o500)
    folder = write_png_study(tmp_path / "s", patients=2, slices=2)
    code, _, err = call(
        capsys,
        "train",
        "--set",
        f"main_dir={folder}",
        "--set",
        f"model_dir={target / 'm'}",
        "--set",
        "epochs=1",
    )
    assert code == 1
    assert "cannot be written" in err or "no permission" in err


def test_evaluate_exits_with_1_where_a_case_failed(capsys, tmp_path: Path):
    for case, shape in (("good", (8, 8)), ("bad", (4, 8))):
        write_mask_png(tmp_path / "r" / case / "s1.png", np.ones((8, 8), np.uint8))
        write_mask_png(tmp_path / "p" / case / "s1.png", np.ones(shape, np.uint8))
    command = (
        "evaluate",
        "--reference",
        str(tmp_path / "r"),
        "--output",
        str(tmp_path / "e.csv"),
        "--prediction",
    )
    code, out, _ = call(capsys, *command, str(tmp_path / "p"))
    assert code == 1
    assert "'bad' was not compared: the reference's slices are 8×8, the prediction's 8×4" in out
    assert pd.read_csv(tmp_path / "e.csv")["case"].tolist() == ["good"]
    assert call(capsys, *command, str(tmp_path / "r"))[0] == 1  # the earlier tables are kept
    assert call(capsys, *command, str(tmp_path / "r"), "--overwrite")[0] == 0


def test_train_segment_evaluate_measure_in_a_shell(capsys, tmp_path: Path, monkeypatch):
    """The whole way on PNG slices, in a folder with a space and an accent, with a settings file beside the data."""
    study = write_png_study(tmp_path / "étude quatre", patients=4, slices=3)
    values = {
        "main_dir": ".",
        "model_filename": "m",
        "epochs": 15,
        "input_shape": 64,
        "labels_list": ["bright", "dark"],
    }
    values |= {"patient_pattern": r"p\d", "batch_size": 4, "model_dir": str(tmp_path / "models")}
    (study / "settings.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, "train", "--settings", str(study / "settings.yaml"))
    assert code == 0
    assert "Completed epochs:   15/15 | Dice loss:" in err
    assert "Model:" in out
    model = str(tmp_path / "models" / "m_best.safetensors")
    output = tmp_path / "out put"
    images = str(study / "train" / "images")
    code, out, _ = call(
        capsys, "segment", images, "--model", model, "--output", str(output), "--json", "--formats", "png,npy"
    )
    assert code == 0
    assert len(json.loads(out)["cases"]) == 12
    code, out, _ = call(
        capsys,
        "evaluate",
        "--reference",
        str(study / "train" / "labels"),
        "--prediction",
        str(output),
        "--output",
        str(tmp_path / "scores.csv"),
    )
    assert code == 0
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert list(scores.columns[:10]) == [
        "case",
        "label",
        "roi",
        "dice",
        "hd95_mm",
        "surface_dice_1mm",
        "mean_surface_distance_mm",
        "volume_reference_ml",
        "volume_prediction_ml",
        "volume_difference_percent",
    ]
    assert scores["dice"].mean() > 0.8
    code, _, err = call(capsys, "segment", images, "--model", model, "--output", str(output))
    assert code == 1
    assert "holds results already" in err


@pytest.mark.real_data
def test_measure_gives_the_published_liver_volume(capsys, tmp_path: Path):
    """CHAOS set 3: slices lie 2.0 mm apart though they are 3.2 mm thick; 1417.49 ml."""
    data = real_data("chaos_ct_liver")
    code, _, _ = call(
        capsys,
        "measure",
        str(data / "labels"),
        "--images",
        str(data / "images"),
        "--output",
        str(tmp_path / "o"),
        "--labels",
        "liver",
    )
    assert code == 0
    volumes = pd.read_csv(tmp_path / "o" / "volumes.csv")
    assert volumes["volume_ml"].iloc[0] == pytest.approx(1417.49, abs=0.01)
    truth = pd.read_csv(data / "slices.csv").set_index("base")["gt_area_mm2"]
    measured = pd.read_csv(tmp_path / "o" / "measurements.csv")
    assert len(measured) == 78
    for _, row in measured.iterrows():
        assert row["area_mm2"] == pytest.approx(truth[Path(row["slice_file"]).stem], abs=0.01)
