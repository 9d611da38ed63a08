"""Segmenting a scan from its files to masks and tables: ours, the same network with MONAI's sliding window, and nnU-Net's predictor.

Usage: python benchmarks/segment.py [--quick] [--only ct,volume,slice] [--ways ours,monai,nnunet,fp32] [--rois 6]
                                    [--threads 2] [--nnunet-python PYTHON]

Makes a CT of 300 slices of 512 × 512 as a DICOM series and a volume of 128 × 128 × 128 (NIfTI), and a light U-Net for 1.5 mm voxels
that has learned the made organs for some minutes. All ways use these weights, windows of 96 × 96 × 96,
an overlap of 0.5 and Gaussian weights, and end with the mask as NIfTI and PNGs and areas and volumes as CSV. Each runs in a
process of its own:

* ours: ``workflow.segmenting.segment`` with its defaults (bfloat16 where the processor has it).
* fp32: the same in 32 bits.
* monai: SimpleITK reads the series and resamples it, sliding_window_inference, each class resampled back, argmax, NIfTI, PNGs, a
  loop over labels and slices.
* nnunet: the same, with the windows of nnU-Net's own predictor (predict_sliding_window_return_logits) in place of MONAI's. Its
  Python is that of --nnunet-python; what it needs of ours is the network alone.

Reported: seconds that passed, processor seconds (other programs may use the same computer), the largest resident memory, the share of
the time outside the network, that outside all that is done window by window (softmax, weights and sums included: what is left
is reading, resampling, measuring and writing), and the Dice of each mask with the made organs and with the mask of fp32.

The third part measures one DICOM slice of 512 × 512 from file to mask with the default 2D network, in a warm process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

WINDOW = (96, 96, 96)
SPACING_MM = 1.5
LOW, HIGH, MEAN, DEVIATION = -150.0, 250.0, 20.0, 100.0
WAYS = ("ours", "monai", "nnunet", "fp32")
GOAL_FASTER, GOAL_MEMORY_SHARE, GOAL_GB, GOAL_OTHER_SHARE, GOAL_DICE = 2.0, 0.5, 4.0, 0.2, 0.998
GOAL_SLICE_MS = 60.0


# --- the scans and the model ------------------------------------------------------------------------------------------


def body(slices: int, rows: int, rois: int):
    """Returns the grey values and labels of a body of soft tissue in air; each kind of organ has its own density."""
    import numpy as np

    rng = np.random.default_rng(0)
    side = np.linspace(-1, 1, rows, dtype=np.float32)
    y, x, z = side[:, None], side[None], np.linspace(-1, 1, slices, dtype=np.float32)
    inside = (y / 0.7) ** 2 + (x / 0.85) ** 2 < 1
    pixels = np.repeat(np.where(inside, 20, -1000).astype(np.int16)[None], slices, axis=0)
    labels = np.zeros(pixels.shape, np.uint8)
    for number in range(2 * rois):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.12, 0.25)
        across = ((y - centre[1]) / radius) ** 2 + ((x - centre[2]) / radius) ** 2
        for k in range(slices):
            organ = (across + ((z[k] - centre[0]) / (1.5 * radius)) ** 2 < 1) & inside
            pixels[k][organ] = -120 + 60 * (number % rois)
            labels[k][organ] = number % rois + 1
    noise = rng.normal(0, 4, (rows, rows)).astype(np.int16)
    for k in range(slices):
        pixels[k][inside] += np.roll(noise, 7 * k, axis=1)[inside]
    return pixels, labels


def make_ct(folder: Path, slices: int, rows: int, rois: int) -> None:
    """A CT of 1.5 mm slices as a DICOM series."""
    from autoseg_lib.geometry import Geometry
    from autoseg_lib.io.dicom_write import write_dicom_series

    pixels, _ = body(slices, rows, rois)
    geometry = Geometry.from_spacing(
        pixels.shape,
        (1.5, 410 / rows, 410 / rows),
        spacing_known=True,
        positions_known=True,
        orientation_known=True,
    )
    write_dicom_series(folder, pixels, geometry, modality="CT")


def make_volume(path: Path, side: int, rois: int) -> None:
    """The same kind of picture with cubic voxels, small enough that a window holds half of it."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(body(side, side, rois)[0])
    image.SetSpacing((1.6, 1.6, 1.6))
    sitk.WriteImage(image, str(path))


