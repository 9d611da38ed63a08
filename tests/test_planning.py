"""What "auto" becomes for different data and computers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.labels import LabelTable
from autoseg_lib.networks.registry import NETWORKS_3D, NetworkSpec, build_network
from autoseg_lib.networks.shapes import weight_shapes
from autoseg_lib.settings import AUTO, TrainSettings, make_settings
from autoseg_lib.system import GB
from autoseg_lib.train import defaults
from autoseg_lib.train.fingerprint import take_fingerprint
from autoseg_lib.train.looks import plan_looks
from autoseg_lib.train.machine import Machine
from autoseg_lib.train.memory import images_that_fit, step_gb
from autoseg_lib.train.planning import Plan, check_dimension, choose_dimension, make_plan, with_looks
from autoseg_lib.train.smaller import plan_smaller
from tests.helpers.made_facts import report_on, scan_facts

CPU = Machine("cpu", 4, 16.0, "32")
GPU = Machine("cuda", 16, 64.0, "bf16", gpu_free_gb=24.0)
# As the hippocampus scans of the Medical Segmentation Decathlon.
SMALL = [
    scan_facts(f"h{n}", (35, 51, 36), rois={1: (5, 10, 8, 19, 26, 30), 2: (15, 20, 8, 36, 42, 26)})
    for n in range(20)
]
# As CT of the abdomen.
LARGE = [
    scan_facts(
        f"ct{n}",
        (300, 512, 512),
        (1.5, 0.8, 0.8),
        {1: (100, 200, 100, 200, 300, 250)},
        "CT",
        grey=(-100.0, 50.0, 200.0),
    )
    for n in range(10)
]
# As cine MR of the heart: few thick slices.
THICK = [
    scan_facts(f"c{n}", (10, 256, 216), (8.0, 1.4, 1.4), {1: (2, 100, 90, 8, 150, 140)}) for n in range(8)
]
PHOTOS = [scan_facts(f"p{n}", (1, 600, 800), rois={1: (0, 10, 10, 1, 500, 700)}) for n in range(30)]


def plan_for(
    facts: list[Any],
    machine: Machine = CPU,
    previous: dict[str, Any] | None = None,
    seconds_per_step: float | None = None,
    **values: Any,
) -> Plan:
    settings = make_settings(TrainSettings, {"main_dir": "data", **values})
    names = ("head", "tail") if facts is SMALL else ("organ",)
    return make_plan(settings, report_on(facts, names), machine, Path("m"), previous, seconds_per_step)


def reason(plan: Plan, setting: str) -> str:
    return next(choice.reason for choice in plan.choices if choice.setting == setting)


# --- fingerprint ----------------------------------------------------------------------------------------------------------


def test_fingerprint_of_made_scans() -> None:
    facts = [
        scan_facts("a", (10, 20, 30), (3.0, 1.0, 0.5), {1: (2, 4, 6, 5, 14, 26)}, "MR", (1, 2, 3)),
        scan_facts("b", (10, 20, 30), (5.0, 1.0, 0.5), None, "MR"),
    ]
    found = take_fingerprint(facts, LabelTable(["liver", "spleen"]))
    assert (found.scans, found.patients, found.slices, found.modality) == (2, 2, 20, "MR")
    assert found.shape_zyx == (10, 20, 30)
    assert found.spacing_zyx_mm == (4.0, 1.0, 0.5)
    assert (found.spacing_low_mm, found.spacing_high_mm) == ((3.0, 1.0, 0.5), (5.0, 1.0, 0.5))
    assert found.anisotropy == 4.0
    assert (found.grey_mean, found.grey_values[1] if found.grey_values else None) == (2.0, 2.0)
    liver, spleen = found.rois
    assert (liver.scans, liver.slices) == (1, 3)
    assert liver.size_zyx_px == (3, 10, 20)  # slices 2 to 4, rows 4 to 13, columns 6 to 25
    assert liver.size_zyx_mm == (9.0, 10.0, 10.0)
    assert liver.share == pytest.approx(3 * 10 * 20 / 12000)
    assert found.background == pytest.approx(0.95)
    assert found.smallest_roi_mm == 9.0
    assert (spleen.scans, spleen.size_zyx_mm) == (0, None)
    assert json.loads(json.dumps(found.to_dict()))["rois"][0]["name"] == "liver"
    assert found.lines()[1] == "  liver: in 1 of 2 scans, 3 slices; about 9 × 10 × 10 mm; 5 % of all pixels"
    assert found.lines()[2] == "  spleen: drawn nowhere"


def test_fingerprint_without_pixel_sizes_counts_in_pixels() -> None:
    found = take_fingerprint(
        [scan_facts("a", (4, 8, 8), rois={1: (0, 0, 0, 2, 4, 4)}, spacing_known=False)], LabelTable(["x"])
    )
    assert (found.spacing_zyx_mm, found.anisotropy, found.smallest_roi_mm) == (None, None, None)
    assert "about 2 × 4 × 4 pixels" in found.lines()[1]


# --- the plan of four kinds of data ----------------------------------------------------------------------------------------


def test_small_volumes_are_learned_whole_in_3d() -> None:
    plan = plan_for(SMALL)
    assert plan.network.dimension == "3D"
    assert plan.window == (40, 56, 40)  # 35 × 51 × 36, up to the next multiple of 8
    assert "a whole scan fits" in reason(plan, "patch_size")
    assert plan.settings.positive_share == 0.0
    assert plan.network.name == "light_unet"
    assert plan.loop.schedule is not None
    assert plan.loop.schedule.total_steps == plan.loop.epochs * plan.steps_per_epoch


def test_large_volumes_are_learned_in_patches_alike_in_mm() -> None:
    plan = plan_for(LARGE)
    assert plan.settings.intensity == [-100.0, 200.0]  # CT: a window from the grey values inside ROIs
    # 450 × 410 × 410 mm over at most 192 voxels: 2.34 and 2.13 mm.
    assert plan.settings.spacing_mm == [2.344, 2.133, 2.133]
    assert plan.window is not None
    assert math.prod(plan.window) <= defaults.PATCH_VOXELS["cpu"]
    sides = [n * s for n, s in zip(plan.window, plan.settings.spacing_mm, strict=True)]
    assert max(sides) / min(sides) < 1.3
    assert plan.samples == 8 * defaults.MOST_PATCHES_PER_SCAN  # 192³ over 64³ is 27, more than the most
    assert plan.settings.positive_share > 0
    assert plan.settings.cache == "ram"


def test_a_gpu_gets_finer_voxels_larger_patches_and_a_wider_network() -> None:
    plan, light = plan_for(LARGE, GPU), plan_for(LARGE)
    assert plan.window is not None
    assert light.window is not None
    assert math.prod(plan.window) > 4 * math.prod(light.window)
    assert plan.settings.spacing_mm == [1.5, 0.8, 0.8]
    assert plan.settings.network_width == 32
    assert plan.loop.num_workers == 4
    assert plan.memory_gb is not None
    assert plan.memory_gb < 0.9 * 24


def test_thick_slices_and_photos_are_learned_slice_by_slice() -> None:
    plan = plan_for(THICK)
    assert plan.network.dimension == "2D"
    assert "5.7 times further apart" in reason(plan, "dimension")
    assert plan.preprocessing.input_shape == (256, 256)
    photos = plan_for(PHOTOS)
    assert photos.network.dimension == "2D"
    assert "a scan has 1 slice;" in reason(photos, "dimension")


def test_nothing_stays_auto_and_every_choice_has_its_reason() -> None:
    for facts, machine in ((SMALL, CPU), (LARGE, GPU), (THICK, CPU), (PHOTOS, GPU)):
        plan = plan_for(facts, machine)
        left = [f.name for f in dataclasses.fields(plan.settings) if getattr(plan.settings, f.name) == AUTO]
        unused = {"resume", "series", "slice_axis"} | (
            {"input_shape", "encoder", "neighbour_slices"}
            if plan.network.dimension == "3D"
            else {"spacing_mm", "network_width", "positive_share", "patch_size"}
        )
        assert set(left) <= unused
        assert all(choice.reason for choice in plan.choices)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("network", "segresnet"),
        ("patch_size", [32, 32, 32]),
        ("batch_size", 2),
        ("network_width", 24),
        ("network_depth", 2),
        ("positive_share", 0.5),
        ("cache", "disk"),
        ("loss", "tversky"),
        ("epochs", 7),
        ("spacing_mm", [2.0, 2.0, 2.0]),
        ("early_stopping", True),
    ],
)
def test_each_choice_can_be_overridden_alone(setting: str, value: Any) -> None:
    plan = plan_for(SMALL, **{setting: value})
    assert getattr(plan.settings, setting) == value
    assert reason(plan, setting) == "your value"


def test_depth_and_width_reach_the_network() -> None:
    plan = plan_for(SMALL, network="dynunet", network_depth=2, network_width=24)
    assert plan.network.options["filters"] == [24, 48, 96]
    assert plan.network.options["strides"] == [1, 2, 2]
    assert plan.window == (36, 52, 36)  # multiples of 4 now
    logits = build_network(plan.network).eval()(torch.zeros(1, 1, 8, 8, 8))
    assert logits.shape == (1, 3, 8, 8, 8)
    flat = [scan_facts(f"f{n}", (9, 64, 64), rois={1: (2, 4, 4, 5, 30, 30)}) for n in range(6)]
    thin = plan_for(flat)
    assert thin.settings.network_depth == 2
    assert "the thinnest side has only 9" in reason(thin, "network_depth")
    with pytest.raises(SettingsError, match=r'network_depth = 2: network = "unet" can have 3 to 5'):
        plan_for(THICK, network_depth=2)
    with pytest.raises(SettingsError, match=r'network_width = 24: it cannot be set for network = "unet"'):
        plan_for(THICK, network_width=24)
    with pytest.raises(SettingsError, match=r'network_depth = 3: it cannot be set for network = "vnet"'):
        plan_for(SMALL, network="vnet", network_depth=3)


@pytest.mark.parametrize("width", [4, 20, 28])
@pytest.mark.parametrize(
    "network", ["light_unet", "unet", "attention_unet", "dynunet", "residual_unet", "segresnet"]
)
def test_every_width_that_settings_take_can_be_built(network: str, width: int) -> None:
    plan = plan_for(SMALL, network=network, network_width=width)
    assert weight_shapes(plan.network)


def test_a_network_without_encoder_says_why_its_width_stays() -> None:
    with pytest.raises(SettingsError, match=r'network_width = 24: .*"vnet" \(its width is fixed\)'):
        plan_for(SMALL, network="vnet", network_width=24)


def test_3d_on_single_slices_is_refused() -> None:
    assert choose_dimension(PHOTOS)[0] == "2D"
    with pytest.raises(DataError, match="'p0' has 1 slice; whole scans are expected"):
        check_dimension("3D", PHOTOS)


# --- memory -----------------------------------------------------------------------------------------------------------------


def test_memory_of_a_step_is_weights_and_what_is_kept_for_each_image() -> None:
    spec = NetworkSpec("3D", "unet", 3, (32, 32, 32))
    two, four = step_gb(spec, 2, "32", "cpu"), step_gb(spec, 4, "32", "cpu")
    none = step_gb(spec, 0, "32", "cpu")
    assert two is not None
    assert four is not None
    assert none is not None
    assert four - none == pytest.approx(2 * (two - none))
    weights = sum(p.numel() for p in build_network(spec).parameters())
    assert none == pytest.approx(0.6 + weights * 20 / GB)


def test_images_are_halved_until_they_fit_the_memory() -> None:
    spec = NetworkSpec("3D", "unet", 3, (64, 64, 64))
    eight, two = step_gb(spec, 8, "32", "cpu"), step_gb(spec, 2, "32", "cpu")
    assert eight is not None
    assert two is not None
    assert images_that_fit(spec, 8, "32", "cpu", eight * 1.01, 1) == 8
    assert images_that_fit(spec, 8, "32", "cpu", two * 1.01, 1) == 2
    assert images_that_fit(spec, 8, "32", "cpu", 0.0, 2) == 2
    assert images_that_fit(spec, 8, "32", "cpu", None, 1) == 8  # memory unknown


def test_little_memory_gives_a_smaller_batch_and_the_users_batch_in_parts() -> None:
    tight = Machine("cpu", 4, 2.0, "32")
    ours = plan_for(SMALL, tight, network="highresnet")
    assert ours.loop.batch_size < plan_for(SMALL, network="highresnet").loop.batch_size
    assert reason(ours, "batch_size") == "as many as fit the memory"
    theirs = plan_for(SMALL, tight, network="highresnet", batch_size=8)
    assert theirs.loop.batch_size == 8
    assert theirs.loop.parts >= 4
    assert "of 8 images at a time, added up to the same step" in reason(theirs, "memory")


def test_scans_that_fill_the_memory_are_kept_on_disk() -> None:
    plan = plan_for(LARGE, Machine("cpu", 4, 0.3, "32"))
    assert plan.settings.cache == "disk"
    # 8 scans of 192³ voxels, 3 bytes each: 170 MB.
    assert "take 0.2 GB; 0.3 GB are free" in reason(plan, "cache")


def test_memory_is_worked_out_for_nearly_every_network() -> None:
    known = [
        name for name in NETWORKS_3D if step_gb(NetworkSpec("3D", name, 3, (64, 64, 64)), 1, "32", "cpu")
    ]
    assert set(NETWORKS_3D) - set(known) <= {"swin_unetr"}


def test_smaller_patches_after_memory_ran_out() -> None:
    plan = plan_for(SMALL)
    smaller = plan_smaller(plan)
    assert smaller is not None
    assert smaller.window == (24, 40, 24)  # three quarters of 40 × 56 × 40, down to multiples of 8
    assert smaller.network.input_shape == smaller.window
    assert smaller.settings.patch_size == [24, 40, 24]
    assert (smaller.steps_per_epoch, smaller.samples) == (plan.steps_per_epoch, plan.samples)
    assert reason(smaller, "patch_size") == "memory ran out with a larger one"
    steps = 1
    while (smaller := plan_smaller(plan)) is not None:
        plan, steps = smaller, steps + 1
        assert steps < 20
    assert plan.window == (16, 16, 16)
    assert plan_smaller(plan_for(SMALL, network="unetr", patch_size=[48, 48, 48])) is None
    slices = plan_smaller(plan_for(THICK, patch_size=256))
    assert slices is not None
    assert slices.preprocessing.input_shape == slices.network.input_shape == (192, 192)


# --- steps, time and looks ---------------------------------------------------------------------------------------------------


def test_a_time_limit_decides_the_epochs_left_to_us() -> None:
    plan = plan_for(SMALL, seconds_per_step=0.5, time_limit_minutes=5)
    schedule = plan.loop.schedule
    assert schedule is not None
    assert schedule.total_steps == 600
    assert (schedule.time_limit_seconds, schedule.most_steps) == (300.0, None)
    assert plan.settings.epochs == math.ceil(600 / plan.steps_per_epoch)
    both = plan_for(SMALL, seconds_per_step=0.5, time_limit_minutes=5, epochs=3)
    assert both.loop.schedule is not None
    assert both.loop.schedule.total_steps == both.loop.schedule.most_steps == 3 * both.steps_per_epoch


def test_a_continued_run_keeps_what_was_chosen_and_how_often_it_looks() -> None:
    first = plan_for(SMALL)
    before = {f.name: getattr(first.settings, f.name) for f in dataclasses.fields(first.settings)}
    elsewhere = plan_for(SMALL, GPU, previous=before)
    for name in ("network", "patch_size", "batch_size", "epochs", "network_depth", "network_width"):
        assert getattr(elsewhere.settings, name) == getattr(first.settings, name)
    assert elsewhere.network.to_dict() == first.network.to_dict()
    assert elsewhere.loop.num_workers == 4  # belongs to the computer
    changed = with_looks(elsewhere, [3, 2])
    assert (changed.loop.validate_every, changed.validation_scans) == (3, 2)
    assert changed.loop.learn_all_from == 0, (
        "a run of an earlier version never learned from the scans kept back"
    )
    assert with_looks(elsewhere, [3, 2, 0.5]).loop.learn_all_from == 0.5


@pytest.mark.parametrize("scan_steps", [0.01, 0.1, 0.5, 2.0, 20.0])
@pytest.mark.parametrize(("total", "per_epoch"), [(1500, 20), (4000, 400), (100, 10)])
def test_looks_cost_at_most_a_twentieth_unless_one_look_does(
    scan_steps: float, total: int, per_epoch: int
) -> None:
    looks = plan_looks(scan_steps, 50, total, per_epoch)
    assert 1 <= looks.scans <= defaults.SCANS_PER_LOOK
    number = math.ceil(total / per_epoch / looks.every)
    assert looks.share == pytest.approx(number * looks.scans * scan_steps / total)
    assert number <= 1 or looks.share <= 1.35 * defaults.SHARE_OF_LOOKS


def test_cheap_looks_are_at_many_scans_and_costly_ones_at_few() -> None:
    cheap, costly = plan_looks(0.01, 50, 4000, 40), plan_looks(5.0, 50, 4000, 40)
    assert (cheap.every, cheap.scans) == (4, 12)  # 100 epochs, 25 looks
    assert costly.scans < cheap.scans
    assert costly.every > cheap.every
    assert plan_looks(0.0, 0, 4000, 40).scans == 0
