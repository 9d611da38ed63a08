"""Label files with named ROIs for tests, written with pydicom and SimpleITK alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from autoseg_lib.geometry import Geometry
from tests.helpers.dicom import item, uid

# First row, first column, last row + 1, last column + 1, slices.
Box = tuple[int, int, int, int, Sequence[int]]


def write_rtstruct(path: Path, series: Sequence[Path], rois: Mapping[str, Box], **tags: object) -> Path:
    """Writes boxes as contours on a series of axial slices with straight axes.

    Args:
        path: the file.
        series: the slices, in order.
        rois: name → box in pixels; its outline runs along the pixels' edges.
        tags: DICOM keywords to change.
    """
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in series]
    first = slices[0]
    frame, study, own_series = first.FrameOfReferenceUID, first.StudyInstanceUID, first.SeriesInstanceUID
    contours = []
    for number, (r0, c0, r1, c1, where) in enumerate(rois.values(), start=1):
        parts = []
        for index in where:
            header = slices[index]
            down, right = (float(v) for v in header.PixelSpacing)
            x, y, z = (float(v) for v in header.ImagePositionPatient)
            corners = [(r0, c0), (r0, c1), (r1, c1), (r1, c0)]
            points = [(x + (c - 0.5) * right, y + (r - 0.5) * down, z) for r, c in corners]
            parts.append(
                item(
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=4,
                    ContourData=[f"{v:.6g}" for point in points for v in point],
                    ContourImageSequence=[
                        item(
                            ReferencedSOPClassUID=header.SOPClassUID,
                            ReferencedSOPInstanceUID=header.SOPInstanceUID,
                        )
                    ],
                )
            )
        contours.append(item(ReferencedROINumber=number, ContourSequence=parts))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = uid("rtstruct", path.name)
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "RTSTRUCT",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": uid("rtstruct series", path.name),
        "StructureSetLabel": "x",
        "ReferencedFrameOfReferenceSequence": [
            item(
                FrameOfReferenceUID=frame,
                RTReferencedStudySequence=[
                    item(
                        ReferencedSOPInstanceUID=study,
                        RTReferencedSeriesSequence=[item(SeriesInstanceUID=own_series)],
                    )
                ],
            )
        ],
        "StructureSetROISequence": [
            item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame)
            for number, name in enumerate(rois, start=1)
        ],
        "ROIContourSequence": contours,
        **tags,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_slicer(path: Path, layers: Mapping[str, npt.NDArray[np.bool_]], geometry: Geometry) -> Path:
    """Writes a 3D Slicer segmentation (.seg.nrrd) of ROIs that do not overlap, on a grid with straight axes."""
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    for value, layer in enumerate(layers.values(), start=1):
        labels[layer] = value
    image = sitk.GetImageFromArray(labels)
    spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    image.SetSpacing([float(v) for v in spacing[::-1]])
    image.SetDirection([float(v) for v in (geometry.affine[:3, :3] / spacing)[:, ::-1].ravel()])
    image.SetOrigin([float(v) for v in geometry.origin_xyz_mm])
    extent = " ".join(f"0 {n - 1}" for n in geometry.shape_zyx[::-1])
    for number, name in enumerate(layers):
        for key, value in {
            "ID": f"Segment_{number + 1}",
            "Name": name,
            "Layer": "0",
            "LabelValue": str(number + 1),
            "Extent": extent,
        }.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path
