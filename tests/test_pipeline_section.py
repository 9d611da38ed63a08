"""The section on what is done before the network: there and back, what it refuses, how it is edited and described."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autoseg_lib.errors import DataError, GeometryError, ModelError, SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.preprocess.body import body_mask, threshold_of
from autoseg_lib.preprocess.crop import CROP
from autoseg_lib.preprocess.filters.table import FILTERS
from autoseg_lib.preprocess.operations import check_table
from autoseg_lib.preprocess.pipeline import Preprocessing, lay_back
from autoseg_lib.preprocess.schema import check_section, section_keys
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.pipeline_editing import edit_pipeline, is_pipeline_key, pipeline_of
from autoseg_lib.workflow.pipeline_page import pipeline_page
from tests.helpers.phantoms import all_orientations
from tests.helpers.real_data import REPOSITORY

KNOWN = {"spacing_known": True, "positions_known": True, "orientation_known": True}
PLAIN_2D = {"dimension": "2D", "intensity": {"kind": "zscore"}, "input_shape": [24, 24]}
PLAIN_3D = {"dimension": "3D", "intensity": {"kind": "zscore"}}


def pipeline(plain: dict[str, Any], **keys: Any) -> Preprocessing:
    return Preprocessing.from_dict({**plain, **keys})


def some_scan(grid: Geometry) -> tuple[Volume, Mask]:
    """A bright body in dark air, off centre, and labels everywhere."""
    random = np.random.default_rng(1)
    pixels = random.normal(0, 0.1, grid.shape_zyx).astype(np.float32)
    pixels[1:-1, 2:-1, 1:-3] += 10
    labels = random.integers(0, 4, grid.shape_zyx).astype(np.uint8)
    return Volume(pixels, grid, "MR"), Mask(labels, grid)


def there_and_back(steps: Preprocessing, volume: Volume, mask: Mask) -> tuple[np.ndarray, np.ndarray]:
    """The mask after the way to the network's grid and back; and where it may have been kept."""
    part, box = steps.start(volume)
    own = mask if box is None else mask.cut(box)
    on_grid = steps.prepare_mask(own)
    image, grid = steps.prepare_channels(part)
    assert image.shape[1:] == on_grid.array.shape and grid.is_same_grid(on_grid.geometry)
    answer = np.stack([on_grid.array == value for value in range(4)]).astype(np.float32)
    found = lay_back(steps.restore(answer, part.geometry), box, mask.array.shape)
    inside = np.zeros(mask.array.shape, bool)
    inside[box or ...] = True
    return found, inside


CROPS: list[dict[str, Any] | None] = [
    None,
    {"to": "body"},
    {"to": "body", "margin_mm": 1.3},
    {"to": "centre", "size_mm": [0, 4, 5]},
    {"slices": [2, 3]},
]


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_every_orientation_comes_back_exactly(degrees: float, crop: dict[str, Any] | None) -> None:
    """48 orientations, voxels of 4 x 0.75 x 1.25 mm: inside the crop each label is where it was, outside is background."""
    pad = {"margin_mm": 3.0, "fill": "edge"}
    variants = [
        pipeline(PLAIN_3D, crop=crop, pad=pad),
        pipeline(PLAIN_3D, crop=crop, orientation="ARI"),
        pipeline(PLAIN_3D, crop=crop, orientation="own", resampling="nearest"),
        pipeline(PLAIN_2D, crop=crop, resize="own", pad=pad),
        pipeline(PLAIN_2D, crop=crop, resize="own", orientation="own"),
    ]
    for grid in all_orientations(degrees):
        volume, mask = some_scan(grid)
        for steps in variants:
            found, inside = there_and_back(steps, volume, mask)
            np.testing.assert_array_equal(found, np.where(inside, mask.array, 0))
            assert inside.all() == (steps.crop_box(volume) is None)


