"""The notebook's widgets without a browser: what they say and how they react. Clicks are in test_browser.py."""

import asyncio
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from autoseg_lib.data.example_study import write_example_study
from autoseg_lib.errors import DataError
from autoseg_lib.events import Message
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement
from autoseg_lib.viz.figures import AXES_PX, PLOT_PX, area_plot_by_slice
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.widgets.area_plot import AreaPlot
from autoseg_lib.widgets.folder_picker import FolderPicker
from autoseg_lib.widgets.folder_view import look_into
from autoseg_lib.widgets.last_folder import last_folder, remember_folder
from autoseg_lib.widgets.live_run import flagged_slices
from autoseg_lib.widgets.measurements_view import how_measured_html, tables_html
from autoseg_lib.widgets.progress import time_text
from autoseg_lib.widgets.running import run_in_thread
from autoseg_lib.widgets.slice_browser import BrowserCase, LaterCase, SliceBrowser
from autoseg_lib.widgets.trouble import StoppedHere, plainly
from tests.helpers.folders import mixed_folder
from tests.helpers.made_runs import made_case as made_run


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSEG_HOME", str(tmp_path / "home"))


def plain(html):
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", str(html), flags=re.S))


# --- running ----------------------------------------------------------------------------------------------------------


class Recorder:
    """A View that writes down what it hears, and in which thread."""

    def __init__(self, at_event=lambda event: None):
        self.heard, self.threads, self.at_event = [], set(), at_event

    def begin(self, stop):
        self.heard.append("begin")
        self.stop = stop

    def show(self, event):
        self.heard.append(event.text)
        self.threads.add(threading.current_thread())
        self.at_event(event)

    def refresh(self):
        pass

    def stopping(self):
        self.heard.append("stopping")

    def end(self, error):
        self.heard.append(error)


def work_until_stopped(on_event, stop):
    for number in range(1000):
        on_event(Message(str(number)))
        if stop.is_set():
            return number
        time.sleep(0.01)
    return -1


def test_events_arrive_in_order_in_the_notebooks_own_thread():
    view = Recorder()

    def work(on_event, stop):
        for number in range(5):
            on_event(Message(str(number)))
        return "result"

    assert asyncio.run(run_in_thread(work, view)) == "result"
    assert view.heard == ["begin", "0", "1", "2", "3", "4", None]
    assert view.threads == {threading.current_thread()}


def test_a_button_stops_and_the_result_is_kept():
    view = Recorder(at_event=lambda event: view.stop.set())
    assert asyncio.run(run_in_thread(work_until_stopped, view)) > 0


def test_interrupting_the_cell_stops_and_keeps_the_result():
    view = Recorder()

    async def cell():
        running = asyncio.ensure_future(run_in_thread(work_until_stopped, view))
        await asyncio.sleep(0.4)
        running.cancel()  # what ipykernel does when Interrupt is pressed while a cell awaits
        return await running

    assert asyncio.run(cell()) > 0
    assert "stopping" in view.heard


def test_an_error_of_the_work_comes_out_of_the_cell():
    view = Recorder()

    def work(on_event, stop):
        raise DataError("'scan': broken. Export it again.")

    with pytest.raises(DataError, match="broken"):
        asyncio.run(run_in_thread(work, view))
    assert isinstance(view.heard[-1], DataError)


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_errors_become_a_note_and_one_line(capsys):
    @plainly
    def step(error):
        raise error

    for error in (DataError("label 'a.png': found 9. Correct it."), ZeroDivisionError("x")):
        with pytest.raises(StoppedHere) as caught:
            step(error)
        assert caught.value._render_traceback_() == ["Stopped here; the note above says why."]
        assert caught.value.__suppress_context__
    with pytest.raises(StoppedHere, match="Run this cell again to go on"):
        step(KeyboardInterrupt())


def test_async_steps_too():
    @plainly
    async def step():
        raise DataError("no")

    with pytest.raises(StoppedHere):
        asyncio.run(step())


# --- folder picker ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_example_study(tmp_path_factory.mktemp("Studie mit Ä") / "a b", scans=4)


def test_picker_walks_down_and_up_and_says_what_a_folder_holds(study):
    chosen = []
    picker = FolderPicker(lambda folder, series: chosen.append((folder, series)), study.folder)
    assert picker.folder_names == ["test", "train"]
    picker._list.value = str(study.folder / "train")
    picker._list.value = str(study.folder / "train" / "images")
    assert picker.folder_names == ["lumbar_01", "lumbar_02", "lumbar_03"]
    assert "This folder holds 3 scans" in plain(picker.info)
    assert "✔ 1 lumbar_01 MR scan 9 160×192 1.70 8.0 mm axial" in plain(picker.info)
    assert picker._boxes == []  # three folders with one series each: there is nothing to choose from
    picker.go_up()
    assert picker.folder == study.folder / "train"
    picker.open(study.folder / "train" / "images" / "lumbar_02")
    assert picker.folder_names == []
    picker.accept()
    assert chosen == [(study.folder / "train" / "images" / "lumbar_02", "auto")]
    assert last_folder() == chosen[0][0]