def make_model(path: Path, rois: int, steps: int) -> None:
    """A light U-Net that has learned for some minutes to know the organs by their density, so that its answers are like real ones."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from autoseg_lib.networks.model_file import save_model
    from autoseg_lib.networks.registry import NetworkSpec, build_network
    from autoseg_lib.preprocess.intensity import IntensityPlan
    from autoseg_lib.preprocess.pipeline import Preprocessing
    from autoseg_lib.train.optimizers import build_optimizer

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    spec = NetworkSpec("3D", "light_unet", out_channels=rois + 1, input_shape=WINDOW)
    network = build_network(spec).train()
    pixels, labels = body(160, 256, rois)
    image = (np.clip(pixels.astype(np.float32), LOW, HIGH) - MEAN) / DEVIATION
    # Most of it is air and tissue: every part holds a piece of one organ, each organ equally often.
    inside = [np.argwhere(labels == value) for value in range(1, rois + 1)]
    side, rate = 64, 5e-3
    optimizer = build_optimizer(network, "muon", rate)
    for step in range(steps):
        organ = inside[step % rois]
        begin = organ[rng.integers(len(organ))] - rng.integers(8, side - 8, 3)
        begin = np.clip(begin, 0, np.array(image.shape) - side)
        place = tuple(slice(int(n), int(n) + side) for n in begin)
        target = torch.from_numpy(labels[place].astype(np.int64))[None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.from_numpy(image[place].copy())[None, None])
        soft = logits.float().softmax(dim=1)
        wanted = F.one_hot(target, rois + 1).movedim(-1, 1)
        overlap = (2 * (soft * wanted).sum((2, 3, 4)) + 1) / ((soft + wanted).sum((2, 3, 4)) + 1)
        loss = F.cross_entropy(logits.float(), target) + 1 - overlap.mean()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    plan = IntensityPlan("window", LOW, HIGH, MEAN, DEVIATION)
    preprocessing = Preprocessing("3D", plan, spacing_zyx_mm=(SPACING_MM,) * 3)
    names = [f"organ {number}" for number in range(1, rois + 1)]
    metadata = {"labels": names, "network": spec.to_dict(), "preprocessing": preprocessing.to_dict()}
    save_model(path, network.eval(), metadata)


def load_network(path: Path):
    """Returns the network of a model file in evaluation mode."""
    from autoseg_lib.networks.model_file import load_model

    return load_model(path)


# --- the ways ---------------------------------------------------------------------------------------------------------


class Watched:
    """Adds up the seconds the network is at work."""

    def __init__(self, network) -> None:
        self.seconds = 0.0
        network.register_forward_pre_hook(lambda *_: setattr(self, "_began", time.perf_counter()))
        network.register_forward_hook(self._after)

    def _after(self, *_) -> None:
        self.seconds += time.perf_counter() - self._began


def run_ours(source: Path, model: Path, output: Path, precision: str) -> tuple[float, float]:
    """Ours, with its defaults; returns the seconds of the network, and those of all that is done window by window."""
    import autoseg_lib.infer.predictor as predictor_module
    import autoseg_lib.workflow.segmenting as segmenting
    from autoseg_lib.settings import SegmentSettings, make_settings
    from autoseg_lib.workflow import model_choice

    watched: list[Watched] = []
    inference = [0.0]
    make, windowed = model_choice.make_predictor, predictor_module.windowed

    def timed(*arguments, **named):
        parts = windowed(*arguments, **named)
        while True:
            began = time.perf_counter()
            part = next(parts, None)
            inference[0] += time.perf_counter() - began
            if part is None:
                return
            yield part

    def noted(*arguments, **named):
        predictor = make(*arguments, **named)
        if precision == "32":
            from dataclasses import replace

            predictor = replace(predictor, half_precision=False, half_network=None)
        watched.append(Watched(predictor.half_network or predictor.network))
        return predictor

    segmenting.make_predictor, predictor_module.windowed = noted, timed
    settings = make_settings(SegmentSettings, {"formats": ["png", "nifti"]})
    segmenting.segment(source, model, output, settings)
    return sum(item.seconds for item in watched), inference[0]


def run_plain(source: Path, model: Path, output: Path, windows: str) -> tuple[float, float]:
    """A plain pipeline of well-known parts around the same network; returns what ``run_ours`` does."""
    import csv

    import numpy as np
    import SimpleITK as sitk
    import torch
    from PIL import Image

    network = load_network(model).network
    watched = Watched(network)
    if source.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(str(source))
    size = [round(n * s / SPACING_MM) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing((SPACING_MM,) * 3)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    clipped = sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkFloat32, LOW, HIGH)
    small = sitk.GetArrayFromImage(sitk.Resample(clipped, grid, sitk.Transform(), sitk.sitkLinear, LOW))
    small = (small - MEAN) / DEVIATION
    began = time.perf_counter()
    with torch.inference_mode():
        soft = (_by_monai if windows == "monai" else _by_nnunet)(torch.from_numpy(small)[None], network)
    inference = time.perf_counter() - began
    back = []
    for channel in np.asarray(soft):
        answer = sitk.GetImageFromArray(channel)
        answer.CopyInformation(grid)
        back.append(
            sitk.GetArrayFromImage(sitk.Resample(answer, image, sitk.Transform(), sitk.sitkLinear, 0.0))
        )
    labels = np.stack(back).argmax(axis=0).astype(np.uint8)
    (output / "masks").mkdir(parents=True)
    for number, plane in enumerate(labels, start=1):
        Image.fromarray(plane).save(output / "masks" / f"slice_{number:04d}.png")
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(output / "segmentation.nii.gz"), True)
    columns, rows, depth = image.GetSpacing()
    with (output / "areas.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        for label in range(1, len(back)):
            for number, plane in enumerate(labels, start=1):
                table.writerow([number, label, np.sum(plane == label) * rows * columns])
            table.writerow(["volume", label, np.sum(labels == label) * rows * columns * depth])
    return watched.seconds, inference


def _by_monai(image, network):
    import torch
    from monai.inferers import sliding_window_inference

    return sliding_window_inference(
        image[None],
        WINDOW,
        2,
        lambda part: torch.softmax(network(part), dim=1),
        overlap=0.5,
        mode="gaussian",
        cval=(LOW - MEAN) / DEVIATION,  # air around scans smaller than a window, as ours has it
    )[0]


def _by_nnunet(image, network):
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    class Plan:
        patch_size = WINDOW

    class Labels:
        num_segmentation_heads = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)][
            -1
        ].out_channels

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network, predictor.label_manager, predictor.configuration_manager = network, Labels(), Plan()
    predictor.allowed_mirroring_axes = None
    logits = predictor.predict_sliding_window_return_logits(image)
    return torch.softmax(logits.float(), dim=0).numpy()


# --- one way in a process of its own ----------------------------------------------------------------------------------


def peak_gb() -> float:
    """Largest resident memory of this process so far, in GB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9


