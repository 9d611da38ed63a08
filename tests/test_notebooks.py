"""What the notebook files hold: thin cells, a sentence above each, no stored outputs, every setting once."""

import ast
import dataclasses
import itertools
import json
import sys

import pytest

from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings, to_table
from autoseg_lib.widgets.cell import assigned_names
from tests.helpers.real_data import REPOSITORY

NAMES = ("train", "test")
KINDS = {"train": TrainSettings, "test": SegmentSettings}
MAIN = {
    "train": ["main_dir", "model_filename", "dimension", "labels_list", "input_shape", "epochs"],
    "test": ["model_filename", "input_dir", "labels_list", "input_shape", "fov", "matrix_size"],
}


def read_cells(name):
    notebook = json.loads((REPOSITORY / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return [
        {**cell, "source": "".join(cell["source"]), "tags": cell["metadata"].get("tags", [])}
        for cell in notebook["cells"]
    ]


def cell_with(name, tag):
    return next(cell["source"] for cell in read_cells(name) if tag in cell["tags"])


def run_cell(source):
    exec(compile(source, "cell", "exec"), {})  # noqa: S102 - the project's own notebook


def values_of(source):
    """name → value of the plain assignments of a cell."""
    values = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and not isinstance(statement.value, ast.Call):
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
    return values


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_stored(name):
    for cell in read_cells(name):
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_thin_and_explained(name):
    cells = read_cells(name)
    for above, cell in itertools.pairwise(cells):
        if cell["cell_type"] == "code":
            assert above["cell_type"] == "markdown", cell["source"]
            if "advanced" not in cell["tags"]:
                assert len(cell["source"].splitlines()) <= 10, cell["source"]


@pytest.mark.parametrize("name", NAMES)
def test_only_cells_that_nobody_needs_to_read_are_folded(name):
    folded = [
        cell["tags"] for cell in read_cells(name) if cell["metadata"].get("jupyter", {}).get("source_hidden")
    ]
    assert folded == [["colab"], ["imports"], ["advanced"]]


@pytest.mark.parametrize("name", NAMES)
def test_the_two_settings_cells_hold_every_setting_once_with_its_default(name):
    main, advanced = values_of(cell_with(name, "settings")), values_of(cell_with(name, "advanced"))
    assert list(main) == MAIN[name]
    fields = {field.name for field in dataclasses.fields(KINDS[name])}
    assert not set(main) & set(advanced)
    assert set(main) | set(advanced) == fields
    given, default = (to_table(make_settings(KINDS[name], values)) for values in ({**main, **advanced}, {}))
    assert given == default


@pytest.mark.parametrize("name", NAMES)
def test_every_advanced_setting_has_a_comment(name):
    for line in cell_with(name, "advanced").splitlines():
        if " = " in line and "lab." not in line:
            assert "#" in line, line


@pytest.mark.parametrize("name", NAMES)
def test_wrong_environment_is_said_in_a_sentence(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "autoseg_lib.notebook", None)
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "base")
    with pytest.raises(Exception, match="is not installed in the environment 'base'") as caught:
        run_cell(cell_with(name, "imports"))
    lines = caught.value._render_traceback_()
    assert len(lines) == 1
    assert "choose Kernel > Change Kernel > AutoSeg, or see README, 'Environment'" in lines[0]


@pytest.mark.parametrize("name", NAMES)
def test_colab_cell_does_nothing_elsewhere(name):
    run_cell(cell_with(name, "colab"))


def test_names_that_a_cell_assigns():
    source = "main_dir = 'x'\nepoch: int = 5\n_mine = 3\na, b = 1, 2\nsettings = lab.settings()\nrun = await lab.train(p)"
    assert assigned_names(source) == ["main_dir", "epoch"]
    assert assigned_names("x = = 1") == []
