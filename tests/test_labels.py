"""ROI names, colours and sides."""

import pytest

from autoseg_lib.errors import SettingsError
from autoseg_lib.labels import LabelTable, roi_color


def test_colours_are_okabe_ito_and_never_repeat_early():
    assert [roi_color(v) for v in (1, 2, 3)] == ["#E69F00", "#56B4E9", "#009E73"]
    assert len({roi_color(v) for v in range(1, 22)}) == 21


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["psoas left", "vertebra", "psoas right"], ((1, 3),)),
        (["Left psoas", "Right psoas"], ((1, 2),)),
        (["Parotid_L", "Parotid_R"], ((1, 2),)),
        (["PsoasLeft", "PsoasRight", "liver"], ((1, 2),)),
        (["kidney right", "kidney left"], ((1, 2),)),
        (["left psoas", "right kidney"], ()),
        (["LMF", "RMF"], ((1, 2),)),
        (["Lpsoas", "liver", "Rpsoas"], ((1, 3),)),
        (["lpsoas", "rpsoas"], ((1, 2),)),
        (["rein gauche", "rein droit"], ((1, 2),)),
        (["muslo izquierdo", "muslo derecho"], ((1, 2),)),
        (["MF sx", "MF dx"], ((1, 2),)),
        (["lung", "rung of ribs"], ()),
    ],
)
def test_partners_are_found_by_name(names, pairs):
    assert LabelTable(names).mirror_pairs == pairs


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["left psoas", "right psoas"], True),
        (["liver", "spleen"], True),
        (["left kidney"], False),
        (["left psoas", "right kidney"], False),
        (["LMF", "RMF"], True),
        (["MF 1", "MF 2"], False),
        (["MF-1", "MF-2", "liver"], False),
        (["anterior", "posterior"], True),
    ],
)
def test_sides_known(names, known):
    assert LabelTable(names).sides_known is known


def test_numbered_rois_say_nothing_about_sides():
    table = LabelTable.numbered(2)
    assert table.names == ("ROI 1", "ROI 2")
    assert not table.sides_known


def test_names_must_differ():
    with pytest.raises(SettingsError, match="'liver' is used twice"):
        LabelTable(["liver", "liver"])
