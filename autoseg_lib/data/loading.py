"""Batches without end for the training loop: prepared by helper processes where they work, else in this process.

Which batch comes next depends on (seed, epoch, step) alone, so helpers can be given up at any moment and the run goes on with
exactly the batches it would have had.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import signal
import threading
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from autoseg_lib.data.dataset import Key, KeyedBatches
from autoseg_lib.errors import AutosegError
from autoseg_lib.events import Listener, Message, nobody

Batch = dict[str, torch.Tensor]

# A helper that is alive but gives nothing for so long is given up. Starting one takes up to a minute on a slow network drive.
PATIENCE_SECONDS = 180
# So often it is looked whether a helper has died.
_LOOK_SECONDS = 5
_AHEAD = 4


class BatchStream:
    """The training batches, one after the other, over all epochs.

    Attributes:
        batches: which samples make a batch.
        helpers: helper processes in use; 0: batches are prepared in this process.
    """

    def __init__(
        self, dataset: Dataset[Batch], batches: KeyedBatches, helpers: int, pin_memory: bool = False
    ) -> None:
        """Args:
        dataset: gives a sample for a key (epoch, index).
        batches: which samples make a batch.
        helpers: helper processes to prepare batches; 0: none.
        pin_memory: lay batches where a GPU fetches them faster.
        """
        self.dataset, self.batches, self.helpers, self.pin_memory = dataset, batches, helpers, pin_memory

    def __iter__(self) -> Iterator[Batch]:
        return self.begin(self.batches.epoch, self.batches.first)

    def begin(self, epoch: int, first: int, on_event: Listener = nobody) -> Iterator[Batch]:
        """Yields batches without end. Close the generator to end the helpers.

        Args:
            epoch: epoch, from 0, of the first batch.
            first: its number within the epoch, from 0.
            on_event: hears when helpers do not work and this process prepares the batches itself.
        """
        source: Any = None
        if first >= len(self.batches):  # the epoch is through, only what follows it was not
            epoch, first = epoch + 1, 0
        while True:
            lost: Exception | None = None
            try:
                source = self._open(epoch, first) if source is None else source
                yield self._next(source)
            except GeneratorExit:
                _close(source)
                raise
            except AutosegError:
                _close(source)
                raise
            except Exception as error:
                if not self.helpers:
                    raise
                lost = error
            if lost is None:
                first += 1
                if first >= len(self.batches):
                    epoch, first = epoch + 1, 0
                continue
            # If not a helper but the data are at fault, preparing the same batch here will show it.
            _close(source)
            source, self.helpers = None, 0
            on_event(Message(_without_helpers(lost), "warning"))

    def _open(self, epoch: int, first: int) -> Iterator[Batch]:
        keys = _Endless(self.batches, epoch, first)
        if not self.helpers:
            return iter(DataLoader(self.dataset, batch_sampler=keys, pin_memory=self.pin_memory))
        _start_tracker()
        with warnings.catch_warnings(), _own_signals():
            warnings.simplefilter("ignore")  # what does not work is said in one sentence, see begin()
            return iter(
                DataLoader(
                    self.dataset,
                    batch_sampler=keys,
                    num_workers=self.helpers,
                    prefetch_factor=max(2, -(-_AHEAD // self.helpers)),
                    multiprocessing_context=_HelperContext(),
                    worker_init_fn=_begin_helper,
                    pin_memory=self.pin_memory,
                    timeout=_LOOK_SECONDS,
                )
            )

    def _next(self, source: Iterator[Batch]) -> Batch:
        for _ in range(PATIENCE_SECONDS // _LOOK_SECONDS):
            try:
                return next(source)
            except RuntimeError as error:
                # Nothing came, but no helper died: torch raises the latter with other words.
                if not self.helpers or "timed out after" not in str(error):
                    raise
        raise TimeoutError(f"they gave nothing for {PATIENCE_SECONDS} seconds")


class _Endless(Sampler[list[Key]]):
    """The batches of one epoch after the other."""

    def __init__(self, batches: KeyedBatches, epoch: int, first: int) -> None:
        self.batches, self.epoch, self.first = copy.copy(batches), epoch, first

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in itertools.count(self.epoch):
            self.batches.epoch = epoch
            self.batches.first = self.first if epoch == self.epoch else 0
            yield from self.batches


def _close(source: Any) -> None:
    """Ends the helpers now, not when the garbage is collected: they hold memory."""
    end = getattr(source, "_shutdown_workers", None)  # torch has no public name for it
    if end is not None:
        end()


def _without_helpers(error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return (
        f"The helper processes that prepare images did not work ({type(error).__name__}: {reason[:200]}). Training goes on in one "
        "process: the same result, a little slower. num_workers = 0 leaves them out from the start."
    )


# --- starting helpers -------------------------------------------------------------------------------------------------

_one_at_a_time = threading.Lock()


class _HelperProcess(SpawnProcess):
    """A process that imports what it needs and never runs the user's own script again.

    A process that is spawned imports the main script first; one without ``if __name__ == "__main__"`` would start the whole
    training once more in each helper. Helpers need nothing of it.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with _one_at_a_time, _no_main_script(), _interrupt_held_back():
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class _HelperContext(SpawnContext):
    Process = _HelperProcess  # type: ignore[assignment]


@contextlib.contextmanager
def _no_main_script() -> Iterator[None]:
    complete = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        return {key: value for key, value in complete(name).items() if not key.startswith("init_main")}

    spawn.get_preparation_data = without_main
    try:
        yield
    finally:
        spawn.get_preparation_data = complete


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Ctrl-C, and SLURM's signal before the time is up, reach helpers too; they must live until the step in hand has ended.

    A signal that is blocked here stays blocked in a process that is started here. Windows has no such thing: there a helper
    ignores it as soon as it runs.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Starts multiprocessing's own process, which clears up after helpers, so that no signal to all processes ends it."""
    if hasattr(signal, "pthread_sigmask"):
        with _interrupt_held_back():
            resource_tracker.ensure_running()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps torch from raising wherever the main thread happens to be when a helper dies, e.g. in the middle of a step.

    That a helper is gone is seen when its next batch is asked for, and answered there.
    """
    signal_number = getattr(signal, "SIGCHLD", None)  # Windows has none
    if signal_number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal_number)
    try:
        yield
    finally:
        signal.signal(signal_number, before if before is not None else signal.SIG_DFL)


def _begin_helper(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread_each(worker)


def one_thread_each(worker: int) -> None:
    """For DataLoader's ``worker_init_fn``: helper processes do not fight over the cores."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
