"""Which model segments: found by name, checked against the settings, several joined, and its predictor."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoseg_lib.augment.plan import AugmentPlan
from autoseg_lib.errors import ModelError, SettingsError
from autoseg_lib.infer.half_weights import with_half_weights
from autoseg_lib.infer.predictor import DEFAULT_OVERLAP, Predictor
from autoseg_lib.infer.region import RegionFinder
from autoseg_lib.io.files import sha256_of
from autoseg_lib.measure.calibration import Calibration
from autoseg_lib.networks.joining import join_models
from autoseg_lib.networks.model_file import LoadedModel, load_model, read_metadata
from autoseg_lib.networks.registry import window_multiple
from autoseg_lib.preprocess.pipeline import Preprocessing
from autoseg_lib.settings import AUTO, SegmentSettings
from autoseg_lib.train.machine import best_precision
from autoseg_lib.workflow.pipeline_editing import (
    POSTPROCESSING,
    PREPROCESSING,
    REGION_FINDER,
    STRUCTURE_NAMES,
    edit_pipeline,
    pipeline_of,
)

_PART = re.compile(r"_(fold|part)\d+_best$")


def list_models(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Returns the model files of a folder with their metadata, newest first; files that are no models are left out."""
    found = []
    for path in sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True):
        try:
            found.append((path, read_metadata(path)))
        except ModelError:
            continue
    return found


def find_model(settings: SegmentSettings, model_dir: Path) -> Path:
    """Returns the model file that ``model_filename`` means.

    Args:
        settings: a path, a file name or a model's name; "auto" takes the newest best model of the folder.
        model_dir: folder the models are in.

    Raises:
        ModelError: there is none.
    """
    wanted = settings.model_filename
    if wanted != AUTO:
        for candidate in (
            Path(wanted).expanduser(),
            model_dir / wanted,
            model_dir / f"{wanted}.safetensors",
            model_dir / f"{wanted}_best.safetensors",
        ):
            if candidate.is_file():
                return candidate
        if Path(wanted).is_dir() or len(Path(wanted).parts) > 1:
            raise ModelError(
                f"model '{wanted}': there is no such file. Give the path of a model file (NAME_best.safetensors), or the name of "
                f"a model in '{model_dir}'."
            )
        known = [path.stem for path, _ in list_models(model_dir)]
        there = f" There are: {', '.join(known)}." if known else ""
        raise ModelError(
            f"model '{wanted}': not found in '{model_dir}'.{there} Correct model_filename, or train one with train.ipynb."
        )
    models = list_models(model_dir)
    best = [path for path, _ in models if path.stem.endswith("_best")] or [path for path, _ in models]
    # A fold, or a part of a learning curve, is no model of its own while the one it belongs to is there.
    best = [path for path in best if not _PART.search(path.stem)] or best
    if not best:
        raise ModelError(
            f"no model was found in '{model_dir}'. Train one with train.ipynb first, or set model_filename."
        )
    return best[0]


def find_models(settings: SegmentSettings, model_dir: Path) -> tuple[Path, ...]:
    """Returns the files of all models that ``model_filename`` names, each once; see ``find_model``.

    Args:
        settings: one model, or a list of them that answer together.
        model_dir: folder the models are in.

    Raises:
        ModelError: one is not there.
    """
    given = settings.model_filename
    names = given if isinstance(given, list) else [given]
    paths = [find_model(replace(settings, model_filename=name), model_dir) for name in names]
    return tuple({path.resolve(): path for path in paths}.values())


def load_models(paths: Sequence[Path], device: str, changes: Mapping[str, Any] | None = None) -> LoadedModel:
    """Returns one or several model files as one model that answers with the mean of their probabilities.

    Args:
        paths: the files.
        device: where the weights go.
        changes: to what is done before and after the network, see ``edited``.

    Raises:
        SettingsError: the changes do not work.
        ModelError: a file is none, or they cannot be used together.
    """
    models = [edited(load_model(path, torch.device(device)), changes) for path in paths]
    model = join_models(models)
    if len(paths) == 1:
        return model
    return replace(model, metadata=_shared([one.metadata for one in models]))