def test_typed_paths_may_be_quoted_and_wrong_ones_are_said(study):
    picker = FolderPicker(lambda folder, series: None, study.folder)
    picker._path.value = f'"{study.folder / "test"}"'
    assert picker.folder == study.folder / "test"
    picker._path.value = str(study.folder / "tset")
    assert picker.folder == study.folder / "test"
    assert "no such folder. Check the spelling" in plain(picker.info)


def test_series_of_a_folder_are_ticked_and_the_choice_is_handed_on(tmp_path):
    mixed_folder(tmp_path)
    chosen = []
    picker = FolderPicker(lambda folder, series: chosen.append(series), tmp_path / "scan")
    shown = plain(picker.info)
    assert "✔ 1 scan MR scan 4 10×12 0.90 4.0 mm axial" in shown
    assert "· 2 scan_2 MR localizer, left out 1 10×12 2.00 axial" in shown
    assert "Ticked series are segmented. At first these are all scans, no localizers." in shown
    assert [(box.description, box.value) for box, _, _ in picker._boxes] == [
        ("series 1: scan, scan, 4 slices", True),
        ("series 2: scan_2, localizer, 1 slice", False),
    ]
    picker.accept()
    picker._boxes[1][0].value = True
    picker.accept()
    picker._boxes[0][0].value = False
    picker.accept()
    picker._boxes[1][0].value = False  # nothing at all is no choice
    picker.accept()
    assert chosen == ["auto", [1, 2], [2], "auto"]

    given = FolderPicker(lambda folder, series: None, tmp_path / "scan", series=2)
    assert [box.value for box, _, _ in given._boxes] == [True, False]
    assert given.series == 2
    assert "✔ 2 scan_2 MR localizer" in plain(given.info)
    # Series that are not there are said, and nothing is offered.
    wrong = FolderPicker(lambda folder, series: None, tmp_path / "scan", series=7)
    assert "there is no series [7]" in plain(wrong.info) and wrong._boxes == []


def test_what_was_skipped_and_damaged_is_counted(tmp_path):
    text = plain(look_into(mixed_folder(tmp_path / "x"))[0])
    assert "2 other files skipped: 2 × not a DICOM file" in text
    assert "1 file looks damaged" in text


def test_folder_without_scans_and_names_with_markup(tmp_path):
    assert "No files in here" in plain(look_into(tmp_path)[0])
    (tmp_path / "<b>x").mkdir()
    (tmp_path / "<b>x" / "note.txt").write_text("x", encoding="utf-8")
    assert "<b>x" not in str(look_into(tmp_path)[0]).split("</style>")[-1]


