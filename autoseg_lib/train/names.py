"""Names in the settings that only the parts they choose from know: networks, losses, optimisers."""

from __future__ import annotations

from collections.abc import Callable

from autoseg_lib.errors import SettingsError
from autoseg_lib.losses.registry import build_loss
from autoseg_lib.networks.registry import check_network_name
from autoseg_lib.settings import AUTO, TrainSettings
from autoseg_lib.train.optimizers import check_optimizer
from autoseg_lib.train.starting import check_freezing


def check_names(settings: TrainSettings) -> None:
    """Makes sure that what was asked for by name is there, before anything takes time.

    Raises:
        SettingsError: lists all that is wrong.
    """
    checks: list[Callable[[], object]] = [lambda: check_freezing(settings, settings.freeze_encoder_epochs)]
    if settings.network != AUTO:
        checks.append(lambda: check_network_name(settings.dimension, settings.network.lower()))
    if settings.loss != AUTO:
        checks.append(lambda: build_loss(settings.loss))
    if settings.optimizer != AUTO:
        checks.append(lambda: check_optimizer(settings.optimizer))
    problems = []
    for check in checks:
        try:
            check()
        except SettingsError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise SettingsError(problems[0])
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise SettingsError(f"{len(problems)} settings need correcting:\n{lines}")
