"""Prepared scans in memory and on disk."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from autoseg_lib.data import packed as packed_module
from autoseg_lib.data.dataset import PatchDataset, SliceDataset
from autoseg_lib.data.packed import PackedCases, PreparedCase
from autoseg_lib.errors import DataError, OutOfSpaceError
from autoseg_lib.io.scratch import scratch_folder


def cases(count: int = 3, shape: tuple[int, int, int] = (4, 6, 5)) -> list[PreparedCase]:
    random = np.random.default_rng(1)
    return [
        PreparedCase(
            f"case{n}",
            random.normal(size=(shape[0] + n, *shape[1:])).astype(np.float32),
            random.integers(0, 3, size=(shape[0] + n, *shape[1:])).astype(np.uint8),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_what_was_packed_comes_out_again(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "VOXELS_PER_BLOCK", 150)  # less than two cases
    given = cases()
    held = PackedCases.build(iter(given), cache, tmp_path)  # type: ignore[arg-type]
    assert held.names == ["case0", "case1", "case2"]
    assert held.shapes == [(4, 6, 5), (5, 6, 5), (6, 6, 5)]
    for number, case in enumerate(given):
        np.testing.assert_array_equal(held.image(number), case.image.astype(np.float16))
        np.testing.assert_array_equal(held.label(number), case.label)
        assert held.darkest[number] == case.image.min()


def test_numbers_beyond_half_precision_become_its_largest() -> None:
    image = np.full((1, 1, 2), 1e9, np.float32)
    held = PackedCases.build([PreparedCase("bright", image, np.zeros((1, 1, 2), np.uint8))])
    assert held.image(0).tolist() == [[[65504.0, 65504.0]]]


def test_cases_are_packed_one_after_the_other() -> None:
    alive: list[str] = []

    def one_at_a_time() -> Iterator[PreparedCase]:
        for case in cases():
            alive.append(case.name)
            assert len(alive) == 1
            yield case
            alive.pop()

    assert len(PackedCases.build(one_at_a_time())) == 3


def test_no_case_is_refused() -> None:
    with pytest.raises(DataError, match="no scan to learn from"):
        PackedCases.build([])


def test_files_on_disk_go_with_the_cases(tmp_path: Path) -> None:
    held = PackedCases.build(cases(), "disk", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels"]
    assert (folder / "images").stat().st_size == 2 * (4 + 5 + 6) * 30
    del held
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_stays(tmp_path: Path) -> None:
    mine = scratch_folder(tmp_path)
    dead = max(psutil.pids()) + 10_000
    left = tmp_path / mine.name.replace(f"_{os.getpid()}_", f"_{dead}_")
    left.mkdir()
    # The number of a process may be given to another one later.
    begun = mine.name.split("_")[4]
    reused = tmp_path / mine.name.replace(f"_{begun}_", f"_{int(begun) - 1000}_")
    reused.mkdir()
    other = tmp_path / "autoseg_scratch_00000000_1_1_x"  # of another computer
    other.mkdir()
    scratch_folder(tmp_path)
    assert mine.exists()
    assert other.exists()
    assert not left.exists()
    assert not reused.exists()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, values: object) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    store = packed_module._Disk(tmp_path)
    store.close()
    store._open = (Full(), Full())  # type: ignore[assignment]
    with pytest.raises(OutOfSpaceError, match=r"could not be written.*No space left.*set cache"):
        PackedCases(iter(cases()), store)


def _sum_in_helper(data: bytes, answer: object) -> None:
    dataset = pickle.loads(data)
    answer.put(float(dataset[1, 2]["image"].sum()))  # type: ignore[attr-defined]


def test_a_helper_process_reads_the_same_pixels_from_disk_and_leaves_them_there(tmp_path: Path) -> None:
    dataset = SliceDataset(PackedCases.build(cases(), "disk", tmp_path), None, 0)
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    helper = context.Process(target=_sum_in_helper, args=(pickle.dumps(dataset), answer))
    helper.start()
    assert answer.get(timeout=60) == pytest.approx(float(dataset[1, 2]["image"].sum()))
    helper.join()
    assert (next(tmp_path.iterdir()) / "images").exists()


def test_patches_are_the_same_from_memory_and_from_disk(tmp_path: Path) -> None:
    from_memory = PatchDataset(PackedCases.build(cases()), (3, 4, 4), None, 0, length=4)
    from_disk = PatchDataset(PackedCases.build(cases(), "disk", tmp_path), (3, 4, 4), None, 0, length=4)
    for index in range(4):
        for key in ("image", "label"):
            assert from_memory[0, index][key].equal(from_disk[0, index][key])