@pytest.mark.parametrize("keys", [{"resize": "fit"}, {"resize": "stretch"}, {"pad": {"margin_mm": 4.0}}])
def test_scaled_slices_come_back_nearly(keys: dict[str, Any]) -> None:
    """Finer pixels than the scan's own: blocks of labels come back but for none of their pixels."""
    for grid in all_orientations(20.0)[::5]:
        volume, _ = some_scan(grid)
        blocks = np.zeros(grid.shape_zyx, np.uint8)
        blocks[:, 2:5, 2:6] = 1
        steps = pipeline({**PLAIN_2D, "input_shape": [96, 96]}, crop={"to": "body", "margin_mm": 1.3}, **keys)
        found, inside = there_and_back(steps, volume, Mask(blocks, grid))
        np.testing.assert_array_equal(found, np.where(inside, blocks, 0))


def test_stretching_fills_both_sides() -> None:
    grid = Geometry.from_spacing((1, 30, 60), (5, 1, 1), **KNOWN)
    network = pipeline(PLAIN_2D, resize="stretch").network_geometry(grid)
    assert network.spacing_zyx_mm == pytest.approx((5, 30 / 24, 60 / 24))
    assert pipeline(PLAIN_2D).network_geometry(grid).spacing_zyx_mm == pytest.approx((5, 2.5, 2.5))
    with pytest.raises(
        GeometryError, match=r"the slices have 30 × 60 pixels, and the network takes 24 × 24. Crop them"
    ):
        pipeline(PLAIN_2D, resize="own").network_geometry(grid)


@pytest.mark.parametrize("order", ["nearest", "linear", "cubic", "sinc"])
def test_resampling_methods_against_the_formula(order: str) -> None:
    """A wave of 20 mm put onto pixels of 0.8 mm: each method's largest error is within its own bound."""
    k = 2 * np.pi / 20
    # Half a pixel along the slope; the textbook bound h²/8 of the second derivative, for each of two axes; the B-spline's error
    # falls with the fourth power of kh, the windowed sinc keeps its ripple.
    bound = {"nearest": 0.17, "linear": 2 * k**2 / 8, "cubic": 1.5e-4, "sinc": 6e-3}[order]
    grid = Geometry.from_spacing((3, 60, 60), (5, 1, 1), **KNOWN)
    _, y, x = np.indices(grid.shape_zyx)
    wave = np.sin(2 * np.pi * x / 20) * np.cos(2 * np.pi * y / 20)
    window = {"kind": "window", "low": -2, "high": 2, "mean": 0.0, "deviation": 1.0}
    shape = [75, 75]
    found, target = pipeline(
        {**PLAIN_2D, "intensity": window, "input_shape": shape}, resampling=order
    ).prepare_channels(Volume(wave.astype(np.float32), grid))
    _, y, x = np.moveaxis(
        grid.point_to_index(target.index_to_point(np.stack(np.indices(target.shape_zyx), -1))), -1, 0
    )
    expected = np.sin(2 * np.pi * x / 20) * np.cos(2 * np.pi * y / 20)
    inner = (slice(None), slice(8, -8), slice(8, -8))
    error = np.abs(found[0] - expected)[inner].max()
    assert bound / 4 < error < bound
    solid, _ = pipeline(
        {**PLAIN_3D, "intensity": window}, resampling=order, spacing_zyx_mm=[2.5, 0.8, 0.8]
    ).prepare_channels(Volume(wave.astype(np.float32), grid))
    assert np.isfinite(solid).all() and np.abs(solid).max() < 1.1  # three slices are enough for a spline, too


def test_nearest_invents_no_grey_value() -> None:
    grid = Geometry.from_spacing((2, 10, 10), (5, 1, 1), **KNOWN)
    pixels = np.random.default_rng(0).integers(0, 5, grid.shape_zyx).astype(np.float32)
    window = {"kind": "window", "low": -10, "high": 10, "mean": 0.0, "deviation": 1.0}
    found, _ = pipeline({**PLAIN_2D, "intensity": window}, resampling="nearest").prepare_channels(
        Volume(pixels, grid)
    )
    assert set(np.unique(found)) <= {0, 1, 2, 3, 4}


