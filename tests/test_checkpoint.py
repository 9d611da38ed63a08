"""The resume file: whatever happens to it is noticed, and the one before it is there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from autoseg_lib.errors import ModelError
from autoseg_lib.train.checkpoint import is_sound, load_checkpoint, load_newest, save_checkpoint
from autoseg_lib.train.files import previous_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "NAME_last.ckpt"
    save_checkpoint(path, {"state": {"step": 1, "weights": torch.arange(5.0)}})
    return path


def test_what_was_written_comes_back(saved: Path) -> None:
    state = load_checkpoint(saved)["state"]
    assert state["step"] == 1
    assert torch.equal(state["weights"], torch.arange(5.0))
    content = saved.read_bytes()
    assert content[-48:-16] == hashlib.sha256(content[:-48]).digest()


def test_a_file_cut_off_anywhere_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        assert not is_sound(saved), length
    with pytest.raises(
        ModelError, match="It is damaged, was not written to its end, or was made by another program"
    ):
        load_checkpoint(saved)


def test_a_changed_byte_anywhere_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    for place in range(len(content)):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        assert not is_sound(saved), place
    saved.write_bytes(content + b"\0")
    assert not is_sound(saved)


def test_the_one_before_is_kept_and_used(saved: Path) -> None:
    save_checkpoint(saved, {"state": {"step": 2}}, keep_previous=True)
    assert load_newest(saved)[0]["state"]["step"] == 2
    saved.write_bytes(saved.read_bytes()[:100])
    state, remark = load_newest(saved)
    assert state["state"]["step"] == 1
    assert remark.startswith(
        "'NAME_last.ckpt' is damaged or was not written to its end: going on from the one before it, of "
    )
    saved.unlink()
    assert load_newest(saved)[1].startswith(
        "'NAME_last.ckpt' is missing: going on from the one before it, of "
    )
    previous_of(saved).write_bytes(b"")
    with pytest.raises(ModelError, match="was not found in"):
        load_newest(saved)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x_last.ckpt"
    torch.save({"a": 1}, path)
    with pytest.raises(ModelError, match="cannot be read as a training checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"format": "something else"})
    with pytest.raises(ModelError, match="is no checkpoint of this workbench"):
        load_checkpoint(path)
    save_checkpoint(path, {"format_version": 99})
    with pytest.raises(ModelError, match="newer version of the workbench"):
        load_checkpoint(path)