def _shared(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What holds for several models together, in whatever order they are given.

    Raises:
        ModelError: they do different things to their answers; which one holds is the user's choice.
    """
    first = each[0]
    differing = [
        key
        for key, nothing in ((POSTPROCESSING, []), (STRUCTURE_NAMES, {}))
        if any((table.get(key) or nothing) != (first.get(key) or nothing) for table in each)
    ]
    if differing:
        raise ModelError(
            f"the models differ in what is done after the network ({', '.join(differing)}), so it is not certain what holds for "
            f"their common answer. Say it for all of them, e.g. --set {differing[0]}={'[]' if differing[0] == POSTPROCESSING else '{}'} "
            "for nothing."
        )
    shared = {**first, **_uncalibrated(_TOGETHER)}
    if any(table.get(REGION_FINDER) != first.get(REGION_FINDER) for table in each):
        shared[REGION_FINDER] = None
    if any(table.get("augmentation") != first.get("augmentation") for table in each):
        # Mirrored images would harm the member that has not learned from such.
        shared["augmentation"] = {}
    if any(table.get("data") != first.get("data") for table in each):
        # Learned from different scans, so there is nothing common to compare a scan with.
        shared["data"] = {}
    return shared


_TOGETHER = "several models answered together, and each was calibrated by itself"
_CHANGED = (
    "what is done before or after the network was changed, and the error bars were calibrated without that"
)


def _uncalibrated(reason: str) -> dict[str, Any]:
    return {"calibration": Calibration(reason=reason).to_dict()}


def edited(model: LoadedModel, changes: Mapping[str, Any] | None) -> LoadedModel:
    """Returns the model with changes to what is done before and after its network.

    Args:
        model: as it was loaded.
        changes: dotted key → value, see ``edit_pipeline``; "structure_names" renames ROIs, "region_finder" is a table of
            ``RegionFinder`` or None.

    Raises:
        SettingsError: keys or values that do not work; all of them at once.
        ModelError: the region finder's table does not work.
    """
    if not changes:
        return model
    own = {key: changes[key] for key in (STRUCTURE_NAMES, REGION_FINDER) if key in changes}
    rest = {key: value for key, value in changes.items() if key not in own}
    metadata = {**model.metadata, **edit_pipeline(pipeline_of(model.metadata), rest), **own}
    if rest or _finder_changes(model, changes):
        metadata |= _uncalibrated(_CHANGED)
    return replace(model, metadata=metadata, preprocessing=Preprocessing.from_dict(metadata[PREPROCESSING]))


def _finder_changes(model: LoadedModel, changes: Mapping[str, Any]) -> bool:
    known = RegionFinder.from_dict(model.metadata.get(REGION_FINDER))
    return REGION_FINDER in changes and RegionFinder.from_dict(changes[REGION_FINDER]) != known


def hash_of(paths: Sequence[Path]) -> str:
    """Returns one sha256 for all model files; that of the file itself for a single one."""
    each = [sha256_of(path) for path in paths]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def check_against_model(settings: SegmentSettings, model: LoadedModel) -> None:
    """Compares what the user said of the model with what it is.

    Raises:
        SettingsError: the number of ROIs, their names or the input size differ.
    """
    problems = []
    if settings.labels_list != AUTO and list(settings.labels_list) != list(model.labels.names):
        given, known = len(settings.labels_list), len(model.labels)
        what = (
            f"the model knows {known} ROI{'s' if known != 1 else ''}, labels_list names {given} besides the background"
            if given != known
            else f"the model's ROIs are {', '.join(model.labels.names)}, labels_list names {', '.join(settings.labels_list)}"
        )
        problems.append(f'{what}. Leave labels_list = "auto" to use the model\'s own names.')
    if settings.input_shape != AUTO and model.preprocessing.input_shape is not None:
        given_shape = settings.input_shape
        pair = (given_shape, given_shape) if isinstance(given_shape, int) else tuple(given_shape)
        if pair != model.preprocessing.input_shape:
            own = " × ".join(str(n) for n in model.preprocessing.input_shape)
            problems.append(
                f'the model works on {own} pixels, input_shape = {settings.input_shape}. Leave input_shape = "auto".'
            )
    if problems:
        raise SettingsError("\n".join(problems))


def segmenting_predictor(model: LoadedModel) -> Predictor:
    """Returns the predictor that segments with default settings; what is promised of a model is measured with it."""
    return make_predictor(model, SegmentSettings(), [])


def make_predictor(model: LoadedModel, settings: SegmentSettings, notes: list[str]) -> Predictor:
    """Returns the predictor for a model, and adds to ``notes`` what could not be done as asked."""
    device = next(model.network.parameters()).device
    augmentation = AugmentPlan.from_dict(model.metadata.get("augmentation", {}))
    mirror_axis = None
    # hippocampus_msd: about 0.002 of Dice better in eight of nine trials (docs/learning.md); 2D was not measured and takes longer.
    wanted = model.spec.dimension == "3D" if settings.tta == AUTO else settings.tta
    if wanted:
        if augmentation.mirrors and augmentation.mirror_axis is not None:
            # The plan counts from a sample's first axis; a prepared scan has the slices in front in 2D too.
            mirror_axis = augmentation.mirror_axis + (1 if model.spec.dimension == "2D" else 0)
        elif settings.tta != AUTO:
            notes.append(
                "tta was left out: this model was not trained with mirrored images, so mirroring would harm."
            )
    precision = best_precision(device.type)
    window = model.spec.input_shape if model.spec.dimension == "3D" else None
    in_half = device.type == "cpu" and precision != "32"
    return Predictor(
        network=model.network,
        preprocessing=model.preprocessing,
        classes=len(model.labels) + 1,
        device=device,
        window=None if window is None else (window[0], window[1], window[2]),
        overlap=DEFAULT_OVERLAP if settings.overlap == AUTO else settings.overlap,
        batch_size=None if settings.batch_size == AUTO else settings.batch_size,
        half_precision=precision != "32",
        half=precision,
        half_network=with_half_weights(model.network.eval()) if in_half and window is None else None,
        mirror_pairs=augmentation.mirror_pairs,
        mirror_axis=mirror_axis,
        neighbours=model.spec.neighbours,
        finder=RegionFinder.from_dict(model.metadata.get(REGION_FINDER)),
        window_multiple=window_multiple(model.spec),
    )