# --- the body -----------------------------------------------------------------------------------------------------------


def test_the_body_is_without_holes_and_small_things() -> None:
    pixels = np.full((3, 12, 14), -1000, np.int16)
    pixels[:, 2:9, 3:11] = 40  # the body: 7 rows, 8 columns
    pixels[1, 4:6, 5:8] = -800  # a lung, closed in its slice
    pixels[:, 10, 0:2] = 60  # the table, apart, less than a tenth
    pixels[2, 0, 13] = 500
    grid = Geometry.from_spacing((3, 12, 14), (3, 1, 1), **KNOWN)
    expected = np.zeros(pixels.shape, bool)
    expected[:, 2:9, 3:11] = True
    for planes in (True, False):
        np.testing.assert_array_equal(body_mask(Volume(pixels, grid, "CT"), planes=planes), expected)
    # 2D looks at each slice by itself: without the body on the last slice, the largest thing there is the table.
    alone = pixels.copy()
    alone[2] = -1000
    alone[2, 10, 0:2] = 60
    assert body_mask(Volume(alone, grid, "CT"), planes=True)[2, 10, :2].all()
    assert not body_mask(Volume(alone, grid, "CT"), planes=False)[2].any()


def test_both_legs_are_body() -> None:
    rows, columns = np.mgrid[:40, :80]
    left = (rows - 20) ** 2 + (columns - 20) ** 2 <= 15**2
    right = (rows - 20) ** 2 + (columns - 60) ** 2 <= 12**2
    cable = (rows < 3) & (columns < 3)
    pixels = np.full((3, 40, 80), -1000, np.int16)
    pixels[:, left | right | cable] = 40
    pixels[1, 20, 60] = -900  # closed in its slice, in the smaller leg
    grid = Geometry.from_spacing(pixels.shape, (3, 1, 1), **KNOWN)
    volume = Volume(pixels, grid, "CT")
    for planes in (True, False):
        found = body_mask(volume, planes=planes)
        np.testing.assert_array_equal(found, np.broadcast_to(left | right, found.shape))
    box = pipeline(PLAIN_2D, crop={"to": "body"}).crop_box(volume)
    assert box is not None and (box[2].start, box[2].stop) == (5, 73)


def test_thresholds() -> None:
    two = np.r_[np.full(700, 10.0), np.full(300, 200.0)].astype(np.float32)
    assert 10 < threshold_of(two, "MR") < 200 and threshold_of(two, "CT") == -500
    skimage = pytest.importorskip("skimage.filters")
    random = np.random.default_rng(0)
    mixed = np.r_[random.normal(50, 12, 6000), random.normal(200, 30, 4000)].astype(np.float32)
    assert threshold_of(mixed, "MR") == pytest.approx(skimage.threshold_otsu(mixed), abs=2.0)
    constant = Volume(np.ones((2, 3, 3), np.float32), Geometry.from_spacing((2, 3, 3)))
    assert not body_mask(constant, planes=True).any()
    assert pipeline(PLAIN_2D, crop={"to": "body"}).crop_box(constant) is None, "no body found: the whole scan"


