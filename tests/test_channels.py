"""Channels: which image, through which filter; from the setting's texts to a trained network and back onto the scan's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.data.dataset import PatchDataset, SliceDataset
from autoseg_lib.data.packed import PackedCases, PreparedCase
from autoseg_lib.errors import DataError, GeometryError, ModelError, SettingsError
from autoseg_lib.geometry import Geometry
from autoseg_lib.infer.predictor import Predictor
from autoseg_lib.networks.model_file import load_model, read_metadata
from autoseg_lib.networks.registry import NetworkSpec
from autoseg_lib.preprocess.channels import Channel, channels_from_texts
from autoseg_lib.preprocess.intensity import IntensityPlan
from autoseg_lib.preprocess.pipeline import Preprocessing, runs_backwards
from autoseg_lib.volume import Volume, reorient
from tests.helpers.studies import write_png_study, write_volume_study
from tests.test_training import prepare, run

KNOWN = {"spacing_known": True, "positions_known": True, "orientation_known": True}


def scan(shape: tuple[int, int, int] = (4, 20, 24), others: int = 0) -> Volume:
    grid = Geometry.from_spacing(shape, (3, 1, 1), **KNOWN)
    images = [
        Volume(np.random.default_rng(n).normal(size=shape).astype(np.float32), grid)
        for n in range(1 + others)
    ]
    return images[0].with_others(images[1:])


def test_names_stand_for_tables_and_back() -> None:
    names = [
        "image",
        "image 2",
        "log",
        "log 3 mm",
        "mean 5 mm",
        "image 3: sobel",
        "laws E5S5",
        "haralick entropy",
    ]
    channels = channels_from_texts(names)
    assert [channel.text for channel in channels] == [
        "image", "image 2", "log", "log 3 mm", "mean", "image 3: sobel", "laws E5S5", "haralick entropy",
    ]  # fmt: skip
    assert channels[3] == Channel(0, "log", {"sigma_mm": 3.0})
    assert channels[5] == Channel(2, "sobel", {"sigma_mm": 0.0})
    assert channels_from_texts(["laws e5s5"]) == (channels[6],)


def test_unknown_names_are_all_told_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"'lgo'.*did you mean 'log'.*'log two mm'.*a number above 0.*'image 99'"
    ):
        channels_from_texts(["lgo 2 mm", "log two mm", "image 99"])
    with pytest.raises(ValueError, match=r'kernel = "E9L5".*expected one of'):
        channels_from_texts(["laws E9L5"])


def test_each_channel_is_what_it_says() -> None:
    volume = scan(others=1)
    pipeline = Preprocessing(
        "2D",
        IntensityPlan("zscore"),
        (24, 24),
        channels=channels_from_texts(["image", "image 2", "mean 3 mm", "image 2: sobel"]),
    )
    found, grid = pipeline.prepare_channels(volume)
    assert found.shape == (4, 4, 24, 24) and found.dtype == np.float32
    alone = Preprocessing("2D", IntensityPlan("zscore"), (24, 24))
    np.testing.assert_array_equal(found[0], alone.prepare(volume).array)
    second = Preprocessing("2D", IntensityPlan("percentile"), (24, 24)).prepare(volume.others[0]).array
    np.testing.assert_array_equal(found[1], second)
    # The mean of 3 x 3 pixels, worked out anew; rows 2 to 21 hold the scan.
    pixels = volume.array[1, 5:8, 9:12].mean()
    every = np.array(
        [
            [volume.array[1, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].mean() for c in range(1, 23)]
            for r in range(1, 19)
        ]
    )
    inner = found[2, 1, 3:21, 1:23]
    # Normalising is a straight line, but for what is clipped: the middle half keeps its proportions.
    middle = np.abs(every - np.median(every)) < np.quantile(np.abs(every - np.median(every)), 0.5)
    line = np.polyfit(every[middle], inner[middle], 1)
    np.testing.assert_allclose(np.polyval(line, every[middle]), inner[middle], atol=1e-4)
    assert np.polyval(line, pixels) == pytest.approx(found[2, 1, 2 + 6, 10], abs=1e-4)
    # Around the scan a filter's channel is as dark as its darkest place.
    assert np.all(found[3, :, :2] == found[3].min(axis=(1, 2))[:, None, None])
    assert grid.shape_zyx == (4, 24, 24)


def test_images_that_are_missing_and_sizes_that_are_unknown() -> None:
    pipeline = Preprocessing("2D", input_shape=(24, 24), channels=channels_from_texts(["image", "image 3"]))
    with pytest.raises(DataError, match=r"sees 3 images of a patient, and the scan has 2.*image, image_2"):
        pipeline.start(scan(others=1))
    blind = Volume(np.zeros((1, 8, 8), np.float32), Geometry.from_spacing((1, 8, 8)))
    sized = Preprocessing("2D", input_shape=(8, 8), channels=channels_from_texts(["log 2 mm"]))
    with pytest.raises(GeometryError, match="'log' is given in mm, and the scan has no pixel spacing"):
        sized.prepare_channels(blind)
    Preprocessing("2D", input_shape=(8, 8), channels=channels_from_texts(["sobel"])).prepare_channels(blind)


def test_kept_in_json_and_read_back() -> None:
    channels = (
        *channels_from_texts(["image", "gabor 8 mm"]),
        Channel(1, intensity=IntensityPlan("window", 0, 10, 2, 3)),
    )
    pipeline = Preprocessing("2D", input_shape=(24, 24), channels=channels, neighbours=1)
    back = Preprocessing.from_dict(pipeline.to_dict())
    assert back.to_dict() == pipeline.to_dict()
    volume = scan(others=1)
    np.testing.assert_array_equal(back.prepare_channels(volume)[0], pipeline.prepare_channels(volume)[0])


def test_channels_are_moved_alike_and_brightened_apart() -> None:
    random = np.random.default_rng(0)
    plane = random.normal(size=(6, 32, 32)).astype(np.float32)
    label = (plane > 1).astype(np.uint8)
    moving = AugmentPlan(probability=1.0, elastic=1.0, brightness=0, contrast=0, gamma=0, noise=0, blur=0)
    case = PreparedCase("a", np.stack([plane, 3 * plane + 1]), label)
    for dataset in (
        SliceDataset([case], moving, 0, neighbours=1),
        PatchDataset([case], (4, 16, 16), moving, 0, length=6),
    ):
        for index in range(4):
            image = dataset[0, index]["image"].numpy()
            first, second = np.split(image, 2)
            np.testing.assert_allclose(second, 3 * first + 1, atol=2e-2)  # kept in half precision
    shaking = AugmentPlan(probability=1.0, rotation_degrees=0, scale=0, shift=0, elastic=0)
    image = SliceDataset([PreparedCase("a", np.stack([plane, plane]), label)], shaking, 0)[0, 1][
        "image"
    ].numpy()
    assert not np.allclose(image[0], image[1], atol=0.05)
    # The first channel is changed as if it were alone: a model of one channel learns from the same pictures as before.
    alone = SliceDataset([PreparedCase("a", plane, label)], shaking, 0)[0, 1]["image"].numpy()
    np.testing.assert_array_equal(image[0], alone[0])


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_packed_cases_keep_their_channels(cache: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    cases = [
        PreparedCase(
            str(n),
            random.normal(size=(3, 2 + n, 5, 4)).astype(np.float32),
            np.full((2 + n, 5, 4), n, np.uint8),
        )
        for n in range(3)
    ]
    held = PackedCases.build(iter(cases), cache, tmp_path)  # type: ignore[arg-type]
    for number, case in enumerate(cases):
        np.testing.assert_array_equal(held.image_channels(number), case.image.astype(np.float16))
        np.testing.assert_array_equal(held.image(number), case.image[0].astype(np.float16))
        np.testing.assert_array_equal(held.label(number), case.label)
        assert held.fills[number] == tuple(float(part.min()) for part in case.image)
    with pytest.raises(DataError, match="'b' has 2 channels, 'a' has 1; all need the same"):
        one, two = (np.zeros((*extra, 2, 3, 3), np.float32) for extra in ((), (2,)))
        label = np.zeros((2, 3, 3), np.uint8)
        PackedCases.build([PreparedCase("a", one, label), PreparedCase("b", two, label)])


class Recorder(torch.nn.Module):
    """A network that keeps what it is shown and finds label 1 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += list(images.clone())
        return torch.stack([torch.zeros_like(images[:, 0]), torch.ones_like(images[:, 0])], dim=1)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_predictor_shows_the_network_what_training_did(backwards: bool) -> None:
    """Channels, neighbours and crop in one order on both ways; outside the crop there is background."""
    volume = scan((70, 20, 24), others=1)
    if backwards:
        volume = reorient(volume, "IPL")
    steps = Preprocessing.from_dict(
        {
            "dimension": "2D",
            "intensity": {"kind": "zscore"},
            "input_shape": [24, 24],
            "channels": [{"image": 0}, {"image": 1}, {"image": 0, "filter": {"filter": "sobel"}}],
            "crop": {"to": "centre", "size_mm": [0, 10, 12]},
            "neighbours": 1,
        }
    )
    part, box = steps.start(volume)
    image, grid = steps.prepare_channels(part)
    order = slice(None, None, -1 if runs_backwards(grid) else 1)
    label = np.zeros(image.shape[1:], np.uint8)
    dataset = SliceDataset([PreparedCase("a", image[:, order], label[order])], None, 0, neighbours=1)
    network = Recorder()
    found = Predictor(network, steps, 2, torch.device("cpu"), neighbours=1).predict(volume).array
    shown = network.seen[::-1] if backwards else network.seen
    # Predicted in the scan's order, 64 slices at a time; learned from in the order from foot to head.
    assert len(shown) == len(dataset) == 70
    for k, seen in enumerate(shown):
        np.testing.assert_allclose(seen.numpy(), dataset[0, k]["image"].numpy(), atol=0.01)
    expected = np.zeros(volume.array.shape, np.uint8)
    expected[box] = 1
    np.testing.assert_array_equal(found, expected)
    assert box is not None and (box[1].start, box[1].stop, box[2].start, box[2].stop) == (5, 15, 6, 18)