def test_last_folder_that_is_gone_is_forgotten(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    remember_folder(gone)
    assert last_folder() == gone
    gone.rmdir()
    assert last_folder() != gone


# --- slice browser ----------------------------------------------------------------------------------------------------


def phantom():
    """3 slices; ROI 1 on the left half of the middle slice, ROI 2 on the right half of all."""
    array = np.zeros((3, 20, 20), np.uint8)
    array[1, 5:15, :10] = 1
    array[:, 5:15, 10:] = 2
    geometry = Geometry.from_spacing((3, 20, 20), (5, 1, 1), spacing_known=True)
    return BrowserCase(
        "a", Volume(np.full((3, 20, 20), 100, np.int16), geometry, "MR"), Mask(array, geometry)
    )


def test_browser_opens_where_most_rois_are_and_hides_rois():
    case, labels = phantom(), LabelTable(["left", "right"])
    assert case.first_slice == 1
    browser = SliceBrowser([case], labels)
    assert browser._slice.value == 2
    assert "Slice 2 of 3" in plain(browser._caption.value)
    both = bytes(browser.image.value)
    browser._toggles[0].value = False
    assert bytes(browser.image.value) != both
    left = case.draw(1, labels)[240, 100].tolist()
    hidden = case.draw(1, labels, hidden=[1])[240, 100].tolist()
    assert left != hidden and len(set(hidden)) == 1  # grey where the ROI is hidden
    assert "data:image/jpeg;base64" in browser.html


def test_browser_goes_from_a_long_scan_to_a_short_one():
    geometry = Geometry.from_spacing((9, 20, 20))
    long = BrowserCase("long", Volume(np.zeros((9, 20, 20), np.float32), geometry), None)
    browser = SliceBrowser([long, phantom()], LabelTable(["left", "right"]))
    browser._slice.value = 9
    browser._case.value = 1
    assert (browser._slice.max, browser._slice.value) == (3, 2)


def test_flags_lead_from_slice_to_slice_and_say_why():
    case = replace(phantom(), flagged={0: "left: wide", 2: "right: jumps"})
    browser = SliceBrowser([case], LabelTable(["left", "right"]))
    assert browser._slice.value == 2
    browser._next.click()
    assert browser._slice.value == 3
    assert "right: jumps" in plain(browser._caption.value) and "2 flagged" in plain(browser._caption.value)
    browser._next.click()
    assert browser._slice.value == 1 and "left: wide" in plain(browser._caption.value)
    assert browser._strip.value.count("<title>") == 2
    assert SliceBrowser([phantom()], LabelTable(["left", "right"]))._next.layout.display == "none"


def test_of_many_scans_one_is_read_at_a_time_and_one_that_is_gone_is_said():
    read = []

    def gone():
        raise DataError("'c': the files are gone.")

    def reader(name):
        return lambda: (read.append(name), replace(phantom(), name=name))[1]

    cases = [LaterCase("a", reader("a")), LaterCase("b", reader("b")), LaterCase("c", gone)]
    browser = SliceBrowser(cases, LabelTable(["left", "right"]))
    browser._slice.value = 1
    assert read == ["a"]
    browser._case.value = 1
    assert read == ["a", "b"] and browser.case.name == "b"
    browser._case.value = 2
    assert "the files are gone" in plain(browser._caption.value)
    assert browser._case.value == 1 and browser.case.name == "b"


def test_where_all_scans_are_gone_the_browser_says_so_and_stays():
    read, there = [], True

    def reader(name):
        def read_it():
            read.append(name)
            if not there:
                raise DataError(f"'{name}': the files are gone.")
            return replace(phantom(), name=name)

        return read_it

    browser = SliceBrowser([LaterCase(n, reader(n)) for n in "ab"], LabelTable(["left", "right"]))
    shown = bytes(browser.image.value)
    there = False
    browser._case.value = 1
    assert read == ["a", "b", "a"]  # each was tried once
    assert "the files are gone" in plain(browser._caption.value)
    assert browser._case.value == 0 and bytes(browser.image.value) == shown
    browser._slice.value = 1
    browser._next.click()
    assert "the files are gone" in plain(browser._caption.value)


def test_reasons_on_a_slice_name_their_rois_once():
    rows = [
        SliceMeasurement("a", 3, "", None, value, roi, 1, None, flag=flag)
        for value, roi, flag in ((1, "left", "wide; jumps"), (2, "right", "wide"), (3, "disc", ""))
    ]
    assert flagged_slices(rows) == {2: "left, right: wide; left: jumps"}


def test_the_plot_and_the_browser_follow_each_other():
    labels = LabelTable(["left psoas", "right psoas"])
    made = [made_run("a", 9), made_run("b", 4, flags={(2, 1): "wide"})]
    cases = [BrowserCase(case.name, *case.slices()) for case in made]
    browser = SliceBrowser(cases, labels)
    plot = AreaPlot([(case.name, case.measurements) for case in made], labels, browser)
    assert bytes(plot._plot.value).startswith(b"\x89PNG")
    plot._cursor.value = 7
    assert browser.shown == (0, 6) and "Slice 7 of 9" in plain(browser._caption.value)
    assert f"{made[0].measurements[12].area_mm2:.1f} mm²" in plain(plot._said.value)
    browser._slice.value = 9
    assert plot._cursor.value == 9
    whole = bytes(plot._plot.value)
    browser._toggles[0].value = False
    assert bytes(plot._plot.value) != whole  # an ROI that is switched off leaves the plot
    browser._toggles[0].value = True
    first = bytes(plot._plot.value)
    assert first == whole
    browser._case.value = 1  # a shorter one, opened where the browser opens it, not where the cursor ends
    assert plot._cursor.max == 4 and plot._cursor.value == browser._slice.value == cases[1].first_slice + 1
    assert bytes(plot._plot.value) != first and "flagged slices" in plain(plot._head.value)


def test_axes_lie_where_the_slider_over_them_is():
    rows = made_run("a", 5).measurements
    picture = cv2.imdecode(
        np.frombuffer(area_plot_by_slice(rows, LabelTable(["l", "r"])), np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert picture.shape[:2] == (PLOT_PX[1] * 2, PLOT_PX[0] * 2)
    left, top, width, height = (2 * value for value in AXES_PX)
    ink = picture[..., 3] > 100
    # The left and lower edges of the axes are drawn: a full column and a full row of ink.
    assert ink[top + 4 : top + height - 4, left - 2 : left + 3].all(axis=0).any()
    assert ink[top + height - 2 : top + height + 3, left + 4 : left + width - 4].all(axis=1).any()


def test_tables_tell_intervals_and_flags():
    case = made_run("a", 3, flags={(2, 1): "wide", (2, 2): "wide"})
    result = SimpleNamespace(
        cases=[
            SimpleNamespace(
                name="a", measurements=case.measurements, how_measured="By hand.", error_bars="No error bars."
            )
        ],
        measurements=tuple(case.measurements),
        volumes=[replace(row, flag="gap" if row.label == 1 else "") for row in case.volumes],
    )
    text = plain(tables_html(result))
    assert "left psoas, right psoas: wide" in text
    volume = case.volumes[0].volume_ml
    assert f"{volume * 0.9:.2f} to {volume * 1.1:.2f}" in text and "90 % interval" in text and "gap" in text
    said = plain(how_measured_html(result))
    assert "By hand." in said and "No error bars." in said


def test_durations_as_one_says_them():
    assert [time_text(s) for s in (0.2, 40, 89, 120, 3600, 7500)] == [
        "1 s",
        "40 s",
        "89 s",
        "2 min",
        "60 min",
        "2 h 05 min",
    ]