def child(options: argparse.Namespace) -> None:
    """Runs one way and prints its figures as JSON."""
    import torch

    torch.set_num_threads(options.threads)
    source, model, output = (Path(text) for text in options.child)
    # Starting Python and its libraries is not segmenting.
    if options.way in ("ours", "fp32"):
        import autoseg_lib.workflow.segmenting  # noqa: F401
    else:
        import SimpleITK  # noqa: F401
    if options.way == "nnunet":
        import nnunetv2.inference.predict_from_raw_data  # noqa: F401
    else:
        import monai.inferers  # noqa: F401
    load_network(model)
    began, processor = time.perf_counter(), time.process_time()
    if options.way in ("ours", "fp32"):
        network, inference = run_ours(source, model, output, "32" if options.way == "fp32" else "auto")
    else:
        network, inference = run_plain(source, model, output, options.way)
    seconds = time.perf_counter() - began
    result = {
        "seconds": seconds,
        "processor": time.process_time() - processor,
        "network": network,
        "inference": inference,
        "gb": peak_gb(),
    }
    print("RESULT " + json.dumps(result))


def run_way(
    way: str, source: Path, model: Path, output: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Runs one way in a process of its own and returns its figures."""
    python = str(options.nnunet_python) if way == "nnunet" and options.nnunet_python else sys.executable
    command = [
        python,
        str(Path(__file__).resolve()),
        "--way",
        way,
        "--threads",
        str(options.threads),
        "--child",
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(options.threads),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(options.threads),
    }
    done = subprocess.run(
        [*command, str(source), str(model), str(output)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise SystemExit(f"{way} failed:\n{done.stderr[-1500:]}")


def mask_of(output: Path):
    """Returns the label values that a way has written."""
    import SimpleITK as sitk

    (found,) = list(output.rglob("segmentation.nii.gz"))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(found)))


def dice(a, b) -> float:
    """Mean Dice over the labels that either mask holds."""
    import numpy as np

    values = [value for value in np.union1d(np.unique(a), np.unique(b)) if value]
    both = [2 * np.sum((a == v) & (b == v)) / (np.sum(a == v) + np.sum(b == v)) for v in values]
    return float(np.mean(both)) if both else 1.0


def compare(title: str, source: Path, truth, model: Path, folder: Path, options: argparse.Namespace) -> None:
    """Prints the table of one scan, a row as soon as it is there."""
    print(
        f"\n{title}\n{'way':<8} {'seconds':>8} {'processor s':>12} {'peak GB':>8} {'not network':>12} {'not windows':>12} {'Dice, truth':>12}",
        flush=True,
    )
    figures, masks = {}, {}
    for way in options.ways.split(","):
        output = folder / f"out_{source.name.split('.')[0]}_{way}"
        row = figures[way] = run_way(way, source, model, output, options)
        masks[way] = mask_of(output)
        other, rest = (100 * (1 - row[part] / row["seconds"]) for part in ("network", "inference"))
        print(
            f"{way:<8} {row['seconds']:>8.1f} {row['processor']:>12.1f} {row['gb']:>8.2f} {other:>10.0f} % {rest:>10.0f} % "
            f"{dice(masks[way], truth):>12.4f}",
            flush=True,
        )
    if "fp32" in masks:
        same = [f"{way} {dice(masks[way], masks['fp32']):.4f}" for way in masks if way != "fp32"]
        print(f"Dice with the mask of fp32: {', '.join(same)}")
    if "ours" not in figures:
        return
    ours = figures["ours"]
    for way in ("monai", "nnunet"):
        if way in figures:
            row = figures[way]
            print(
                f"ours is {row['seconds'] / ours['seconds']:.2f} times as fast as {way} (processor time: "
                f"{row['processor'] / ours['processor']:.2f}), with {100 * ours['gb'] / row['gb']:.0f} % of its memory"
            )
    print(
        f"goals: {GOAL_FASTER:g} times as fast as monai, at most {100 * GOAL_MEMORY_SHARE:.0f} % of its memory and below "
        f"{GOAL_GB:g} GB, all but the windows (reading, resampling, measuring, writing) below {100 * GOAL_OTHER_SHARE:.0f} %, Dice with fp32 above {GOAL_DICE:g}"
    )


# --- one slice --------------------------------------------------------------------------------------------------------


def one_slice(folder: Path, threads: int) -> None:
    """Milliseconds for one DICOM slice from file to mask with the default 2D network, in a process that is warm."""
    import numpy as np
    import torch

    from autoseg_lib.data.discover import discover
    from autoseg_lib.data.scan import SpacingOverride, load_scan
    from autoseg_lib.networks.model_file import save_model
    from autoseg_lib.networks.registry import NetworkSpec, build_network, default_encoder, default_network
    from autoseg_lib.preprocess.intensity import IntensityPlan
    from autoseg_lib.preprocess.pipeline import Preprocessing
    from autoseg_lib.settings import SegmentSettings
    from autoseg_lib.workflow.model_choice import make_predictor

    torch.set_num_threads(threads)
    make_ct(folder, 1, 512, 6)
    name = default_network("2D")
    spec = NetworkSpec(
        "2D", name, out_channels=7, input_shape=(256, 256), encoder=default_encoder("2D", name)
    )
    torch.manual_seed(0)
    preprocessing = Preprocessing(
        "2D", IntensityPlan("window", LOW, HIGH, MEAN, DEVIATION), input_shape=(256, 256)
    )
    names = [f"organ {number}" for number in range(1, 7)]
    metadata = {"labels": names, "network": spec.to_dict(), "preprocessing": preprocessing.to_dict()}
    save_model(folder / "slice.safetensors", build_network(spec), metadata)
    predictor = make_predictor(load_network(folder / "slice.safetensors"), SegmentSettings(), [])
    (source,) = discover(folder).sources
    watched, wall, processor, inside = Watched(predictor.half_network or predictor.network), [], [], []
    for _ in range(12):
        began, used, before = time.perf_counter(), time.process_time(), watched.seconds
        scan = load_scan(source, slice_axis="auto", override=SpacingOverride())
        predictor.predict_soft(scan.volume)
        wall.append(1000 * (time.perf_counter() - began))
        processor.append(1000 * (time.process_time() - used) / threads)
        inside.append(1000 * (watched.seconds - before))
    best, typical = min(wall[2:]), float(np.median(wall[2:]))
    print(
        f"\none slice of 512 × 512 from file to mask, {spec.name} {spec.encoder} at 256 × 256: median {typical:.0f} ms, best {best:.0f} ms "
        f"(network {min(inside[2:]):.0f} ms; processor time / {threads}: {float(np.median(processor[2:])):.0f} ms); goal {GOAL_SLICE_MS:g} ms",
        flush=True,
    )


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a CT of 60 slices of 256 × 256, a volume of 96³"
    )
    parser.add_argument("--only", default="slice,volume,ct")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rois", type=int, default=6)
    parser.add_argument("--steps", type=int, default=600, help="of learning")
    parser.add_argument("--model", type=Path, help="kept for the next time; made where it is missing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nnunet-python", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    with tempfile.TemporaryDirectory() as made:
        folder, only = Path(made), options.only.split(",")
        if "slice" in only:
            one_slice(folder / "slice", options.threads)
        model = options.model or folder / "model.safetensors"
        if only != ["slice"] and not model.is_file():
            make_model(model, options.rois, options.steps)
        if "volume" in only:
            size = 96 if options.quick else 128
            make_volume(folder / "volume" / "volume.nii.gz", size, options.rois)
            source, truth = folder / "volume" / "volume.nii.gz", body(size, size, options.rois)[1]
            compare(f"volume {size} × {size} × {size}", source, truth, model, folder, options)
        if "ct" in only:
            slices, size = (60, 256) if options.quick else (300, 512)
            make_ct(folder / "ct", slices, size, options.rois)
            truth = body(slices, size, options.rois)[1]
            compare(f"CT {slices} × {size} × {size}", folder / "ct", truth, model, folder, options)


if __name__ == "__main__":
    main()
