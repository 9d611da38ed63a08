"""A disk that is really full: training goes on, says so once, and saves when there is room."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoseg_lib.errors import ExportError, OutOfSpaceError
from autoseg_lib.events import EpochDone, Event, StopFlag
from autoseg_lib.train import keeping
from autoseg_lib.train.checkpoint import load_checkpoint
from autoseg_lib.train.keeping import Keeper
from tests.helpers.tiny_training import texts, tiny_trainer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = (
        sys.platform == "linux"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    )
    if not made:
        pytest.skip("a small disk can be made by root on Linux only")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Fills a disk to its last byte; returns the file to remove."""
    path = disk / "full"
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return path


def test_training_goes_on_and_saves_when_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SECONDS_BETWEEN_TRIES", 0.0)
    trainer = tiny_trainer(small_disk, epochs=6, save_every=1)
    events: list[Event] = []
    full: list[Path] = []

    def listener(event: Event) -> None:
        events.append(event)
        if isinstance(event, EpochDone) and event.epoch == 1:
            full.append(fill(small_disk))
        if isinstance(event, EpochDone) and event.epoch == 4:
            full[0].unlink()

    assert trainer.fit(listener, StopFlag()) == "finished"
    said = texts(events)
    assert len([text for text in said if text.startswith("The disk is full, so ")]) == 1
    assert "Training goes on in memory and saves as soon as there is room" in said[0]
    assert said.index("Saving works again: all files are up to date.") == 1
    assert load_checkpoint(trainer.files.last)["state"]["epoch"] == 6
    assert len(trainer.files.history.read_text(encoding="utf-8").splitlines()) == 7
    assert trainer.files.best.is_file()
    assert not list(small_disk.glob(".part-*"))


def test_a_disk_that_stays_full_is_said_at_the_end_and_what_was_there_is_whole(small_disk: Path) -> None:
    first = tiny_trainer(small_disk, epochs=2)
    first.fit(lambda event: None, StopFlag())
    before = first.files.best.read_bytes()
    fill(small_disk)
    trainer = tiny_trainer(small_disk, epochs=4)
    trainer.restore(load_checkpoint(trainer.files.last)["state"])
    trainer.keeper.patience_seconds = 0.2
    events: list[Event] = []
    with pytest.raises(OutOfSpaceError, match="the disk is full, so it was not saved"):
        trainer.fit(events.append, StopFlag())
    assert trainer.state.epoch == 4
    assert any("Training has ended, but it cannot be saved yet." in text for text in texts(events))
    assert first.files.best.read_bytes() == before
    assert load_checkpoint(trainer.files.last)["state"]["epoch"] == 2


def test_stop_gives_up_waiting(tmp_path: Path) -> None:
    keeper, stop = Keeper(), StopFlag()
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is wanted")

    def write() -> None:
        raise ExportError(f"'{blocked}': it cannot be written.")

    events: list[Event] = []
    assert not keeper.keep(blocked, write, events.append)
    assert not keeper.keep(tmp_path / "other", write, events.append)
    assert len(events) == 1
    assert texts(events)[0].endswith("Training goes on in memory and saves as soon as it can.")
    stop.set()
    with pytest.raises(ExportError, match="cannot be written"):
        keeper.finish(events.append, stop)
