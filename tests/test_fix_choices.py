"""The fixes to tick: files are named, many of one kind are one box, and what meets in a file stays apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg_lib.data.doctor.finding import Finding, Fix, FixAction
from autoseg_lib.widgets.fix_choices import fix_choices

LEAVE = "Leave out the image with its label"


def finding(text: str, *files: str, sure: bool = True, named: bool = True) -> Finding:
    action = FixAction("leave_out", tuple(Path("data", file) for file in files), {"reason": "damaged"})
    names = tuple(Path(file).name for file in files[:1]) if named else ()
    return Finding("error", "unreadable", "it cannot be read", names, (), Fix(text, (action,), sure))


def test_equal_fixes_are_one_choice_that_names_two_files() -> None:
    findings = [finding(LEAVE, f"p{number}.png", f"labels/p{number}.png") for number in reversed(range(8))]
    other = finding("Rename 1 label file", "P9.png")
    one, two = fix_choices([*findings[:5], other, *findings[5:], Finding("warning", "few", "few cases")])
    assert one.text == f"{LEAVE}, 8 times: 'p0.png', 'p1.png' and 6 more"
    assert one.findings == tuple(findings)
    assert two.text == "Rename 1 label file: 'P9.png'"
    assert two.findings == (other,)


def test_files_in_folders_of_scans_get_their_folder() -> None:
    (choice,) = fix_choices([finding(LEAVE, "scan_1/001.png"), finding(LEAVE, "scan_2/001.png")])
    assert choice.text == f"{LEAVE}, 2 times: 'scan_1/001.png', 'scan_2/001.png'"
    (choice,) = fix_choices([finding(LEAVE, "scan_1/001.png")])
    assert choice.text == f"{LEAVE}: 'scan_1/001.png'"
    (choice,) = fix_choices([finding(LEAVE, "labels/001.png")])
    assert choice.text == f"{LEAVE}: '001.png'"


def test_fixes_that_meet_in_a_file_stay_apart() -> None:
    choices = fix_choices(
        [finding(LEAVE, "a.png"), finding(LEAVE, "a.png", "b.png"), finding(LEAVE, "c.png")]
    )
    assert [len(choice.findings) for choice in choices] == [2, 1]


def test_what_rests_on_statistics_is_said() -> None:
    choices = fix_choices([finding("Flip 1 label", "a.png", sure=False), finding("Flip 1 label", "b.png")])
    assert [choice.text for choice in choices] == [
        "Flip 1 label: 'a.png' (please look at the result)",
        "Flip 1 label: 'b.png'",
    ]


def test_a_fix_that_names_its_file_does_not_name_it_twice() -> None:
    (choice,) = fix_choices([finding("Leave out 'a.png'", "a.png")])
    assert choice.text == "Leave out 'a.png'"
    (choice,) = fix_choices([finding("Leave out 1 label", "a.png", named=False)])
    assert choice.text == "Leave out 1 label: 'a.png'"


def test_the_data_check_shows_them_and_hands_on_every_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from autoseg_lib.widgets import data_check

    shown = []
    monkeypatch.setattr(data_check, "has_widgets", lambda: True)
    check = data_check.DataCheck(Path("models"), lambda study: None)
    monkeypatch.setattr(check._buttons, "show_widget", shown.append)
    findings = tuple(finding(LEAVE, f"p{number}.png") for number in range(3))
    others = tuple(finding(f"Rename label {number}", f"q{number}.png") for number in range(2))
    report = SimpleNamespace(fixable=(*findings, *others), findings=())
    check._show_buttons(SimpleNamespace(report=report))  # type: ignore[arg-type]
    boxes, buttons = shown[0].children
    assert [box.description.split(":")[0] for box in boxes.children] == [
        f"{LEAVE}, 3 times",
        "Rename label 0",
        "Rename label 1",
    ]
    assert (boxes.layout.max_height, boxes.layout.overflow) == ("420px", "auto")
    assert buttons.children[0].description == "Make a corrected copy (5 fixes)"