def test_the_predictor_shows_all_channels_in_3d() -> None:
    volume = scan((12, 20, 24), others=1)
    steps = Preprocessing(
        "3D", IntensityPlan("zscore"), channels=channels_from_texts(["image", "image 2", "log 2 mm"])
    )
    network = Recorder()
    predictor = Predictor(network, steps, 2, torch.device("cpu"), window=(16, 20, 24))
    assert predictor.predict(volume).array.all()
    image, _ = steps.prepare_channels(volume)
    np.testing.assert_allclose(network.seen[0].numpy()[:, 2:14], image, atol=1e-6)
    # The window is larger than the scan: each channel goes on with its own darkest value.
    np.testing.assert_allclose(network.seen[0].numpy()[:, 0, 0, 0], image.min(axis=(1, 2, 3)), atol=1e-6)


def test_neighbours_and_channels_multiply() -> None:
    spec = NetworkSpec("2D", "unet", 2, (64, 64), in_channels=6, channels=2)
    assert spec.neighbours == 1 and NetworkSpec.from_dict(spec.to_dict()) == spec
    assert NetworkSpec("3D", "light_unet", 2, (32, 32, 32), in_channels=3, channels=3).neighbours == 0
    assert "channels" not in NetworkSpec("2D", "unet", 2, (64, 64)).to_dict()
    for dimension, shape, count in (("2D", (64, 64), 4), ("3D", (32, 32, 32), 6)):
        with pytest.raises(ModelError, match=rf"found {count} channels; .* times the 2 channels of a scan"):
            NetworkSpec(dimension, "light_unet", 2, shape, in_channels=count, channels=2)  # type: ignore[arg-type]


def test_training_with_filters_in_2d(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "study")
    result, _ = run(
        folder,
        epochs=2,
        channels=["image", "sobel", "mean 5 mm"],
        neighbour_slices=1,
        preprocessing={"resampling": "cubic"},
    )
    metadata = read_metadata(result.model_path)
    assert metadata["format_version"] == 3, "older software would leave the filters out without a word"
    assert metadata["preprocessing"]["resampling"] == "cubic"
    assert metadata["network"]["in_channels"] == 9 and metadata["network"]["channels"] == 3
    model = load_model(result.model_path)
    assert [c.text for c in model.preprocessing.channels] == ["image", "sobel", "mean"]
    assert model.spec.neighbours == 1
    with torch.inference_mode():
        assert model.network(torch.zeros(1, 9, 64, 64)).shape == (1, 3, 64, 64)


def test_training_with_filters_in_3d(tmp_path: Path) -> None:
    folder = write_volume_study(tmp_path / "study")
    result, _ = run(
        folder,
        epochs=1,
        dimension="3D",
        input_shape=None,
        channels="image, log 2 mm",
        preprocessing={"crop": {"to": "body", "margin_mm": 5}},
    )
    model = load_model(result.model_path)
    assert model.spec.in_channels == 2 and model.preprocessing.crop is not None
    assert result.scores is not None


def test_settings_that_do_not_work(tmp_path: Path) -> None:
    folder = write_png_study(tmp_path / "study")
    with pytest.raises(SettingsError, match=r"the channel 'lgo' is not known; did you mean 'log'"):
        prepare(folder, channels=["image", "lgo"])
    with pytest.raises(
        SettingsError, match=r"2 images of each patient are asked for; .* has 1. Give the others in a CSV"
    ):
        prepare(folder, channels=["image", "image 2"])
    with pytest.raises(SettingsError) as told:
        prepare(
            folder,
            preprocessing={"resampling": "cubc", "crop": {"to": "body", "marginmm": 3}, "intensity": {}},
        )
    for part in ('did you mean "cubic"', "did you mean 'margin_mm'", "intensity is the setting `intensity`"):
        assert part in str(told.value)
    with pytest.raises(SettingsError, match='margin_mm = 3 changes nothing while to = "all" keeps the whole'):
        prepare(folder, preprocessing={"crop": {"margin_mm": 3}})


def test_a_pipeline_edited_to_other_channels_is_refused(tmp_path: Path) -> None:
    from autoseg_lib.networks.model_file import save_model
    from autoseg_lib.networks.registry import build_network

    spec = NetworkSpec("2D", "light_unet", 2, (32, 32))
    table = Preprocessing(
        "2D", input_shape=(32, 32), channels=channels_from_texts(["image", "sobel"])
    ).to_dict()
    path = tmp_path / "m.safetensors"
    save_model(
        path, build_network(spec), {"labels": ["a"], "network": spec.to_dict(), "preprocessing": table}
    )
    with pytest.raises(
        ModelError, match=r"gives 2 channels .* trained with 1 and 0; these two cannot be edited"
    ):
        load_model(path)
