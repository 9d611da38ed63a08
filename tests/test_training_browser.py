"""Training in a real JupyterLab: more epochs while it trains and after the end, a restarted kernel, the history without training."""

import json
import time

import pytest

from tests.helpers.lab import running_lab
from tests.helpers.real_data import REPOSITORY
from tests.helpers.studies import write_png_study

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

# A computer that does other things at the same time needs long for what takes seconds.
SECONDS = 900


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab") / "Étude courte"
    write_png_study(folder / "data", patients=3, slices=2)
    (folder / "notebooks").mkdir(parents=True)
    with running_lab(folder, tmp_path_factory.mktemp("home")) as running:
        yield running


def write_notebook(lab, name, epochs):
    """A copy of train.ipynb that trains a small network on the small study, with a cell that shows the history."""
    notebook = json.loads((REPOSITORY / "notebooks" / "train.ipynb").read_text(encoding="utf-8"))
    settings = {
        'main_dir = ""': 'main_dir = "../data"',
        'model_filename = "auto"': f'model_filename = "{name}"',
        'input_shape = "auto"': "input_shape = 64",
        '\nepochs = "auto"': f"\nepochs = {epochs}",
        "patient_pattern = None": r'patient_pattern = r"p\d+"',
        'print_checkpoint = "auto"': "print_checkpoint = 1",
        "spacing_mm = \"auto\"": "spacing_mm = 1.5",
    }  # fmt: skip
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for old, new in settings.items():
            source = source.replace(old, new)
        cell["source"] = source
    cell = {"cell_type": "code", "execution_count": None, "id": "look", "metadata": {}, "outputs": []}
    notebook["cells"].append({**cell, "source": f'import autoseg_lib.notebook as lab\nlab.history("{name}")'})
    path = f"notebooks/{name}.ipynb"
    (lab.folder / path).write_text(json.dumps(notebook), encoding="utf-8")
    return path


def restart_kernel(lab):
    lab.menu("Kernel", "Restart Kernel…")
    lab.page.wait_for_selector(".jp-Dialog button.jp-mod-warn", timeout=20_000)
    lab.page.locator(".jp-Dialog button.jp-mod-warn").first.click()
    lab.page.wait_for_selector(".jp-StatusBar-TextItem:has-text('| Idle')", timeout=120_000)


def wait_for_file(path, after):
    """Waits until a file was written after a moment."""
    for _ in range(4 * SECONDS):
        if path.is_file() and path.stat().st_mtime > after:
            return
        time.sleep(0.25)
    raise AssertionError(f"{path.name} was not written")


def test_more_epochs_while_training_a_restart_and_run_all_goes_on(lab):
    notebook = write_notebook(lab, "long", 3000)
    lab.open(notebook)
    lab.run_all()
    lab.wait_for_text("of 3000", "images per second", "GB used", seconds=SECONDS)
    lab.click_button("Ten more epochs")
    lab.wait_for_text("of 3010", seconds=SECONDS)
    lab.keep_picture("training_more")
    # A kernel that is restarted in the middle loses at most what was not saved yet.
    lab.wait_for_text("/3010 | Dice loss", seconds=SECONDS)
    wait_for_file(lab.folder / "trained_model" / "long_last.ckpt", time.time())
    restart_kernel(lab)

    # The history is to be read without training: only its own cell is run.
    lab.run_cell('lab.history("long")')
    lab.wait_for_text("Run 'long':", "Mean Dice on validation scans", seconds=SECONDS)
    before = (lab.folder / "trained_model" / "long_last.ckpt").stat().st_mtime
    lab.wait_until_done(SECONDS)

    lab.run_all()
    lab.wait_for_text(
        "Found a run at epoch", ": continuing", "of 3010 · about", "images per second", seconds=SECONDS
    )
    lab.click_button("Stop and keep")
    lab.wait_until_done(SECONDS)
    assert lab.errors(notebook) == []
    shown = "\n".join(lab.code_cells())
    assert "Stopped and kept" in shown
    assert 'model_filename = "long_best"' in shown
    assert (lab.folder / "trained_model" / "long_last.ckpt").stat().st_mtime > before


def test_ten_more_epochs_after_the_end_fill_the_cells_below_again(lab):
    notebook = write_notebook(lab, "short", 2)
    lab.open(notebook)
    lab.run_all()
    lab.wait_until_done(SECONDS)
    assert lab.errors(notebook) == []
    assert "was trained for 2 epochs" in "\n".join(lab.code_cells())
    prompts = lab.prompts()
    clicked = time.time()
    lab.click_button("Ten more epochs")
    wait_for_file(lab.folder / "trained_model" / "short_report.json", clicked)
    lab.wait_for_text("was trained for 12 epochs", seconds=SECONDS)
    assert lab.prompts() == prompts, "no cell is run again; their outputs are filled again"
    history = (lab.folder / "trained_model" / "short_history.csv").read_text(encoding="utf-8")
    assert [line.split(",")[0] for line in history.splitlines()[1:]] == [str(n) for n in range(1, 13)]
    lab.run_cell("lab.next_steps(run)")
    lab.wait_until_done(SECONDS)
    lab.wait_for_text("was trained for 12 epochs")
    assert lab.errors(notebook) == []
