"""Flags: each on a drawn mask with its message, none on clean ones; left and right in every orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from autoseg_lib.data.doctor.facts import RoiFacts
from autoseg_lib.geometry import Geometry
from autoseg_lib.labels import LabelTable
from autoseg_lib.measure.areas import SliceMeasurement, measure_slices
from autoseg_lib.measure.calibration import Calibration
from autoseg_lib.measure.flags import add_flags, scan_facts
from autoseg_lib.measure.scan_facts import ScanFacts, grey_numbers
from autoseg_lib.measure.training_facts import RoiRanges, TrainingFacts
from autoseg_lib.measure.volumes import VolumeMeasurement, measure_volumes
from autoseg_lib.volume import Mask, Volume, reorient
from autoseg_lib.workflow.training_facts import training_facts
from tests.helpers.made_facts import scan_facts as facts_of
from tests.helpers.phantoms import all_orientations, two_sided_body

ONE = LabelTable(["liver"])
SIDES = LabelTable(["left kidney", "right kidney", "spine"])
# As a training set might have it.
LIVER = RoiRanges(
    volume_ml=(0.5, 3.0),
    found_share=1.0,
    border_share=0.0,
    end_share=0.0,
    gap_share=0.0,
    step=0.5,
    shift_mm=2.0,
)
TRAINING = TrainingFacts(dimension="2D", modality="MR", scans=40, rois={"liver": LIVER})


@dataclass(frozen=True)
class Soft:
    likely: np.ndarray
    sure: np.ndarray


def discs(
    radii: Sequence[float],
    step_mm: float = 4.0,
    middle: Sequence[tuple[float, float]] | None = None,
    size: int = 48,
) -> Mask:
    """A disc on each slice, on pixels of 1 mm."""
    rows, columns = np.mgrid[:size, :size]
    array = np.zeros((len(radii), size, size), np.uint8)
    for k, radius in enumerate(radii):
        row, column = middle[k] if middle else (size / 2, size / 2)
        array[k][(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1
    geometry = Geometry.from_spacing(
        array.shape, (step_mm, 1.0, 1.0), spacing_known=True, positions_known=True, orientation_known=True
    )
    return Mask(array, geometry)


def flagged(
    mask: Mask,
    training: TrainingFacts = TRAINING,
    labels: LabelTable = ONE,
    soft: Soft | None = None,
    calibration: Calibration | None = None,
    scan: ScanFacts | None = None,
) -> tuple[list[SliceMeasurement], list[VolumeMeasurement], tuple[str, ...]]:
    rows, volumes = measure_slices(mask, labels, case="a"), measure_volumes(mask, labels, case="a")
    scan = scan or ScanFacts(mask.geometry, "MR")
    return add_flags(rows, volumes, scan, training, labels, soft, calibration)


def of_slices(mask: Mask, training: TrainingFacts = TRAINING) -> list[str]:
    return [row.flag for row in flagged(mask, training)[0]]


def liver(**changes: object) -> TrainingFacts:
    return replace(TRAINING, rois={"liver": replace(LIVER, **changes)})  # type: ignore[arg-type]


EGG = (0, 6, 7.5, 8, 7.5, 6, 0)


def test_clean_scans_have_no_flags() -> None:
    mask = discs(EGG)
    soft = Soft(
        *(np.round(np.array([[np.count_nonzero(p)] for p in mask.array]) * f).astype(int) for f in (1.1, 0.9))
    )
    rows, volumes, whole = flagged(mask, soft=soft)
    assert [row.flag for row in rows] == [""] * 7 and [row.flag for row in volumes] == [""] and whole == ()
    # Nothing is known of an old model's training: nothing is compared.
    rows, volumes, whole = flagged(mask, TrainingFacts.from_metadata({}))
    assert not any(row.flag for row in rows) and volumes[0].flag == "" and whole == ()


# --- slices -------------------------------------------------------------------------------------------------------------


def test_touching_the_edge() -> None:
    mask = discs(EGG, middle=[(24, 24)] * 3 + [(24, 7)] * 1 + [(24, 24)] * 3)
    text = "touches the edge of the image: a part of it may lie outside"
    assert of_slices(mask) == ["", "", "", text, "", "", ""]
    # Subcutaneous fat does so everywhere.
    assert of_slices(mask, liver(border_share=0.6)) == [""] * 7


def test_several_pieces() -> None:
    """A disc of 8 mm radius on slice 4, and one of 3 mm beside it."""
    mask = discs(EGG)
    second = discs((0, 0, 0, 3, 0, 0, 0), middle=[(40, 40)] * 7)
    both = mask.with_array(mask.array | second.array)
    pieces = [np.count_nonzero(each.array[3]) for each in (mask, second)]
    share = 100 * pieces[0] / sum(pieces)
    assert share < 90
    text = f"lies in 2 pieces, the largest holds {share:.0f} % of it; in the training scans it is one"
    assert of_slices(both, liver(pieces_share=0.0)) == ["", "", "", text, "", "", ""]
    # Bowel lies in loops; and of models that do not tell nothing is known.
    assert of_slices(both, liver(pieces_share=0.4)) == [""] * 7
    assert of_slices(both, liver(pieces_share=None)) == [""] * 7
    # A speck is no second piece.
    speck = discs((0, 0, 0, 1, 0, 0, 0), middle=[(40, 40)] * 7)
    assert of_slices(mask.with_array(mask.array | speck.array), liver(pieces_share=0.0)) == [""] * 7


def test_missing_between_slices_that_have_it() -> None:
    mask = discs((0, 6, 7, 0, 0, 6, 0))
    text = "missing here, but found on slices 3 and 6"
    assert of_slices(mask) == ["", "", "", text, text, "", ""]
    assert of_slices(mask, liver(gap_share=0.3)) == [""] * 7
    # Several images at one position: neighbours in time.
    cine = mask.with_array(mask.array, replace(mask.geometry, slice_positions_mm=(0.0,) * 7))
    assert of_slices(cine) == [""] * 7


def test_a_jump_marks_the_slice_that_fits_neither_neighbour() -> None:
    flags = of_slices(discs((5, 5, 5, 11, 5, 5, 5)))
    assert [bool(flag) for flag in flags] == [False, False, False, True, False, False, False]
    # Gauss's circle problem: 377 and 81 points lie within 11 and 5, of them 4 and 12 on the circle, which is left out.
    assert flags[3] == "implausible jump: 373.0 mm² here, 69.0 mm² on slice 3, 4.0 mm away"


def test_a_step_that_stays_marks_the_slice_after_it() -> None:
    flags = of_slices(discs((5, 5, 5, 11, 11, 11)))
    assert [bool(flag) for flag in flags] == [False, False, False, True, False, False]
    assert "69.0 mm² on slice 3" in flags[3]


def test_jumps_know_how_far_apart_slices_lie() -> None:
    """From radius 5 to 11: 6 mm on 4 mm are more than 1.5 × 0.5 mm per mm, on 9 mm they are less."""
    assert not any(of_slices(discs((5, 5, 11, 11), step_mm=9.0)))
    uneven = discs((5, 5, 11, 11))
    uneven = uneven.with_array(
        uneven.array, replace(uneven.geometry, slice_positions_mm=(0.0, 4.0, 13.0, 17.0))
    )
    assert not any(of_slices(uneven))
    assert not any(of_slices(discs((5, 5, 11, 11)), liver(step=None, shift_mm=None)))


def test_lying_somewhere_else() -> None:
    mask = discs((5, 5, 5, 5), middle=[(12, 12), (12, 12), (12, 12), (36, 36)])
    assert of_slices(mask) == ["", "", "", "lies 34 mm away from where it is on slice 3"]
    # 34 mm are within both radii and 1.5 × 17 mm.
    assert not any(of_slices(mask, liver(shift_mm=17.0)))


def test_a_wide_error_bar() -> None:
    """Softness (likely - sure) / (likely + sure): 40/200 = 0.2, 60/180 = 0.33; nothing was found on the last slice."""
    mask = discs((6, 6, 0))
    soft = Soft(np.array([[120], [120], [40]]), np.array([[80], [60], [0]]))
    flags = [row.flag for row in flagged(mask, soft=soft)[0]]
    assert flags == ["", "the error bar is wide: the model is unsure of the outline", ""]
    # The limit of the model's own calibration, and the bar itself.
    calibration = Calibration(reason="x", unsure_above=(0.15,))
    rows, volumes = measure_slices(mask, ONE, case="a"), measure_volumes(mask, ONE, case="a")
    rows = [replace(row, area_mm2_low=80.0, area_mm2_high=151.26) for row in rows]
    rows, _, _ = add_flags(rows, volumes, ScanFacts(mask.geometry, "MR"), TRAINING, ONE, soft, calibration)
    text = "the error bar is wide (80.0 to 151.3 mm²): the model is unsure of the outline"
    assert [row.flag for row in rows] == [text, text, ""]


def test_several_reasons_are_joined() -> None:
    mask = discs((6, 6, 6), middle=[(24, 24), (24, 5), (24, 24)])
    soft = Soft(np.full((3, 1), 200), np.array([[150], [50], [150]]))
    flag = flagged(mask, soft=soft)[0][1].flag
    assert flag.startswith("the error bar is wide") and "; touches the edge of the image" in flag


# --- left and right -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [False, True])
def test_left_and_right_in_every_orientation(swapped: bool) -> None:
    _, drawn = two_sided_body((5, 12, 16))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]  # slices to S, rows to P, columns to L
    body = Mask(drawn, Geometry(drawn.shape, affine))
    if swapped:
        body = body.with_array(np.array([0, 2, 1, 3], np.uint8)[drawn])
    text = "left and right may be swapped: 'left kidney' and 'right kidney' lie on each other's side"
    for grid in all_orientations(15.0):
        mask = reorient(body, grid.orientation_code)
        rows, volumes, whole = flagged(mask, TrainingFacts(), SIDES)
        assert whole == ((text,) if swapped else ()), grid.orientation_code
        assert [bool(row.flag) for row in volumes] == [swapped, swapped, False]
        both = {row.slice_number for row in rows if row.label == 1 and row.pixels}
        both &= {row.slice_number for row in rows if row.label == 2 and row.pixels}
        for row in rows:
            # On sagittal slices there is one side or the other.
            assert (text in row.flag) == (swapped and row.label < 3 and row.slice_number in both)


def test_sides_that_are_not_known_are_not_judged() -> None:
    _, drawn = two_sided_body((5, 12, 16))
    geometry = Geometry.from_spacing(
        drawn.shape, spacing_known=True, positions_known=True, orientation_known=False
    )
    mask = Mask(np.array([0, 2, 1, 3], np.uint8)[drawn], geometry)
    assert flagged(mask, TrainingFacts(), SIDES)[2] == ()
    known = mask.with_array(mask.array, replace(geometry, orientation_known=True))
    assert flagged(known, TrainingFacts(), LabelTable(["kidney A", "kidney B", "spine"]))[2] == ()
    assert len(flagged(known, TrainingFacts(), LabelTable(["LK", "RK", "spine"]))[2]) == 1


# --- one ROI of a scan --------------------------------------------------------------------------------------------------


def of_volume(mask: Mask, training: TrainingFacts = TRAINING) -> str:
    return flagged(mask, training)[1][0].flag


def test_volumes() -> None:
    # 4 mm × (109 + 177 + 193 + 177 + 109) pixels, about 3.1 ml.
    assert of_volume(discs(EGG), liver(volume_ml=(0.2, 2.0))).startswith("3.")
    assert "ml is unlike the training scans (0.20 to 2.00 ml)" in of_volume(
        discs(EGG), liver(volume_ml=(0.2, 2.0))
    )
    assert of_volume(discs(EGG), replace(liver(volume_ml=(0.2, 2.0)), scans=9)) == ""
    assert of_volume(discs((0, 0, 0))) == "not found, though the training scans have it"
    assert of_volume(discs((0, 0, 0)), liver(found_share=0.9)) == ""
    ends = "reaches the end of the scan (slice 1 and 7): a part of it may lie outside"
    assert of_volume(discs((5, 6, 7.5, 8, 7.5, 6, 5))) == ends
    assert of_volume(discs((5, 6, 7.5, 8, 7.5, 6, 5)), liver(end_share=0.5)) == ""
    assert of_volume(discs((5, 5, 5)), TrainingFacts()) == ""


def test_a_wide_error_bar_of_a_volume() -> None:
    mask = discs(EGG)
    rows, volumes = measure_slices(mask, ONE, case="a"), measure_volumes(mask, ONE, case="a")
    for low, high, text in ((1.5, 4.7, "the error bar is wide (1.50 to 4.70 ml)"), (2.0, 4.0, "")):
        bars = [replace(volumes[0], volume_ml_low=low, volume_ml_high=high)]
        assert add_flags(rows, bars, ScanFacts(mask.geometry, "MR"), TRAINING, ONE)[1][0].flag == text


# --- the scan as a whole ------------------------------------------------------------------------------------------------


def whole(
    training: TrainingFacts, geometry: Geometry | None = None, modality: str = "MR", **grey: float
) -> list[str]:
    mask = discs(EGG)
    if geometry is not None:
        mask = Mask(np.zeros(geometry.shape_zyx, np.uint8), geometry)
    return list(flagged(mask, training, scan=ScanFacts(mask.geometry, modality, grey))[2])


def test_another_modality() -> None:
    assert whole(TRAINING, modality="CT") == ["this is a CT scan, and the model was trained on MR"]
    assert whole(replace(TRAINING, modality="CT/MR"), modality="CT") == whole(TRAINING, modality="") == []


def test_another_plane() -> None:
    axial = replace(TRAINING, planes=("axial",))
    sagittal = discs(EGG).geometry.permuted((2, 1, 0))
    assert whole(axial, sagittal) == ["the slices are sagittal, and the model was trained on axial ones"]
    unknown = replace(discs(EGG).geometry, orientation_known=False)
    assert whole(axial, unknown) == [
        "the files do not tell how the patient lies; the training scans were axial"
    ]
    assert whole(axial) == whole(replace(axial, planes=("axial", "sagittal")), sagittal) == []
    # In 3D the axes are turned alike; only thick slices make another picture.
    cubes = replace(axial, dimension="3D", pixel_mm=(1.0, 4.0), slice_mm=(1.0, 4.0))
    assert whole(cubes, sagittal) == []
    thick = whole(replace(cubes, pixel_mm=(1.0, 1.0), slice_mm=(4.0, 4.0)), sagittal)
    assert "the slices are sagittal, and the model was trained on axial ones" in thick


def test_another_size() -> None:
    """The scan: 48 pixels of 1 mm, slices 4 mm apart."""
    assert whole(replace(TRAINING, field_mm=(300.0, 420.0))) == [
        "the image is 48 mm wide, and in the training scans it was 300 to 420 mm"
    ]
    assert (
        whole(replace(TRAINING, field_mm=(40.0, 60.0)))
        == whole(replace(TRAINING, field_mm=(60.0, 60.0)))
        == []
    )
    solid = replace(TRAINING, dimension="3D", pixel_mm=(0.4, 0.5), slice_mm=(4.0, 4.0))
    assert whole(solid) == ["the pixels are 1 mm wide, and in the training scans it was 0.4 to 0.5 mm"]
    solid = replace(solid, pixel_mm=(0.9, 1.0), slice_mm=(1.0, 1.0))
    assert whole(solid) == ["the slices lie 4 mm apart, and in the training scans it was 1 mm"]


def test_other_grey_values() -> None:
    mri = replace(TRAINING, grey={"middle": (0.3, 0.4), "inside": (0.6, 0.8)})
    assert whole(mri, middle=0.45, inside=0.7) == []
    assert whole(mri, middle=0.35, inside=0.2) == [
        "the ROIs are darker or brighter against the rest of the picture than in the training scans (0.20; there 0.60 to 0.80)"
    ]
    assert whole(replace(mri, scans=9), middle=0.35, inside=0.2) == []
    computed = replace(TRAINING, modality="CT", grey={"middle": (0.3, 0.4), "inside_level": (40.0, 60.0)})
    assert whole(computed, modality="CT", middle=0.9, inside_level=80.0) == []
    assert whole(computed, modality="CT", inside_level=180.0)[0].startswith(
        "the grey values of the ROIs are others"
    )


def test_grey_numbers_by_hand() -> None:
    assert grey_numbers([(0.0, 25.0, 100.0)] * 3, np.array([70.0, 80.0, 90.0, np.nan])) == {
        "middle": 0.25,
        "inside": 0.8,
        "inside_level": 80.0,
    }
    assert grey_numbers([(5.0, 5.0, 5.0)], None) == {}


def test_an_inverted_picture_is_noticed_and_a_brighter_one_is_not() -> None:
    """101 grey values 0 to 100 in equal shares; the ROI holds 80 and more."""
    plane = np.tile(np.arange(101.0), (101, 1))
    array = np.stack([plane] * 3)
    geometry = Geometry.from_spacing(
        array.shape, spacing_known=True, positions_known=True, orientation_known=True
    )
    mask = Mask((array >= 80).astype(np.uint8), geometry)
    scan = scan_facts(Volume(array, geometry, "MR"), mask)
    assert scan.grey["middle"] == pytest.approx(0.5) and scan.grey["inside"] == pytest.approx((90 - 5) / 90)
    training = replace(
        TRAINING,
        rois={},
        grey={name: (value, value) for name, value in scan.grey.items() if name != "inside_level"},
    )
    for changed, expected in ((array * 3.7 + 12, 0), (100 - array, 1)):
        facts = scan_facts(Volume(changed, geometry, "MR"), mask)
        assert len(flagged(mask, training, scan=facts)[2]) == expected


# --- what the model file tells ------------------------------------------------------------------------------------------


def test_training_facts_by_hand_and_back() -> None:
    """Boxes of 4 × 4 pixels of 0.5 mm on slices 2 to 4 of 6, 3 mm apart: 4 mm² × 9 mm; in one scan of twelve it is missing."""
    known = [
        facts_of(f"scan {k}", (6, 20, 30), (3.0, 0.5, 0.5), {1: (1, 5, 5 + k, 4, 9, 9 + k)} if k else None)
        for k in range(12)
    ]
    known = [replace(one, geometry=replace(one.geometry, orientation_known=True)) for one in known]
    table = training_facts(known, ONE)
    assert (table["pixel_mm"], table["slice_mm"], table["field_mm"]) == ([0.5, 0.5], [3.0, 3.0], [15.0, 15.0])
    assert table["planes"] == ["axial"]
    roi = table["rois"]["liver"]
    assert roi["volume_ml"] == [0.036, 0.036] and roi["found_share"] == pytest.approx(11 / 12, abs=1e-4)
    assert (roi["border_share"], roi["end_share"], roi["gap_share"]) == (0.0, 0.0, 0.0)
    assert roi["pieces_share"] == 0.0
    # Eleven scans with two steps each are too few to say how large a step may be.
    assert "step" not in roi
    facts = TrainingFacts.from_metadata(
        {"data": {"modality": "MR", "scans": 12, "facts": table}, "preprocessing": {"dimension": "2D"}}
    )
    assert facts.pixel_mm == (0.5, 0.5) and facts.planes == ("axial",) and facts.scans == 12
    assert facts.rois["liver"].volume_ml == (0.036, 0.036)
    assert "scan 3" not in str(table)


def test_steps_of_the_training_scans() -> None:
    """Boxes of 4 × 4 and 8 × 8 pixels of 1 mm, 2 mm apart: radii 2.257 and 4.514 mm; the middle moves 2 rows and 2 columns."""
    scans = [facts_of(f"scan {k}", (4, 20, 20), (2.0, 1.0, 1.0), {1: (0, 5, 5, 4, 9, 9)}) for k in range(15)]
    larger = RoiFacts(64, (5, 5, 13, 13), False)
    odd = scans[3].slices
    scans[3] = replace(scans[3], slices=(*odd[:2], replace(odd[2], rois={1: larger}), odd[3]))
    roi = training_facts(scans, ONE)["rois"]["liver"]
    assert roi["step"] == pytest.approx(2.2568 / 2, abs=1e-3)
    assert roi["shift_mm"] == pytest.approx(np.hypot(2, 2), abs=1e-3)
    assert roi["end_share"] == 1.0


def test_share_of_training_slices_in_several_pieces() -> None:
    """16 of 20 pixels in the largest part are a second piece, 19 are a speck beside it."""
    scans = [facts_of(f"scan {k}", (4, 20, 20), (2.0, 1.0, 1.0), {1: (0, 5, 5, 4, 9, 9)}) for k in range(2)]
    slices = scans[0].slices
    split, speck = (RoiFacts(20, (5, 5, 13, 13), False, largest_part=part / 20) for part in (16, 19))
    changed = (replace(slices[0], rois={1: split}), replace(slices[1], rois={1: speck}), *slices[2:])
    scans[0] = replace(scans[0], slices=changed)
    assert training_facts(scans, ONE)["rois"]["liver"]["pieces_share"] == 1 / 8


@pytest.mark.parametrize(
    "damage", [{"data": []}, {"data": {"facts": {"pixel_mm": [2, 1], "rois": {"a": 3}, "grey": None}}}]
)
def test_what_a_file_does_not_tell_is_left_out(damage: dict[str, object]) -> None:
    facts = TrainingFacts.from_metadata(damage)
    assert facts.pixel_mm is None and not facts.grey
    assert all(roi == RoiRanges() for roi in facts.rois.values())
