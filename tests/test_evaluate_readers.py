"""Several readers: each against the prediction and against the others, ranks and the figure."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.evaluate.readers import ReaderEvaluation, reader_names
from autoseg_lib.workflow.evaluating import evaluate
from tests.helpers.real_data import real_data


def write(path: Path, columns: range) -> None:
    """A bar of two rows over these columns, 20 pixels wide."""
    plane = np.zeros((6, 20), np.uint8)
    plane[2:4, columns.start : columns.stop] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plane).save(path)


def three_readers(folder: Path) -> Path:
    """Readers of 10, 10 and 8 columns; the prediction is the first one's with a column less."""
    for name, columns in (("anna", range(0, 10)), ("ben", range(2, 12)), ("carl", range(0, 8))):
        write(folder / "readers" / name / "s1.png", columns)
    write(folder / "model" / "s1.png", range(0, 9))
    return folder / "readers"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_ranks_by_hand(tmp_path: Path) -> None:
    readers = three_readers(tmp_path)
    out = tmp_path / "out.csv"
    found = evaluate(readers, tmp_path / "model", out, readers=True, figure=tmp_path / "out.png")
    assert isinstance(found, ReaderEvaluation)
    rows = table(out)
    # 2 × common / both: with anna 18/19, with ben 2·7/19, with carl 2·8/17.
    assert [row["reader"] for row in rows] == ["anna", "ben", "carl"]
    assert [float(row["dice"]) for row in rows] == pytest.approx([18 / 19, 14 / 19, 16 / 17], abs=1e-4)
    pairs = table(tmp_path / "out_between_readers.csv")
    assert [(row["reader"], row["other_reader"]) for row in pairs] == [
        ("anna", "ben"),
        ("anna", "carl"),
        ("ben", "carl"),
    ]
    assert [float(row["dice"]) for row in pairs] == pytest.approx([16 / 20, 16 / 18, 12 / 18], abs=1e-4)
    ranks = {row["reader"]: row for row in table(tmp_path / "out_readers.csv")}
    means = {
        "prediction": (18 / 19 + 14 / 19 + 16 / 17) / 3,
        "anna": (16 / 20 + 16 / 18) / 2,
        "ben": (16 / 20 + 12 / 18) / 2,
        "carl": (16 / 18 + 12 / 18) / 2,
    }
    for name, mean in means.items():
        assert float(ranks[name]["dice_mean"]) == pytest.approx(mean, abs=1e-4)
    assert {name: row["rank"] for name, row in ranks.items()} == {
        "prediction": "1",
        "anna": "2",
        "carl": "3",
        "ben": "4",
    }
    assert "rank 1 of 4" in found.lines()[0]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 400


def test_a_reference_for_each_reader(tmp_path: Path) -> None:
    readers = three_readers(tmp_path)
    found = evaluate([readers / "anna", readers / "carl"], tmp_path / "model", tmp_path / "o.csv")
    assert isinstance(found, ReaderEvaluation)
    assert [row.reader for row in found.rows] == ["anna", "carl"]
    assert any("2 readers: 'anna', 'carl'" in note for note in found.notes)


def test_one_reference_has_no_reader(tmp_path: Path) -> None:
    readers = three_readers(tmp_path)
    found = evaluate(readers / "anna", tmp_path / "model", tmp_path / "o.csv")
    assert found.rows[0].reader == ""
    assert not (tmp_path / "o_readers.csv").exists()


def test_equal_ranks_share_the_better_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name / "s1.png", range(0, 10))
    write(tmp_path / "model" / "s1.png", range(0, 10))
    found = evaluate([tmp_path / "a", tmp_path / "b"], tmp_path / "model", tmp_path / "o.csv")
    assert isinstance(found, ReaderEvaluation)
    assert [row.rank for row in found.readers] == [1, 1, 1]


def test_readers_of_one_name_are_told_apart_by_their_folder() -> None:
    assert reader_names([Path("/x/anna/masks"), Path("/x/ben/masks")]) == ["anna/masks", "ben/masks"]


def test_what_is_refused(tmp_path: Path) -> None:
    readers = three_readers(tmp_path)
    with pytest.raises(SettingsError, match="give --reference several times"):
        evaluate(readers / "anna", tmp_path / "model", tmp_path / "o.csv", figure=tmp_path / "o.png")
    with pytest.raises(SettingsError, match=r"ends in \.png or \.svg"):
        evaluate(readers, tmp_path / "model", tmp_path / "o.csv", readers=True, figure=tmp_path / "o.bmp")
    with pytest.raises(SettingsError, match="takes one --reference"):
        evaluate([readers, readers], tmp_path / "model", tmp_path / "o.csv", readers=True)
    with pytest.raises(DataError, match="found 0 sub-folders"):
        evaluate(readers / "anna", tmp_path / "model", tmp_path / "o.csv", readers=True)


@pytest.mark.real_data
def test_a_fifth_reader_among_four(tmp_path: Path) -> None:
    """Five people outlined the same 35 slices; areas.csv of the data has their areas in pixels."""
    folder = real_data("interobserver_aorta_mri_bubil6")
    experts = folder / "ExpertAnnotations"
    people = [experts / f"Person{number}_Amira" for number in (1, 2)]
    found = evaluate(
        people,
        experts / "Person5_Amira",
        tmp_path / "o.csv",
        labels=["aorta"],
        reference_map={0: 1, 255: 0},
        prediction_map={0: 1, 255: 0},
    )
    assert isinstance(found, ReaderEvaluation)
    assert len(found.rows) == 70
    assert len(found.pairs) == 35
    # Counted with numpy from the pictures themselves.
    for row in found.rows[:5]:
        [path] = (experts / row.reader).glob(f"[sS]eg_{row.case.split('_')[1]}.png")
        assert row.voxels_reference == int((np.asarray(Image.open(path).convert("L")) == 0).sum())
