"""Several trained models made into one that answers with the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoseg_lib.errors import ModelError
from autoseg_lib.networks.ensemble import Ensemble
from autoseg_lib.networks.model_file import LoadedModel
from autoseg_lib.networks.registry import NetworkSpec, takes_any_size


def join_models(models: Sequence[LoadedModel]) -> LoadedModel:
    """Returns the models as one; a single model comes back as it is.

    Args:
        models: on one device; with the same ROIs, the same kind of network and the same preparation of scans. The
            networks themselves may be trained in any way.

    Raises:
        ModelError: they differ in what has to be the same; the message says in what.
    """
    if not models:
        raise ModelError("no model was given; at least one is expected.")
    first = models[0]
    for other in models[1:]:
        what = _difference(first, other)
        if what:
            raise ModelError(
                f"models '{first.path.name}' and '{other.path.name}' cannot be used together: {what}. Use models of one "
                "training with folds, or of trainings with the same settings on the same data."
            )
    if len(models) == 1:
        return first
    # A window that fits every member: each has learned on patches at least as large.
    window = tuple(min(sides) for sides in zip(*(model.spec.input_shape for model in models), strict=True))
    members = [
        network
        for model in models
        for network in (model.network.members if isinstance(model.network, Ensemble) else [model.network])
    ]
    return replace(
        first,
        network=Ensemble(members).eval(),
        spec=replace(first.spec, input_shape=window),
        members=len(members),
    )


def _difference(one: LoadedModel, other: LoadedModel) -> str:
    if one.labels.names != other.labels.names:
        return f"their ROIs are {', '.join(one.labels.names)} and {', '.join(other.labels.names)}"
    if _kind(one.spec) != _kind(other.spec):
        return f"their networks are {one.spec.dimension} {one.spec.title} and {other.spec.dimension} {other.spec.title}, or differ in their sizes"
    if one.preprocessing != other.preprocessing:
        return "they prepare scans differently (grey values, pixel size or number of pixels)"
    return ""


def _kind(spec: NetworkSpec) -> dict[str, object]:
    """What must be equal: everything but the dropout, which only training uses, and the size of the training images, where
    the weights do not depend on it."""
    size = None if takes_any_size(spec) else spec.input_shape
    return {**spec.to_dict(), "input_shape": size, "dropout": None}
