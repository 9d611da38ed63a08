"""What a folder holds: names, series, localizers, manifests, and the messages where there is nothing."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.data.discover import describe_source, discover
from autoseg_lib.data.naming import CaseNamer
from autoseg_lib.data.scan import load_scan
from autoseg_lib.errors import DataError, SettingsError
from autoseg_lib.export.run_folder import open_run
from autoseg_lib.geometry import Geometry
from autoseg_lib.io.identity import tells_identity
from autoseg_lib.io.raster import write_mask_png
from autoseg_lib.io.volume_files import write_mask_file, write_volume_file
from autoseg_lib.volume import Mask, Volume
from autoseg_lib.workflow.finished import result_key
from tests.helpers.dicom import uid, write_series, write_slice
from tests.helpers.real_data import real_data


def pixels(count: int = 3) -> np.ndarray:
    return np.arange(count * 30, dtype=np.int16).reshape(count, 5, 6)


def png(path: Path, shape=(5, 6)) -> Path:
    write_mask_png(path, np.zeros(shape, np.uint8))
    return path


LOCALIZER = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


def test_one_folder_per_scan(tmp_path: Path) -> None:
    write_series(tmp_path / "scan_2", pixels(), series=2)
    write_series(tmp_path / "scan_10", pixels(4), series=3, spacing=(0.9375, 0.9375), step=(0, 0, 4.4))
    found = discover(tmp_path)
    assert [source.name for source in found.sources] == ["scan_2", "scan_10"]
    assert describe_source(found.sources[1]) == "MR, 4 slices, 5×6, 0.94 mm, 4.4 mm between slices"
    assert found.sources[1].slice_names == ("slice_001", "slice_002", "slice_003", "slice_004")


def test_two_series_and_a_localizer_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "knee"
    write_series(folder, pixels(2), prefix="a", series=1, SeriesNumber=1, **LOCALIZER)
    write_series(folder, pixels(3), prefix="b", series=2, SeriesNumber=2)
    write_series(folder, pixels(4), prefix="c", series=3, SeriesNumber=3)
    found = discover(folder)
    assert [(s.name, len(s.files)) for s in found.sources] == [("knee_1", 3), ("knee_2", 4)]
    assert [len(s.files) for s in found.left_out] == [2]
    text = " ".join(found.notes)
    assert "one folder holds 2 scans (3 and 4 slices" in text
    assert "A localizer (scout) was skipped." in text
    assert [len(s.files) for s in discover(folder, series=2).sources] == [4]
    assert [len(s.files) for s in discover(folder, series=[3, 1]).sources] == [3, 2]
    with pytest.raises(DataError, match=r"there is no series \[9\]. It holds 1: MR, 3 slices"):
        discover(folder, series=9)


def test_only_a_localizer(tmp_path: Path) -> None:
    write_series(tmp_path / "x", pixels(2), **LOCALIZER)
    with pytest.raises(DataError, match=r"it holds only localizer .scout. images"):
        discover(tmp_path)
    assert len(discover(tmp_path, series=1).sources) == 1


def test_equal_folder_names_and_odd_letters(tmp_path: Path) -> None:
    write_series(tmp_path / "P 1" / "T1", pixels(), series=1)
    write_series(tmp_path / "P é" / "T1", pixels(), series=2)
    assert [source.name for source in discover(tmp_path).sources] == ["T1", "P é_T1"]
    namer = CaseNamer(tmp_path)
    assert namer.name('a:b*c?"<>|', tmp_path, ()) == "a_b_c_____"
    assert namer.name("A_B_C_____", tmp_path, ()) == "A_B_C______2"


def dealt_out(root: Path, *, step: float = 3.0, shift: float = 0.0, **tags: object) -> None:
    """Six slices of one series: three in DIR0, three in DIR1, named alike as archives do."""
    for index, plane in enumerate(pixels(6)):
        folder, place = divmod(index, 3)
        write_slice(
            root / f"DIR{folder}" / f"I{place}",
            plane,
            position=(shift * folder, 0, step * index),
            number=index + 1,
            SOPInstanceUID=uid(root.name, index),
            **tags,
        )


def test_a_series_dealt_out_to_folders_is_one_scan(tmp_path: Path) -> None:
    dealt_out(tmp_path / "export")
    (source,) = discover(tmp_path / "export").sources
    assert (source.name, len(source.files)) == ("export", 6)
    assert source.slice_names[:2] == ("slice_0001", "slice_0002")  # I0 would be there twice
    assert describe_source(source) == "MR, 6 slices, 5×6, 1.00 mm, 3.0 mm between slices"
    assert source.warnings == ("its slices lie in 2 folders; they were put together to one scan.",)
    assert np.array_equal(load_scan(source).volume.array, pixels(6))


@pytest.mark.parametrize(
    "change",
    [
        {"step": 0.0},  # the same places again (a dynamic series)
        {"shift": 5.0},  # not in one line
        {"SOPInstanceUID": "1.2.3"},  # perhaps copies
    ],
)
def test_folders_of_one_uid_that_make_no_stack_stay_apart(tmp_path: Path, change: dict[str, object]) -> None:
    copies = change.pop("SOPInstanceUID", None)
    dealt_out(tmp_path / "export", **change)
    if copies:
        write_series(tmp_path / "export" / "DIR1", pixels(3), series=1)
        for file in (tmp_path / "export" / "DIR1").glob("I*"):
            file.write_bytes((tmp_path / "export" / "DIR0" / file.name).read_bytes())
    found = discover(tmp_path / "export")
    assert [source.name for source in found.sources] == ["DIR0", "DIR1"]
    assert found.notes[0].startswith("By their headers some folders hold parts of one and the same series")
    assert found.notes[0].endswith("Folders of one series: 'DIR0', 'DIR1'.")


def test_folders_that_claim_to_be_one_series_are_said_once(tmp_path: Path) -> None:
    for series, place in enumerate("abc", start=1):
        for number in (0, 1):
            folder = tmp_path / f"{place}{number}"
            write_series(folder, pixels(3), series=series, origin=(5.0 * number, 0, 0))
    notes = [note for note in discover(tmp_path).notes if "one and the same series" in note]
    assert len(notes) == 1
    assert notes[0].endswith("Folders of one series: 'a0', 'a1'; 'b0', 'b1'; 'c0', 'c1'.")


def test_a_number_counts_in_every_folder_but_takes_no_localizer_there(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_series(tmp_path / place, pixels(3), prefix="x", series=ord(place), SeriesNumber=1)
    write_series(tmp_path / "a", pixels(2), prefix="y", series=3, SeriesNumber=2)
    write_series(tmp_path / "b", pixels(1), prefix="z", series=4, SeriesNumber=2, **LOCALIZER)
    assert [s.name for s in discover(tmp_path, series=2).sources] == ["a_2"]
    assert [s.name for s in discover(tmp_path, series=1).sources] == ["a_1", "b"]
    # In its own folder the number is meant.
    assert [len(s.files) for s in discover(tmp_path / "b", series=2).sources] == [1]


def test_two_patients_under_one_uid_stay_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "a", pixels(3), PatientID="A", prefix="a")
    write_series(tmp_path / "b", pixels(3), PatientID="B", prefix="b", origin=(0, 0, 3))
    assert [source.name for source in discover(tmp_path).sources] == ["a", "b"]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_header_and_its_pixels_are_one_scan(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    found = discover(tmp_path)
    (source,) = found.sources
    assert [file.name for file in source.files] == [f"a{suffix}", "a.raw"]
    assert [file.name for file in source.images] == [f"a{suffix}"]
    assert found.skipped == ()
    assert load_scan(source).volume.array.shape == (3, 4, 5)
    # A result holds for these pixels, not for others under the same header.
    before = result_key(source, "m", {})
    (tmp_path / "a.raw").write_bytes((tmp_path / "a.raw").read_bytes()[::-1])
    assert result_key(source, "m", {}) != before


def run_folder(path: Path, case: str) -> Path:
    """A run folder with one case, as segmenting leaves it."""
    run = open_run(path)
    folder = run.begin_case(case)
    files = [png(folder / "masks" / f"slice_00{number}.png") for number in (1, 2)]
    files += [png(folder / "overlays" / "slice_001.jpg"), folder / "segmentation.nii.gz"]
    write_mask_file(files[-1], Mask(np.zeros((2, 5, 6), np.uint8), Geometry.from_spacing((2, 5, 6))))
    run.remember_case(case, files)
    run.save()
    run.report.write_text("{}", encoding="utf-8")
    return path


def test_results_of_earlier_runs_are_no_scans(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "knee", pixels())
    run_folder(tmp_path / "study" / "results", "knee")
    # A case that was interrupted is in no record.
    png(tmp_path / "study" / "results" / "hip" / "masks" / "slice_001.png")
    (tmp_path / "study" / "trained_model").mkdir()
    (tmp_path / "study" / "trained_model" / "m_best.safetensors").write_bytes(b"\x08\x00" + bytes(200))
    found = discover(tmp_path / "study")
    assert [source.name for source in found.sources] == ["knee"]
    assert found.notes == ("results of earlier runs were left aside ('results'); they are no scans.",)
    assert [(item.reason, item.serious) for item in found.skipped] == [
        ("a trained model, not an image", False)
    ]


def test_results_written_into_the_folder_of_the_scans(tmp_path: Path) -> None:
    write_series(tmp_path / "knee", pixels())
    run_folder(tmp_path, "knee")
    found = discover(tmp_path)
    assert [(source.name, len(source.files)) for source in found.sources] == [("knee", 3)]
    assert [source.name for source in discover(tmp_path / "knee").sources] == ["knee"]


@pytest.mark.parametrize("inside", ["", "knee", "knee/masks"])
def test_a_run_folder_alone_holds_no_scans(tmp_path: Path, inside: str) -> None:
    run_folder(tmp_path / "run", "knee")
    with pytest.raises(DataError, match="it holds only results of an earlier run"):
        discover(tmp_path / "run" / inside)


def test_names_that_tell_the_patient_are_hashed(tmp_path: Path) -> None:
    person = {"PatientName": "Doe^Jane", "PatientID": "99-1234567", "PatientBirthDate": "19700131"}
    for number, name in enumerate(("Jane DOE knee", "991234567", "scan 1970-01-31", "knee left")):
        write_series(tmp_path / name, pixels(), series=number, **person)
    names = [source.name for source in discover(tmp_path).sources]
    assert sum(name.startswith("case_") and len(name) == 13 for name in names) == 3
    assert "knee left" in names
    again = [source.name for source in discover(tmp_path).sources]
    assert names == again


def test_volumes_and_pictures_beside_dicom_files_do_not_keep_the_persons_name(tmp_path: Path) -> None:
    write_series(tmp_path / "Meier_Hans" / "mr", pixels(), PatientName="Meier^Hans", PatientID="4711")
    geometry = Geometry.from_spacing((2, 4, 4))
    for name in ("Meier_Hans_T1", "Meier_Hans_T2", "knee"):
        write_volume_file(
            tmp_path / "Meier_Hans" / f"{name}.nii.gz", Volume(np.zeros((2, 4, 4), np.float32), geometry)
        )
    for number in (1, 2):
        (tmp_path / "Meier_Hans" / "shots").mkdir(exist_ok=True)
        png(tmp_path / "Meier_Hans" / "shots" / f"meier_hans_{number}.png")
    sources = discover(tmp_path).sources
    assert sorted(source.kind for source in sources) == ["dicom", "raster", "volume", "volume", "volume"]
    told = [text for s in sources for text in (s.name, s.patient, *s.slice_names)]
    assert not [text for text in told if "meier" in text.lower()]
    assert len({source.name for source in sources}) == 5 and "knee" in {s.name for s in sources}
    # Scans in the patient's folder are kept together all the same.
    assert len({source.patient for source in sources if source.kind == "volume"}) == 1


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("Li_Na", {"PatientName": "Li^Na"}),
        ("knee NaLi 2", {"PatientName": "Li^Na"}),
        ("王小明", {"PatientName": "王^小明"}),
        ("小明王膝盖", {"PatientName": "王^小明"}),
        ("김민수_knee", {"PatientName": "Kim^Minsu=김^민수"}),
        (
            unicodedata.normalize("NFD", "Müller_Jörg"),
            {"PatientName": unicodedata.normalize("NFC", "Müller^Jörg")},
        ),
        (
            unicodedata.normalize("NFC", "Müller_Jörg"),
            {"PatientName": unicodedata.normalize("NFD", "Müller^Jörg")},
        ),
        ("Muller knee", {"PatientName": "Müller^Jörg"}),
        ("Mueller knee", {"PatientName": "Müller^Jörg"}),
        ("Søren", {"PatientName": "Soren^A"}),
        ("02-03-1961", {"PatientBirthDate": "19610203"}),
        ("knee 3.2.1961", {"PatientBirthDate": "19610203"}),
        ("03021961_knee", {"PatientBirthDate": "19610203"}),
        ("knee_MRN77812", {"PatientID": "MRN77812"}),
        ("mrn-77812", {"PatientID": "MRN77812"}),
    ],
)
def test_names_that_tell_the_patient_in_other_letters(
    tmp_path: Path, name: str, person: dict[str, str]
) -> None:
    write_series(tmp_path / name, pixels(), SpecificCharacterSet="ISO_IR 192", **person)
    (source,) = discover(tmp_path).sources
    assert source.name.startswith("case_")
    assert len(source.name) == 13


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("spinalina", {"PatientName": "Li^Na"}),
        ("li knee", {"PatientName": "Li^Na"}),
        ("knee 2_3", {"PatientBirthDate": "19610203"}),
        ("scan_12_3", {"PatientID": "123"}),
        ("pat_1", {"PatientID": "pat1"}),
        ("case 1", {"PatientName": "Case^1", "PatientID": "1"}),
    ],
)
def test_names_that_only_look_alike_stay(tmp_path: Path, name: str, person: dict[str, str]) -> None:
    write_series(tmp_path / name, pixels(), **person)
    assert discover(tmp_path).sources[0].name == name


def test_short_names_are_found_as_words_only() -> None:
    assert tells_identity("scan lee 1", {"lee"})
    assert not tells_identity("sleep study", {"lee"})
    assert tells_identity("MUELLERanna", {"mueller"})
    assert not tells_identity("study_1", {"anonymous"})


def test_the_file_name_names_a_single_file(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "some folder" / "one.dcm", pixels()[0])
    (source,) = discover(path).sources
    assert source.name == "one"
    assert len(source.files) == 1


def test_patients(tmp_path: Path) -> None:
    write_series(tmp_path / "a", pixels(), series=1, PatientID="7")
    write_series(tmp_path / "b", pixels(), series=2, PatientID="7")
    write_series(tmp_path / "c", pixels(), series=3)
    one, two, three = discover(tmp_path).sources
    assert one.patient == two.patient != three.patient
    assert three.patient.startswith("study_")
    for name in ("p1-IM-1", "p1-IM-2", "p2-IM-1"):
        png(tmp_path / "png" / f"{name}.png")
    found = discover(tmp_path / "png", patient_pattern=r"^(.*)-IM-")
    assert [source.patient for source in found.sources] == ["p1", "p1", "p2"]
    with pytest.raises(SettingsError, match=r"patient_pattern = .* is not a regular expression"):
        discover(tmp_path / "png", patient_pattern="(")


def test_pictures_are_scans_of_one_slice_and_sub_folders_scans_of_many(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "scan/10.png", "scan/9.png", "images/x.png", "images/y.png"):
        png(tmp_path / name)
    found = {source.name: source.slice_names for source in discover(tmp_path).sources}
    assert found == {"a": ("a",), "b": ("b",), "scan": ("9", "10"), "x": ("x",), "y": ("y",)}


def test_labels_beside_images_are_not_scans(tmp_path: Path) -> None:
    write_series(tmp_path / "train" / "images" / "s1", pixels())
    png(tmp_path / "train" / "labels" / "s1" / "slice_001.png")
    found = discover(tmp_path)
    assert [source.kind for source in found.sources] == ["dicom"]
    assert "the label files in 'train/labels' were left aside" in found.notes[0]


def test_pictures_beside_dicom_are_skipped(tmp_path: Path) -> None:
    write_series(tmp_path, pixels())
    png(tmp_path / "preview.png")
    found = discover(tmp_path)
    assert [source.kind for source in found.sources] == ["dicom"]
    assert [item.reason for item in found.skipped] == [
        "a picture beside a DICOM series; the DICOM files are used"
    ]


def test_volumes(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / "hip 1.nii.gz")
    (source,) = discover(tmp_path).sources
    assert (source.name, source.kind, source.patient) == ("hip 1", "volume", "hip 1")
    assert describe_source(source) == "volume, 5×4×3, 1.00 × 1.00 × 1.00 mm"


# --- nothing there --------------------------------------------------------------------------------------------------------


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found. Check the path"):
        discover(tmp_path / "nowhere")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the folder is empty. Choose the folder that holds the scans"):
        discover(tmp_path)


def test_folder_without_scans_lists_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.dcm").write_text("no DICOM")
    write_slice(tmp_path / "plan.dcm", pixels()[0], modality="RTPLAN")
    with pytest.raises(DataError) as error:
        discover(tmp_path)
    text = str(error.value)
    assert "no scan in this folder" in text
    for words in (
        "1 × it is not a DICOM file;",
        "though its name says so",
        "1 × a radiotherapy plan, not an image",
    ):
        assert words in text


def test_text_named_dcm(tmp_path: Path) -> None:
    (tmp_path / "b.dcm").write_text("no DICOM")
    with pytest.raises(
        DataError, match=r"'b.dcm': it is not a DICOM file, though its name says so. Choose a DICOM"
    ):
        discover(tmp_path / "b.dcm")


def test_damaged_files_are_said(tmp_path: Path) -> None:
    write_series(tmp_path, pixels())
    (tmp_path / "b.dcm").write_text("no DICOM")
    assert discover(tmp_path).notes == (
        "1 file looks damaged: 'b.dcm' (it is not a DICOM file, though its name says so).",
    )


# --- manifests -----------------------------------------------------------------------------------------------------------


def test_manifest(tmp_path: Path) -> None:
    write_series(tmp_path / "Scan é", pixels())
    for name in ("1.png", "2.png", "3.png"):
        png(tmp_path / "p" / name)
    (tmp_path / "list.csv").write_text(
        "image;case;patient\nScan é;knee;P1\np/1.png;hand;P2\np/2.png;hand;P2\np/3.png;;\n", encoding="utf-8"
    )
    found = discover(tmp_path / "list.csv")
    assert [(s.name, s.patient, len(s.files)) for s in found.sources] == [
        ("knee", "P1", 3),
        ("hand", "P2", 2),
        ("3", "p", 1),
    ]


@pytest.mark.skipif(os.sep == "\\", reason="a backslash is right on Windows")
def test_a_manifest_written_on_windows_says_how_to_write_paths(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image\nscans\\one.nii.gz\n", encoding="utf-8")
    with pytest.raises(DataError, match='Write "/" between folders'):
        discover(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\na,b\n", "found the columns file, label; expected image"),
        ("image\nnope.dcm\nnada.png\n", r"these are not there: 'nope.dcm \(line 2\)', 'nada.png \(line 3\)'"),
        ("image\n", "it lists no images"),
        ("", "found the columns nothing"),
    ],
)
def test_manifest_mistakes(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        discover(tmp_path / "list.csv")


@pytest.mark.real_data
def test_real_study_folder() -> None:
    found = discover(real_data("hippocampus_dicom_studies"))
    assert all(source.modality == "MR" for source in found.sources)
    for source in found.sources:
        if source.name.endswith("HCropVolume"):
            assert "1.00 mm, 1.0 mm between slices" in describe_source(source)