def test_crop_boxes_by_hand() -> None:
    grid = Geometry.from_spacing((10, 40, 50), (5, 2, 1), **KNOWN)
    pixels = np.zeros(grid.shape_zyx, np.float32)
    pixels[3:7, 10:20, 25:30] = 1
    volume, region = Volume(pixels, grid), Mask(pixels.astype(np.uint8), grid)

    def box(region: Mask | None = None, **crop: Any) -> Any:
        found = pipeline(PLAIN_3D, crop=crop).crop_box(volume, region)
        return found and [(part.start, part.stop) for part in found]

    assert box(to="body") == [(3, 7), (10, 20), (25, 30)]
    # 6 mm: 2 slices of 5 mm, 3 rows of 2 mm, 6 columns of 1 mm on each side.
    assert box(to="body", margin_mm=6) == [(1, 9), (7, 23), (19, 36)]
    assert box(to="mask", region=region, margin_mm=1) == [(2, 8), (9, 21), (24, 31)]
    assert box(to="body", slices=[5, 6]) == [(4, 6), (10, 20), (25, 30)]
    assert box(slices=[1, 99]) is None and box(slices=[9, 99]) == [(8, 10), (0, 40), (0, 50)]
    assert box(to="centre", size_mm=[20, 40, 0]) == [(3, 7), (10, 30), (0, 50)]
    # x runs along columns (1 mm), y along rows (2 mm), z along slices (5 mm), all from 0.
    assert box(to="box", box_xyz_mm=[10, 20, 20, 39, 5, 15]) == [(1, 4), (10, 20), (10, 21)]
    uneven = replace(grid, slice_positions_mm=(0, 1, 2, 3, 10, 11, 12, 13, 14, 30))
    # Slices within 6 mm of the body's (at 3 to 12 mm): all but the last.
    found = pipeline(PLAIN_2D, crop={"to": "body", "margin_mm": 6}).crop_box(Volume(pixels, uneven))
    assert found is not None and (found[0].start, found[0].stop) == (0, 9)


def test_crops_that_cannot_be() -> None:
    grid = Geometry.from_spacing((4, 8, 8), (5, 1, 1), **KNOWN)
    volume = Volume(np.zeros(grid.shape_zyx, np.float32), grid)
    with pytest.raises(DataError, match='to = "mask" needs a mask that comes with the scan'):
        pipeline(PLAIN_2D, crop={"to": "mask"}).start(volume)
    with pytest.raises(DataError, match="the mask to crop to is empty"):
        pipeline(PLAIN_2D, crop={"to": "mask"}).start(volume, Mask(np.zeros(grid.shape_zyx, np.uint8), grid))
    with pytest.raises(DataError, match=r"slices = \[7, 9\], and the scan has 4"):
        pipeline(PLAIN_2D, crop={"slices": [7, 9]}).start(volume)
    with pytest.raises(GeometryError, match="nothing of the scan is left"):
        pipeline(PLAIN_2D, crop={"to": "box", "box_xyz_mm": [500, 600, 0, 1, 0, 1]}).start(volume)
    blind = Volume(volume.array, Geometry.from_spacing((4, 8, 8)))
    with pytest.raises(GeometryError, match="given in mm, and the scan has no pixel spacing"):
        pipeline(PLAIN_2D, crop={"to": "centre", "size_mm": [0, 4, 4]}).start(blind)


def test_orientations_that_cannot_be() -> None:
    axial = Geometry.from_spacing((4, 8, 8), (5, 1, 1), **KNOWN)
    with pytest.raises(
        GeometryError, match=r'is for sagittal slices; these are axial. Set slice_axis = "sagittal"'
    ):
        pipeline(PLAIN_2D, orientation="RIP").network_geometry(axial)
    with pytest.raises(GeometryError, match="do not say how the scan lies in the patient"):
        pipeline(PLAIN_3D, orientation="SPL").network_geometry(replace(axial, orientation_known=False))
    # In 2D the slices keep their order, rows and columns turn.
    assert pipeline(PLAIN_2D, orientation="IAR").network_geometry(axial).orientation_code == "SAR"


