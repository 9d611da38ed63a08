"""The Data check section in a real JupyterLab: errors stop Run All, and the buttons go on working."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from autoseg_lib.data.example_study import write_example_study
from tests.helpers.lab import running_lab
from tests.helpers.real_data import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def first_cells(folder, name, main_dir):
    """Writes a copy of train.ipynb that ends with the pre-visualization, for another data folder."""
    notebook = json.loads((REPOSITORY / "notebooks" / "train.ipynb").read_text(encoding="utf-8"))
    kept = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if source.startswith("## 6"):
            break
        if "settings" in cell["metadata"].get("tags", []):
            assert 'main_dir = ""' in source
            source = source.replace('main_dir = ""', f"main_dir = {str(main_dir)!r}")
        cell["source"] = source
        kept.append(cell)
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    text = json.dumps({**notebook, "cells": kept})
    (folder / "notebooks" / name).write_text(text, encoding="utf-8")
    return f"notebooks/{name}"


def change(path, table):
    Image.fromarray(np.asarray(table, np.uint8)[np.asarray(Image.open(path))]).save(path)


def checksums(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return tmp_path_factory.mktemp("lab") / "Étude du dos"


@pytest.fixture(scope="module")
def lab(checkout, tmp_path_factory):
    checkout.mkdir(parents=True)
    with running_lab(checkout, tmp_path_factory.mktemp("home")) as running:
        yield running


def run_until_stopped(lab, notebook):
    lab.open(notebook)
    lab.run_all()
    lab.wait_until_done(150)
    shown = "\n".join(lab.code_cells())
    assert "Traceback" not in shown
    assert [text.splitlines()[1:] for text in lab.errors(notebook)] == [
        ["Stopped here: solve the points marked ✖ above, then choose Run All again."]
    ]
    return shown


def test_codes_are_used_after_consent_and_the_cells_below_go_on(lab, checkout):
    study = write_example_study(checkout / "data" / "coded", scans=6)
    for label in (study.folder / "train" / "labels").rglob("*.png"):
        change(label, [0, 63, 126, 189, 0, 0, 0])
    notebook = first_cells(checkout, "coded.ipynb", study.folder)
    shown = run_until_stopped(lab, notebook)
    assert "the label files hold the values 0, 63, 126, 189" in shown
    assert "126 → ROI 2" in shown
    lab.keep_picture("check_codes")

    lab.click_button("Use these codes (label_map = {63: 1, 126: 2, 189: 3})")
    lab.wait_for_text("label_map = {63: 1, 126: 2, 189: 3} is used from here on", seconds=90)
    lab.wait_for_text("No problems found in")
    lab.run_cell("lab.preview(study)")
    lab.wait_for_text("FIRST BATCH SHAPES", seconds=90)

    # The agreement holds for this session: Run All goes through.
    lab.run_all()
    lab.wait_until_done(150)
    assert lab.errors(notebook) == []
    assert "label_map = {63: 1, 126: 2, 189: 3}, as agreed" in "\n".join(lab.code_cells())


def test_a_corrected_copy_is_made_after_the_cell_has_ended(lab, checkout):
    study = write_example_study(checkout / "data" / "faulty", scans=4)
    labels = study.folder / "train" / "labels"
    scan = sorted(labels.iterdir())[0]
    first, _, third = sorted(scan.glob("*.png"))[:3]
    first.rename(first.with_name(first.stem + "_label.png"))
    change(third, [0, 9, 9, 9, 9, 9, 9])
    before = checksums(study.folder)
    notebook = first_cells(checkout, "faulty.ipynb", study.folder)
    shown = run_until_stopped(lab, notebook)
    assert "looks like a match but its name differs" in shown
    assert "Fix offered: Rename 1 label file." in shown
    lab.keep_picture("check")

    page = checkout / "trained_model" / "faulty_check_report.html"
    assert page.is_file()
    address = lab.page.locator("a", has_text="Open the full report").first.get_attribute("href")
    assert "/files/trained_model/faulty_check_report.html" in address  # JupyterLab knows the file

    lab.click_button("Make a corrected copy")
    lab.wait_for_text("A corrected copy is in", seconds=90)
    copy = study.folder.with_name("faulty_corrected")
    assert (copy / "train" / "labels" / scan.name / first.name).is_file()
    lab.wait_for_text(f'main_dir = "{copy.as_posix()}"', "Your own files are as they were.")
    assert checksums(study.folder) == before
    lab.keep_picture("check_corrected")
