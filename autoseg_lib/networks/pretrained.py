"""Weights of encoders that were trained on everyday photographs: fetched once, only when asked for, with progress.

This is the only place of the library that uses the internet. What is fetched lies in the folder of Hugging Face's client
(HF_HOME, as a rule ~/.cache/huggingface) and is found there by every later training. The files are safetensors: opening
them runs no code.
"""

from __future__ import annotations

import inspect
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging
from tqdm import tqdm

from autoseg_lib.errors import ModelError
from autoseg_lib.events import Listener, Message, Progress, nobody
from autoseg_lib.networks.networks_2d import TIMM_PREFIX, pretrained_name
from autoseg_lib.networks.registry import NetworkSpec

_WEIGHTS = "model.safetensors"
# smp reads it beside the weights.
_DESCRIPTION = "config.json"
# Finding out that there is no internet takes Hugging Face's client half a minute of trying again.
_LOOK_SECONDS = 10.0
_MEGABYTE = 1_000_000


def fetch_encoder_weights(spec: NetworkSpec, on_event: Listener = nobody) -> None:
    """Makes sure that the pretrained weights of a network's encoder lie on this computer.

    Args:
        spec: the network.
        on_event: hears the progress in megabytes.

    Raises:
        ModelError: there are none for this network, or they cannot be fetched; the message says what to do.
    """
    repository, revision, files = _source_of(spec)
    missing = [name for name in files if not _is_here(repository, name, revision)]
    if not missing:
        return
    if constants.HF_HUB_OFFLINE or not _is_online():
        raise _offline(spec)
    on_event(Message(f"Fetching the pretrained weights of '{spec.encoder}' once from {constants.ENDPOINT}."))
    try:
        for name in missing:
            _fetch(repository, name, revision, on_event)
    except OSError as error:
        raise _offline(spec) from error


def _source_of(spec: NetworkSpec) -> tuple[str, str | None, tuple[str, ...]]:
    """Returns repository, revision and files of an encoder's weights.

    Raises:
        ModelError: there are none.
    """
    if spec.encoder.startswith(TIMM_PREFIX):
        configuration = timm.get_pretrained_cfg(
            spec.encoder.removeprefix(TIMM_PREFIX), allow_unregistered=True
        )
        repository = configuration.hf_hub_id if configuration else None
        if repository:
            return repository, None, (_WEIGHTS,)
    elif spec.encoder:
        known = smp.encoders.encoders[spec.encoder]["pretrained_settings"]
        settings = known[pretrained_name(spec.encoder)]
        return settings["repo_id"], settings["revision"], (_DESCRIPTION, _WEIGHTS)
    raise ModelError(
        f"pretrained = True: there are no pretrained weights for the {spec.dimension} network {spec.title}. "
        "Set pretrained = False, or choose a 2D network with an encoder such as resnet18."
    )


def _is_here(repository: str, name: str, revision: str | None) -> bool:
    return isinstance(huggingface_hub.try_to_load_from_cache(repository, name, revision=revision), str)


def _is_online() -> bool:
    """Whether the place of the weights answers at all, through a proxy too where one is set."""
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_LOOK_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # it answers; what it answers is for the client to judge
    except (OSError, ValueError) as error:
        # A certificate that only the client knows is no reason to give up.
        return isinstance(getattr(error, "reason", None), ssl.SSLError)


def _fetch(repository: str, name: str, revision: str | None, on_event: Listener) -> None:
    more: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        more["tqdm_class"] = _bar(on_event)
    with _quiet():
        huggingface_hub.hf_hub_download(repository, name, revision=revision, **more)


def _bar(on_event: Listener) -> type[tqdm]:
    """Returns a progress bar that tells the listener instead of drawing itself."""

    class Bar(tqdm):
        def display(self, *args: Any, **keywords: Any) -> None:
            total = round((self.total or 0) / _MEGABYTE)
            if total:
                on_event(Progress("Encoder weights", min(total, round(self.n / _MEGABYTE)), total, "MB"))

        def clear(self, *args: Any, **keywords: Any) -> None:
            pass

        def close(self) -> None:
            self.display()
            self.disable = True

    return Bar


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back the lines on every try; the message in the end says it all."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _offline(spec: NetworkSpec) -> ModelError:
    repository, _, files = _source_of(spec)
    return ModelError(
        f"pretrained = True: the weights of '{spec.encoder}' ({repository}, {files[-1]}) are not on this computer, and "
        f"{constants.ENDPOINT} cannot be reached. Connect to the internet once (they are kept in '{constants.HF_HUB_CACHE}'), copy "
        "that folder from a computer that has them, or set pretrained = False."
    )