# --- the schema ---------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once() -> None:
    table = {
        "dimension": "2D",
        "intensity": {"kind": "windo", "low": "x"},
        "input_shape": [24],
        "orientaton": "SPL",
        "resampling": "bicubic",
        "crop": {"to": "body", "margin_mm": -3, "treshold": 4},
        "channels": [
            {"image": 0},
            {"filter": {"filter": "lgo"}},
            {"filter": {"filter": "log", "sigma_mm": 0}},
        ],
        "steps": [{"step": "python", "code": "print()"}],
        "pad": [],
    }
    with pytest.raises(ModelError) as told:
        Preprocessing.from_dict(table)
    text = str(told.value)
    for part in (
        "the key 'orientaton' is not known; did you mean 'orientation'",
        'did you mean "cubic"',
        "input_shape = [24]: expected a list of 2 whole numbers",
        'kind = "windo"',
        'low = "x": expected a number',
        "the key 'treshold' is not known; did you mean 'threshold'",
        "margin_mm = -3: expected a number from 0 to 1000 (mm)",
        "channel 2, filter: the filter 'lgo' is not known; did you mean 'log'",
        "channel 3, filter: sigma_mm = 0: expected a number above 0 and at most 100 (mm)",
        "the step 'python' is not known",
        "pad = []: expected a table, or null",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crop": {"to": "centre"}}, 'to = "centre" and size_mm go together'),
        ({"crop": {"slices": [5, 2]}}, "the first comes after the last"),
        ({"crop": {"to": "box", "box_xyz_mm": [5, 2, 0, 1, 0, 1]}}, 'each "from" must be below its "to"'),
        ({"input_shape": None}, "2D needs an input_shape"),
        ({"dimension": "3D", "neighbours": 1}, "neighbours is for 2D"),
        ({"intensity": {"kind": "window", "low": 5, "high": 1}}, "intensity"),
        (
            {"intensity": {"kind": "percentile", "low": -160, "high": 240}},
            r'takes percentiles from 0 to 100, found low = -160 and high = 240. For grey values set kind = "window"',
        ),
        (
            {"channels": [{"filter": {"filter": "gabor", "angles": []}}]},
            r"channel 1, filter \(gabor\): angles = \[\]: at least one direction is expected",
        ),
        (
            {"channels": [{"filter": {"filter": "haralick", "distance_mm": 12}}]},
            r"channel 1, filter \(haralick\): distance_mm = 12 is larger than size_mm = 10",
        ),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pipeline(PLAIN_2D, **keys)


def test_damaged_values_never_get_through() -> None:
    bad: list[Any] = [None, True, -1, 1e400, float("nan"), "x", [], {}, [[1]], [None], {"to": 3}, 10**30]
    for key in section_keys():
        for value in bad:
            _, problems = check_section({**PLAIN_2D, key.name: value})
            if not problems:
                try:
                    Preprocessing.from_dict({**PLAIN_2D, key.name: value})
                except ModelError:
                    continue


def test_the_section_is_written_in_full_or_short() -> None:
    short = pipeline(PLAIN_2D).to_dict()
    assert list(short) == ["dimension", "intensity", "input_shape", "spacing_zyx_mm"], (
        "as in every older model file"
    )
    full = pipeline(PLAIN_2D).to_dict(full=True)
    assert list(full) == [key.name for key in section_keys()]
    assert Preprocessing.from_dict(json.loads(json.dumps(full))) == pipeline(PLAIN_2D)
    every = {
        key.name: key.operation.example
        for key in section_keys()
        if key.form == "table" and key.name != "intensity"
    }
    assert Preprocessing.from_dict({**PLAIN_2D, **every}).to_dict()["crop"]["margin_mm"] == 10


# --- editing ------------------------------------------------------------------------------------------------------------


def section(**keys: Any) -> dict[str, Any]:
    return {"preprocessing": {**PLAIN_2D, **keys}, "postprocessing": [{"step": "fill_holes"}]}


def test_editing_by_dotted_keys() -> None:
    edited = edit_pipeline(
        section(),
        {
            "preprocessing.resampling": "cubic",
            "preprocessing.crop.to": "body",
            "preprocessing.crop.margin_mm": 20,
            "preprocessing.intensity.kind": "percentile",
            "postprocessing.1.per": "scan",
        },
    )
    steps = Preprocessing.from_dict(edited["preprocessing"])
    assert steps.resampling == "cubic" and steps.crop is not None and steps.crop["margin_mm"] == 20
    assert steps.intensity.kind == "percentile"
    assert edited["postprocessing"] == [{"step": "fill_holes", "per": "scan"}]
    assert edit_pipeline(section(), {"postprocessing": []})["postprocessing"] == []
    assert (
        edit_pipeline(section(crop={"to": "body"}), {"preprocessing.crop": None})["preprocessing"].get("crop")
        is None
    )
    assert is_pipeline_key("preprocessing.crop") and not is_pipeline_key("tta")
    assert set(pipeline_of(section())["preprocessing"]) == {key.name for key in section_keys()}


def test_edits_that_cannot_be() -> None:
    with pytest.raises(SettingsError) as told:
        edit_pipeline(section(), {"preprocessing.resampling": "cubc", "preprocessing.crop.margn_mm": 3})
    assert 'did you mean "cubic"' in str(told.value) and "did you mean 'margin_mm'" in str(told.value)
    with pytest.raises(SettingsError) as told:
        edit_pipeline(section(), {"preprocessing.crop.margin_mm": 5, "preprocessing.crop.threshold": 30})
    for part in ('margin_mm = 5 changes nothing while to = "all"', 'threshold = 30 is only for to = "body"'):
        assert part in str(told.value)
    old = section(crop={"margin_mm": 5})
    assert edit_pipeline(old, {"preprocessing.crop.slices": [1, 3]}), "what is not typed is not objected to"
    crops = section(crop={"to": "body", "margin_mm": 5, "threshold": 30})
    edited = edit_pipeline(crops, {"preprocessing.crop.to": "all"})["preprocessing"]["crop"]
    assert (edited["to"], edited["margin_mm"]) == ("all", 5)
    with pytest.raises(
        SettingsError, match="neighbours belongs to the network's weights and cannot be edited"
    ):
        edit_pipeline(section(), {"preprocessing.neighbours": 2})
    with pytest.raises(SettingsError, match="no entry '3'; entries are counted from 1 to 1"):
        edit_pipeline(section(), {"postprocessing.3.per": "scan"})
    with pytest.raises(
        SettingsError, match="the section 'preprocesing' is not known; did you mean 'preprocessing'"
    ):
        edit_pipeline(section(), {"preprocesing.crop": None})
    with pytest.raises(SettingsError, match=r"percentiles from 0 to 100, found low = 0\.5 and high = 240"):
        edit_pipeline(
            section(), {"preprocessing.intensity.kind": "percentile", "preprocessing.intensity.high": 240}
        )
    with pytest.raises(SettingsError, match="postprocessing, step 1"):
        edit_pipeline(section(), {"postprocessing": [{"step": "fil_holes"}]})


# --- the page -----------------------------------------------------------------------------------------------------------


def test_the_page_is_made_from_the_tables() -> None:
    page = (REPOSITORY / "docs" / "pipeline.md").read_text(encoding="utf-8")
    assert page == pipeline_page(), "python -m autoseg_lib.workflow.pipeline_page docs/pipeline.md"


def test_every_example_of_the_page_is_accepted() -> None:
    for key in section_keys():
        example: Any = dict(key.operation.example)
        value = (
            example[key.name]
            if key.form == "value"
            else [example]
            if key.form in ("tables", "steps")
            else example
        )
        _, problems = check_section({**PLAIN_2D, key.name: value})
        assert not problems, key.name
    for name, item in FILTERS.items():
        given = {k: v for k, v in item.operation.example.items() if k != "filter"}
        assert item.operation.example["filter"] == name and not check_table(item.operation, given, name)[1]
    assert check_table(CROP, {}, "crop") == ({**check_table(CROP, {}, "")[0]}, [])
