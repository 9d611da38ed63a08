"""Going on with smaller images or patches after memory ran out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from autoseg_lib.errors import SettingsError
from autoseg_lib.networks.registry import size_multiple, takes_any_size
from autoseg_lib.train.planning import Plan


def plan_smaller(plan: Plan) -> Plan | None:
    """Returns the plan with images or patches about three quarters as long, for when memory ran out at one at a time.

    What is learned goes on in the same network, for as many steps as before. In 2D the slices have to be prepared anew.

    Returns:
        the plan; None where the network cannot work on less, or its weights belong to one size.
    """
    spec, multiple = plan.network, size_multiple(plan.network)
    if not takes_any_size(spec):
        return None
    shape = [max(2 * multiple, int(0.75 * n / multiple) * multiple) for n in spec.input_shape]
    try:
        smaller = replace(spec, input_shape=tuple(shape))
    except SettingsError:
        return None
    if smaller.input_shape == spec.input_shape:
        return None
    whole = spec.dimension == "2D" and spec.input_shape == plan.preprocessing.input_shape
    setting = "input_shape" if whole else "patch_size"
    choices = tuple(
        replace(c, value=shape, reason="memory ran out with a larger one") if c.setting == setting else c
        for c in plan.choices
    )
    values: dict[str, Any] = {setting: shape}
    changed = replace(plan, settings=replace(plan.settings, **values), choices=choices, network=smaller)
    if spec.dimension == "3D":
        return replace(changed, window=(shape[0], shape[1], shape[2]))
    if not whole:
        return changed
    return replace(changed, preprocessing=replace(plan.preprocessing, input_shape=(shape[0], shape[1])))
