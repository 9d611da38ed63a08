"""From a folder of scans to the files of a run, with a small model trained on the spot."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from autoseg_lib.data.example_study import ExampleStudy, write_example_study
from autoseg_lib.errors import DataError, ExportError, ModelError, SettingsError
from autoseg_lib.events import Event, Progress, StopFlag, nobody
from autoseg_lib.io.volume_files import read_volume_file
from autoseg_lib.networks.model_file import load_model, read_metadata, save_model
from autoseg_lib.settings import SegmentSettings, TrainSettings, make_settings
from autoseg_lib.train.machine import Machine
from autoseg_lib.workflow.checking import check_study
from autoseg_lib.workflow.model_choice import find_model, find_models, load_models, make_predictor
from autoseg_lib.workflow.segmenting import SegmentResult, segment
from autoseg_lib.workflow.training import prepare_training, train
from tests.helpers.studies import write_volume_study

CPU = Machine(device="cpu", cores=2, ram_available_gb=8.0, precision="32")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> ExampleStudy:
    return write_example_study(tmp_path_factory.mktemp("étude trois") / "ex", scans=7)


def trained(main_dir: Path, **values: object) -> Path:
    settings = make_settings(
        TrainSettings,
        {"main_dir": str(main_dir), "model_dir": str(main_dir / "models"), "model_filename": "m", **values},
    )
    prepared = prepare_training(check_study(settings), main_dir, nobody, CPU)
    path = train(prepared).model_path
    assert path is not None
    return path


@pytest.fixture(scope="module")
def model(example: ExampleStudy) -> Path:
    """Knows little, but finds something everywhere."""
    return trained(example.folder, labels_list=list(example.roi_names), input_shape=96, epochs=4)


def run(folder: Path, model: Path, output: Path, mode: str = "new", **values: object) -> SegmentResult:
    return segment(folder, model, output, make_settings(SegmentSettings, values), mode=mode)


@pytest.fixture(scope="module")
def result(example: ExampleStudy, model: Path, tmp_path_factory: pytest.TempPathFactory) -> SegmentResult:
    output = tmp_path_factory.mktemp("out put é") / "run"
    return run(example.test_images, model, output, formats=["png", "npy", "jpg", "nifti"])


def test_every_file_of_the_run(example: ExampleStudy, result: SegmentResult):
    assert [case.name for case in result.cases] == list(example.test_scans)
    assert not result.failures
    for name in ("csa_results.csv", "measurements.csv", "volumes.csv", "run_report.json"):
        assert (result.run_folder / name).is_file()
    for scan in example.test_scans:
        folder = result.run_folder / scan
        stems = sorted(path.stem for path in (example.test_images / scan).iterdir())
        for sub, suffix in (("masks", ".png"), ("masks", ".npy"), ("overlays", ".jpg")):
            assert sorted(p.stem for p in (folder / sub).glob(f"*{suffix}")) == stems
        assert (folder / "segmentation.nii.gz").is_file()
        assert (folder / "animation.html").is_file()


def test_areas_follow_from_the_masks_and_each_slices_own_spacing(
    example: ExampleStudy, result: SegmentResult
):
    """An independent reading: pydicom for the spacing and position, Pillow for the mask, multiplied by hand."""
    table = pd.read_csv(result.run_folder / "measurements.csv")
    for scan in example.test_scans:
        rows = table[table["case"] == scan]
        positions = {}
        for path in (example.test_images / scan).iterdir():
            header = pydicom.dcmread(path)
            normal = np.cross(header.ImageOrientationPatient[:3], header.ImageOrientationPatient[3:])
            positions[path.stem] = float(np.dot(normal, header.ImagePositionPatient))
            pixel = float(header.PixelSpacing[0]) * float(header.PixelSpacing[1])
            mask = np.asarray(Image.open(result.run_folder / scan / "masks" / f"{path.stem}.png"))
            assert mask.shape == (header.Rows, header.Columns)
            for label in range(1, 7):
                row = rows[(rows["slice_file"] == path.name) & (rows["label"] == label)].iloc[0]
                assert row["pixels"] == np.count_nonzero(mask == label)
                assert row["area_mm2"] == pytest.approx(np.count_nonzero(mask == label) * pixel, abs=1e-3)
        by_number = rows.drop_duplicates("slice_number").sort_values("slice_number")["slice_file"]
        assert [Path(name).stem for name in by_number] == sorted(positions, key=positions.__getitem__)


def test_the_nifti_holds_the_same_labels_at_the_same_places(example: ExampleStudy, result: SegmentResult):
    scan = example.test_scans[0]
    reader = sitk.ImageSeriesReader()
    folder = example.test_images / scan
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    mask = sitk.ReadImage(str(result.run_folder / scan / "segmentation.nii.gz"))
    assert mask.GetSize() == image.GetSize()
    assert np.allclose(mask.GetDirection(), image.GetDirection(), atol=1e-4)
    assert np.allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)
    volume = (
        pd.read_csv(result.run_folder / "volumes.csv").query("case == @scan").set_index("label")["volume_ml"]
    )
    voxel = float(np.prod(image.GetSpacing()))
    array = sitk.GetArrayFromImage(mask)
    for label in range(1, 7):
        assert volume[label] == pytest.approx(np.count_nonzero(array == label) * voxel / 1000, rel=1e-3)


def test_the_report_explains_the_run(result: SegmentResult, model: Path):
    report = json.loads((result.run_folder / "run_report.json").read_text(encoding="utf-8"))
    assert report["models"][0]["file"] == model.name
    assert len(report["models"][0]["sha256"]) == 64
    assert report["cases"][0]["spacing_source"] == "PixelSpacing"
    assert report["versions"]["torch"]
    assert "Example^Study" not in json.dumps(report)


def test_one_bad_scan_does_not_stop_the_others(example: ExampleStudy, model: Path, tmp_path: Path):
    folder = tmp_path / "three"
    shutil.copytree(example.test_images, folder)
    bad = sorted((folder / example.test_scans[0]).iterdir())[2]
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    result = run(folder, model, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "run_report.json").read_text(encoding="utf-8"))
    said = (
        str(result.failures)
        + str(result.notes)
        + str([case.warnings for case in result.cases])
        + str(report["skipped"])
    )
    assert bad.name in said
    assert example.test_scans[1] in [case.name for case in result.cases]


def test_nothing_is_overwritten_and_finished_scans_are_not_done_again(
    example: ExampleStudy, model: Path, tmp_path: Path
):
    output = tmp_path / "out"
    run(example.test_images, model, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    with pytest.raises(ExportError, match="holds results already"):
        run(example.test_images, model, output)
    again = run(example.test_images, model, output, mode="continue")
    assert all(case.already_done for case in again.cases)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.png")} == before
    assert len(pd.read_csv(output / "measurements.csv")) == len(again.measurements)
    replaced = run(example.test_images / example.test_scans[0], model, output, mode="overwrite")
    assert len(replaced.cases) == 1
    assert not (output / example.test_scans[1]).exists()


def test_a_stopped_run_goes_on(example: ExampleStudy, model: Path, tmp_path: Path):
    stop = StopFlag()

    def after_the_first(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "Scans" and event.done == 1:
            stop.set()

    settings = make_settings(SegmentSettings, {})
    first = segment(
        example.test_images, model, tmp_path / "out", settings, on_event=after_the_first, stop=stop
    )
    assert first.stopped
    assert len(first.cases) == 1
    second = run(example.test_images, model, tmp_path / "out", mode="continue")
    assert [case.already_done for case in second.cases] == [True, False]


def test_wrong_models_are_refused(example: ExampleStudy, model: Path, tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was_run",))

    trap = tmp_path / "trap.safetensors"
    trap.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="it is a pickle or a torch file"):
        run(example.test_images, trap, tmp_path / "out")
    assert not (tmp_path / "was_run").exists()
    with pytest.raises(
        SettingsError, match="the model knows 6 ROIs, labels_list names 2 besides the background"
    ):
        run(example.test_images, model, tmp_path / "out", labels_list=["a", "b"])
    with pytest.raises(SettingsError, match="the model works on 96 × 96 pixels, input_shape = 128"):
        run(example.test_images, model, tmp_path / "out", input_shape=128)
    with pytest.raises(ModelError, match="no model was found in"):
        find_model(make_settings(SegmentSettings, {}), tmp_path / "nothing")
    with pytest.raises(ModelError, match="There are: m_"):
        find_model(make_settings(SegmentSettings, {"model_filename": "x"}), model.parent)
    assert find_model(make_settings(SegmentSettings, {}), model.parent) == model
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused(model: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        run(tmp_path / "empty", model, tmp_path / "out")


def test_no_spacing_gives_pixels_but_no_areas_unless_the_protocol_is_given(
    example: ExampleStudy, model: Path, tmp_path: Path
):
    folder = tmp_path / "bare"
    shutil.copytree(example.test_images / example.test_scans[0], folder)
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        del header.PixelSpacing
        header.save_as(path)
    bare = run(folder, model, tmp_path / "out1")
    assert all(row.area_mm2 is None for row in bare.measurements)
    assert sum(row.pixels for row in bare.measurements) > 0
    assert all(row.volume_ml is None for row in bare.volumes)
    assert "fov and matrix_size" in bare.cases[0].how_measured
    rows, columns = pydicom.dcmread(next(folder.iterdir())).pixel_array.shape
    given = run(
        folder, model, tmp_path / "out2", fov=[rows * 2.0, columns * 2.0], matrix_size=[rows, columns]
    )
    assert "Settings" in given.cases[0].how_measured
    row = max(given.measurements, key=lambda r: r.pixels)
    assert row.area_mm2 == pytest.approx(row.pixels * 4.0)


def test_test_time_mirroring_needs_a_model_trained_for_it(example: ExampleStudy, model: Path, tmp_path: Path):
    plain = run(example.test_images, model, tmp_path / "a")
    both = run(example.test_images, model, tmp_path / "b", tta=True)
    assert not any("tta" in note for note in both.notes)
    assert plain.measurements != both.measurements
    numbered = trained(example.folder, input_shape=64, epochs=1, model_filename="numbered", num_labels=6)
    left_out = run(example.test_images, numbered, tmp_path / "c", tta=True)
    assert any("tta was left out" in note for note in left_out.notes)


def test_3d_model_on_a_turned_volume(tmp_path: Path):
    """The same scan stored with other axes must give the same labels at the same points in the patient."""
    folder = write_volume_study(tmp_path / "balls")
    model = trained(folder, dimension="3D", network="unet", labels_list=["a", "b"], epochs=12)
    scan = tmp_path / "scans" / "plain.nii.gz"
    scan.parent.mkdir()
    shutil.copy(folder / "train" / "images" / "scan_0.nii.gz", scan)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(scan)), "RIP")
    sitk.WriteImage(turned, str(scan.parent / "turned.nii.gz"))
    result = run(scan.parent, model, tmp_path / "out")
    assert not result.failures
    masks = [
        sitk.ReadImage(str(tmp_path / "out" / name / "segmentation.nii.gz")) for name in ("plain", "turned")
    ]
    back = sitk.DICOMOrient(masks[1], "LPS")
    plain = sitk.DICOMOrient(masks[0], "LPS")
    first, second = sitk.GetArrayFromImage(plain), sitk.GetArrayFromImage(back)
    assert np.count_nonzero(first) > 500
    assert np.count_nonzero(first != second) <= 0.002 * first.size
    assert np.allclose(plain.GetOrigin(), back.GetOrigin())
    own = read_volume_file(scan.parent / "turned.nii.gz").geometry
    assert read_volume_file(tmp_path / "out" / "turned" / "segmentation.nii.gz").geometry.is_same_grid(own)


def turn_into_cine(source: Path, folder: Path, **tags: object) -> None:
    """Copies a series; its second half gets the positions of the first half."""
    shutil.copytree(source, folder)
    paths = sorted(folder.iterdir())
    headers = [pydicom.dcmread(path) for path in paths]
    half = len(paths) // 2
    for number in range(half, 2 * half):
        headers[number].ImagePositionPatient = headers[number - half].ImagePositionPatient
    for path, header in zip(paths, headers, strict=True):
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        header.save_as(path)


def test_cine_series_give_areas_but_no_volume(example: ExampleStudy, model: Path, tmp_path: Path):
    folder = tmp_path / "scans" / "cine"
    folder.parent.mkdir()
    turn_into_cine(example.test_images / example.test_scans[0], folder)
    result = run(folder.parent, model, tmp_path / "out")
    assert not result.failures
    (case,) = result.cases
    assert any("segmentation.nii.gz was left out" in text for text in case.warnings)
    assert sum(row.pixels for row in case.measurements) > 0
    assert all(row.area_mm2 is not None for row in case.measurements)
    assert all(row.volume_ml is None for row in case.volumes)
    assert "no volume: " in case.how_measured
    assert (case.folder / "animation.html").is_file()
    assert len(list((case.folder / "masks").iterdir())) == len(list(folder.iterdir()))


def test_a_gap_between_slices_is_measured_by_position(example: ExampleStudy, model: Path, tmp_path: Path):
    """One slice in the middle removed: each of its neighbours now stands for one and a half distances."""
    folder = tmp_path / "gap"
    shutil.copytree(example.test_images / example.test_scans[0], folder)
    paths = sorted(folder.iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))
    step = np.subtract(*(pydicom.dcmread(p).ImagePositionPatient for p in paths[1::-1]))
    distance = float(np.linalg.norm(step))
    paths[4].unlink()
    result = run(folder, model, tmp_path / "out")
    assert not result.failures
    areas: dict[int, dict[int, float]] = {}
    for row in result.measurements:
        areas.setdefault(row.label, {})[row.slice_number] = row.area_mm2
    for volume in result.volumes:
        weights = {number: 1.5 if number in (4, 5) else 1.0 for number in areas[volume.label]}
        expected = sum(area * weights[number] * distance for number, area in areas[volume.label].items())
        assert volume.volume_mm3 == pytest.approx(expected, rel=1e-3)


def test_rows_of_finished_scans_survive_every_continuation(
    example: ExampleStudy, model: Path, tmp_path: Path
):
    first, second = example.test_scans
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    shutil.copytree(example.test_images / second, folder / second)
    run(folder, model, output)
    shutil.copytree(example.test_images / first, folder / first)
    stop = StopFlag()

    def after_the_first(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "Scans" and event.done == 1:
            stop.set()

    settings = make_settings(SegmentSettings, {})
    segment(folder, model, output, settings, mode="continue", on_event=after_the_first, stop=stop)
    assert set(pd.read_csv(output / "volumes.csv")["case"]) == {first, second}
    again = run(folder, model, output, mode="continue")
    assert {row.case for row in again.volumes} == {first, second}
    elsewhere = tmp_path / "other"
    shutil.copytree(example.test_images / first, elsewhere / "third")
    run(elsewhere, model, output, mode="continue")
    table = pd.read_csv(output / "measurements.csv")
    assert set(table["case"]) == {first, second, "third"}
    report = json.loads((output / "run_report.json").read_text(encoding="utf-8"))
    assert {case["case"] for case in report["cases"]} == {first, second, "third"}


def test_another_model_never_replaces_masks_unasked(example: ExampleStudy, model: Path, tmp_path: Path):
    output = tmp_path / "out"
    run(example.test_images, model, output)
    before = {path: path.read_bytes() for path in output.rglob("*.png")}
    other = next(path for path in model.parent.glob("m_*.safetensors") if path != model)
    with pytest.raises(ExportError, match="were segmented into it before with another model"):
        run(example.test_images, other, output, mode="continue")
    assert {path: path.read_bytes() for path in output.rglob("*.png")} == before


def test_results_may_not_swallow_their_own_input(example: ExampleStudy, model: Path, tmp_path: Path):
    shutil.copytree(example.test_images, tmp_path / "out" / "scans")
    with pytest.raises(ExportError, match="lie inside it"):
        run(tmp_path / "out" / "scans", model, tmp_path / "out", mode="overwrite")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == len(list(example.test_images.rglob("*.dcm")))


def test_a_table_open_in_another_program_does_not_end_the_run(
    example: ExampleStudy, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, refused = Path.replace, []

    def locked(self: Path, target: Path) -> Path:
        if Path(target).name == "volumes.csv" and not refused:
            refused.append(target)
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", locked)
    result = run(example.test_images, model, tmp_path / "out")
    assert refused
    assert len(result.cases) == 2
    assert set(pd.read_csv(tmp_path / "out" / "volumes.csv")["case"]) == set(example.test_scans)


def test_nothing_of_the_person_in_any_output(example: ExampleStudy, model: Path, tmp_path: Path):
    """Folder and files named after the patient, as clinics do; the report and every table stay silent about it."""
    folder = tmp_path / "in" / "Mustermann_Max"
    tags = {"PatientName": "Mustermann^Max", "PatientID": "8877665544", "PatientBirthDate": "19610203"}
    turn_into_cine(example.test_images / example.test_scans[0], folder, **tags)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"Mustermann_Max_{number:03d}.dcm")
    (folder / "Mustermann_Max_report.dcm").write_text("a letter", encoding="utf-8")
    result = run(folder.parent, model, tmp_path / "out", input_dir=str(folder.parent))
    assert len(result.cases) == 1
    told = []
    for path in (tmp_path / "out").rglob("*"):
        content = path.read_bytes().decode("latin-1") if path.is_file() else ""
        if path.suffix == ".gz":
            content = ""
        for secret in ("mustermann", "8877665544", "19610203"):
            if secret in content.lower() or secret in path.name.lower():
                told.append((path.name, secret))
    assert told == []


def test_several_models_answer_together(example: ExampleStudy, model: Path, tmp_path: Path):
    """Their answer is that of the mean of their probabilities; the calibration of one does not hold for both."""
    second = tmp_path / "second.safetensors"
    table = {**read_metadata(model), "calibration": {"level": 0.9}}
    loaded = load_model(model)
    with torch.no_grad():
        for weight in loaded.network.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    save_model(second, loaded.network, table)
    folder = example.test_images / example.test_scans[0]
    together = segment(folder, [model, second], tmp_path / "both", make_settings(SegmentSettings, {}))

    scan = together.cases[0].scan
    parts = []
    for path in (model, second):
        notes: list[str] = []
        one = make_predictor(load_model(path), make_settings(SegmentSettings, {}), notes)
        parts.append(one.probabilities(scan.volume))
    wanted = one.preprocessing.restore((parts[0] + parts[1]) / 2, scan.volume.geometry)
    assert (wanted == together.cases[0].mask.array).mean() > 0.9995  # half-precision arithmetic at the border
    report = json.loads((together.run_folder / "run_report.json").read_text(encoding="utf-8"))
    assert [item["file"] for item in report["models"]] == [model.name, second.name]
    assert any("2 networks answer together" in text for text in together.notes)
    assert "each was calibrated by itself" in together.cases[0].error_bars
    assert load_models([second], "cpu").metadata["calibration"] == {"level": 0.9}


def test_models_are_named_in_a_list(model: Path):
    folder = model.parent
    found = find_models(make_settings(SegmentSettings, {"model_filename": ["m", "m_best", "m"]}), folder)
    assert [path.name for path in found] == ["m_best.safetensors"]
    with pytest.raises(ModelError, match="model 'other': not found"):
        find_models(make_settings(SegmentSettings, {"model_filename": ["m", "other"]}), folder)
    with pytest.raises(SettingsError, match="a text in quotes, or a list of them"):
        make_settings(SegmentSettings, {"model_filename": []})


def test_a_workbook_on_request_and_changes_to_the_pipeline(
    example: ExampleStudy, model: Path, tmp_path: Path
):
    folder = example.test_images / example.test_scans[0]
    roi = example.roi_names[0]
    keep_one = [{"step": "keep_largest", "rois": [roi], "per": "scan"}]
    changes = {"postprocessing": keep_one, "structure_names": {roi: "L3 body"}}
    result = run(folder, model, tmp_path / "out", formats=["png", "nifti", "xlsx"], pipeline=changes)

    sheets = pd.read_excel(result.run_folder / "results.xlsx", sheet_name=None)
    assert list(sheets) == ["csa_results", "measurements", "volumes"]
    wide = pd.read_csv(result.run_folder / "csa_results.csv")
    assert "L3 body" in wide.columns
    np.testing.assert_allclose(sheets["csa_results"]["L3 body"], wide["L3 body"], atol=1e-4)
    # One piece at most is left of the first ROI, counted by another program.
    mask = sitk.ReadImage(str(result.run_folder / example.test_scans[0] / "segmentation.nii.gz"))
    pieces = sitk.ConnectedComponentImageFilter()
    pieces.SetFullyConnected(True)
    pieces.Execute(mask == 1)
    assert pieces.GetObjectCount() <= 1
    assert "no error bars" in result.cases[0].error_bars
    with pytest.raises(SettingsError, match="the pipeline cannot be edited so; 1 change needs correcting"):
        run(folder, model, tmp_path / "no", pipeline={"preprocessing.resamplin": "cubic"})
    assert not (tmp_path / "no").exists()


def test_what_differs_between_models_that_answer_together(model: Path, tmp_path: Path):
    """Nothing depends on the order in which they are given."""
    loaded, other = load_model(model), tmp_path / "other.safetensors"
    steps = [{"step": "keep_largest"}]
    changed = {**loaded.metadata, "postprocessing": steps, "augmentation": {}, "region_finder": {"factor": 3}}
    save_model(other, loaded.network, changed)
    for pair in ([model, other], [other, model]):
        with pytest.raises(ModelError, match=r"differ in what is done after the network \(postprocessing\)"):
            load_models(pair, "cpu")
        together = load_models(pair, "cpu", {"postprocessing": steps})
        assert together.metadata["postprocessing"][0]["step"] == "keep_largest"
        assert together.metadata["region_finder"] is None
        assert make_predictor(together, make_settings(SegmentSettings, {}), []).mirror_axis is None
        notes: list[str] = []
        make_predictor(together, make_settings(SegmentSettings, {"tta": True}), notes)
        assert "tta was left out" in notes[0]
