"""Walking folders, and writing that never leaves half a file."""

from __future__ import annotations

import errno
import hashlib
import sys
from pathlib import Path

import pytest

from autoseg_lib.errors import DataError, ExportError, OutOfSpaceError
from autoseg_lib.io.files import atomic_write, natural_key, sha256_of, walk_files


def test_natural_order() -> None:
    names = ["slice_10", "Slice_9", "slice_1", "slice_01", "a"]
    assert sorted(names, key=natural_key) == ["a", "slice_01", "slice_1", "Slice_9", "slice_10"]


def test_walk_is_in_order_and_leaves_junk_out(tmp_path: Path) -> None:
    for name in (
        "b/2.dcm",
        "b/10.dcm",
        "a/1.dcm",
        "z.dcm",
        ".hidden/x.dcm",
        "__MACOSX/y.dcm",
        "Thumbs.db",
        "._z.dcm",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in walk_files(tmp_path)]
    assert found == ["z.dcm", "a/1.dcm", "b/2.dcm", "b/10.dcm"]
    assert {path.name for path in walk_files(tmp_path, include_junk=True)} >= {"Thumbs.db", "._z.dcm"}


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it cannot be opened"):
        list(walk_files(tmp_path / "nowhere"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.dcm").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in walk_files(tmp_path)] == ["x.dcm"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_atomic_write_replaces_in_one_step_and_keeps_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "new" / "é x.nii.gz"
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("one")

    atomic_write(path, write)
    assert path.read_text() == "one"
    assert seen[0].parent == path.parent
    assert seen[0].name.endswith(".nii.gz")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            OutOfSpaceError,
            "the disk is full.*saved before is intact",
        ),
        (RuntimeError("failed: No space left on device (os error 28)"), OutOfSpaceError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), ExportError, "no permission to write there"),
        (OSError(errno.EIO, "Input/output error"), ExportError, "cannot be written .Input/output error."),
        (ValueError("a bug"), ValueError, "a bug"),
    ],
)
def test_failure_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path: Path, error, kind, words) -> None:
    path = tmp_path / "model.bin"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(kind, match=words):
        atomic_write(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_though_the_writer_hides_it_behind_an_error_of_its_own(tmp_path: Path) -> None:
    def write(target: Path) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 15956416 vs 15956312")  # as torch.save does

    with pytest.raises(OutOfSpaceError, match="the disk is full"):
        atomic_write(tmp_path / "a.ckpt", write)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    with pytest.raises(OutOfSpaceError, match=r"Make room"):
        atomic_write(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []
