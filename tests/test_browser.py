"""Both notebooks in a real JupyterLab, driven by clicks in a headless Chromium."""

import csv
import json
import re
import shutil
import time

import pytest

from tests.helpers.lab import running_lab
from tests.helpers.real_data import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

TRAIN, TEST = "notebooks/train.ipynb", "notebooks/test.ipynb"
# Training the example takes 2 to 3 minutes on two cores; a computer that does other things needs longer.
TRAINING_SECONDS = 900


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder like a checkout, its name with spaces and accents; the notebooks are copies."""
    folder = tmp_path_factory.mktemp("lab") / "Étude du dos"
    (folder / "notebooks").mkdir(parents=True)
    for name in (TRAIN, TEST):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def lab(checkout, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "autoseg").mkdir()
    (home / "autoseg" / "last_folder.txt").write_text(str(checkout), encoding="utf-8")
    with running_lab(checkout, home) as running:
        yield running


def run_notebook(lab, notebook, seconds):
    """Opens, runs all cells and returns the code cells' texts, after making sure that none failed."""
    lab.open(notebook)
    lab.run_all()
    lab.wait_until_done(seconds)
    assert lab.errors(notebook) == []
    return lab.code_cells()


def edit(folder, name, replacements):
    """Writes a copy of train.ipynb with other settings and returns its path in the folder."""
    notebook = json.loads((REPOSITORY / TRAIN).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if "settings" in cell["metadata"].get("tags", []):
            for old, new in replacements.items():
                assert old in source
                source = source.replace(old, new)
        cell["source"] = source
    (folder / "notebooks" / name).write_text(json.dumps(notebook), encoding="utf-8")
    return f"notebooks/{name}"


def test_train_runs_unedited_and_a_second_time_shows_the_finished_run(lab, checkout):
    cells = run_notebook(lab, TRAIN, TRAINING_SECONDS)
    lab.keep_picture("train")
    best = checkout / "trained_model" / "example_best.safetensors"
    assert best.is_file()
    shown = "\n".join(cells)
    assert "No problems found in 90 pairs" in shown
    assert "FIRST BATCH SHAPES" in shown
    assert "Training is finished" in shown
    assert "Completed epochs" in shown
    assert "on patients the model has not seen" in shown
    assert 'model_filename = "example_best"' in shown

    written, started = best.stat().st_mtime_ns, time.monotonic()
    lab.run_all()
    lab.wait_until_done(300)
    assert lab.errors(TRAIN) == []
    assert "is shown, not trained again" in "\n".join(lab.code_cells())
    assert best.stat().st_mtime_ns == written
    assert time.monotonic() - started < 120


def test_test_runs_unedited_then_a_clicked_folder_goes_into_the_same_outputs(lab, checkout):
    cells = run_notebook(lab, TEST, 300)
    lab.keep_picture("test")
    shown = "\n".join(cells)
    assert "Nothing selected yet, so the example scan is used (lumbar_11)" in shown
    assert "1 scan segmented" in shown
    with (checkout / "predictions" / "lumbar_11" / "csa_results.csv").open(
        encoding="utf-8", newline=""
    ) as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["slice", *(f"slice number {n}" for n in range(1, 10)), "mean", "std"]
    assert rows[1][1] != ""
    prompts = lab.prompts()
    a_click_in_the_plot_shows_that_slice(lab)

    for name in ("data", "example", "test", "images", "lumbar_12"):
        lab.click_folder(name)
    lab.wait_for_text("MR scan", "138×204", "2.00 × 1.60")
    lab.click_button("Select this folder")
    lab.wait_for_text(
        "1 scan segmented from",
        "images/lumbar_12",
        "In-plane pixel spacing 2 × 1.6 mm",
        "predictions/lumbar_12",
        seconds=120,
    )
    assert lab.prompts() == prompts, "the cells are not run again; their outputs are filled again"
    assert (checkout / "predictions" / "lumbar_12" / "run_report.json").is_file()
    lab.keep_picture("test_selected")

    # The folder of the first run again: shown, not done again.
    lab.click_button("Up")
    lab.click_folder("lumbar_11")
    lab.click_button("Select this folder")
    lab.wait_for_text(
        "done before with this model, so shown and not done again", "predictions/lumbar_11", seconds=120
    )
    assert not (checkout / "predictions" / "lumbar_11_2").exists()

    # All cells once more: for what was selected, not for the example. lumbar_12 is none of both.
    lab.click_button("Up")
    lab.click_folder("lumbar_12")
    lab.click_button("Select this folder")
    lab.wait_for_text("done before with this model", "predictions/lumbar_12", seconds=120)
    lab.run_all()
    lab.wait_until_done(300)
    assert lab.errors(TEST) == []
    shown = "\n".join(lab.code_cells())
    assert "Selected: " in shown and "Nothing selected yet" not in shown
    assert "predictions/lumbar_12" in shown


def a_click_in_the_plot_shows_that_slice(lab):
    """Of nine slices: the right end of the axes is slice 9, their middle slice 5."""
    for share, number in ((0.99, 9), (0.5, 5)):
        axes = place_of_the_axes(lab)
        lab.page.mouse.click(axes["x"] + share * axes["width"], axes["y"] + 0.4 * axes["height"])
        lab.wait_for_text(f"Slice {number} of 9")
    axes = place_of_the_axes(lab)
    handle = lab.page.locator(".as-plot .noUi-handle").first.bounding_box()
    centre = handle["x"] + handle["width"] / 2
    assert abs(centre - (axes["x"] + axes["width"] * 4 / 8)) < 2, "the cursor stands where the slice is drawn"
    assert lab.page.locator(".as-plot img").first.bounding_box()["width"] == 600


def place_of_the_axes(lab):
    """Where the axes are once the page has come to rest: it moves while pictures are drawn."""
    before = None
    for _ in range(40):
        lab.page.locator(".as-plot .as-over").first.scroll_into_view_if_needed()
        lab.page.wait_for_timeout(500)
        axes = lab.page.locator(".as-plot .noUi-base").first.bounding_box()
        if axes == before:
            return axes
        before = axes
    raise AssertionError(f"the page does not come to rest: {axes}")


def test_stop_button_during_run_all_saves_and_the_cells_below_go_on(lab, checkout):
    notebook = edit(
        checkout,
        "stopped.ipynb",
        {
            'model_filename = "auto"': 'model_filename = "stopped"',
            'input_shape = "auto"': "input_shape = 64",
            'epochs = "auto"': "epochs = 500",
        },
    )
    lab.open(notebook)
    lab.run_all()
    lab.wait_for_text(re.compile(r"Epoch \(one pass over your data\) (?:[3-9]|\d\d+) of 500"), seconds=300)
    assert "[*]:" in lab.prompts()
    lab.keep_picture("training")
    lab.click_button("Stop and keep")
    lab.wait_until_done(120)
    assert lab.errors(notebook) == []
    shown = "\n".join(lab.code_cells())
    assert "Stopped and kept" in shown
    assert 'model_filename = "stopped_best"' in shown
    assert (checkout / "trained_model" / "stopped_best.safetensors").is_file()

    # The training cell alone goes on from there; Interrupt means the same as the button.
    lab.run_cell("lab.train(prepared)")
    lab.wait_for_text("Found a run at epoch", seconds=120)
    lab.wait_for_text("of 500 · about", seconds=120)
    lab.interrupt()
    lab.wait_until_done(120)
    assert lab.errors(notebook) == []
    assert "Stopped and kept" in "\n".join(lab.code_cells())


def test_mistakes_in_settings_are_named_and_stop_run_all_without_traceback(lab, checkout):
    notebook = edit(
        checkout, "mistake.ipynb", {"epochs = ": "epoch = ", 'dimension = "auto"': 'dimension = "4D"'}
    )
    lab.open(notebook)
    lab.run_all()
    lab.wait_until_done(120)
    shown = "\n".join(lab.code_cells())
    assert "`epoch` is not a setting; did you mean `epochs`?" in shown
    assert "dimension = '4D'" in shown
    assert "Traceback" not in shown
    assert [text.splitlines()[1:] for text in lab.errors(notebook)] == [
        ["Stopped here; the note above says why."]
    ]
