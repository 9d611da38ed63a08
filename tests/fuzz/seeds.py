"""Whole small files of every kind, to be damaged by mutate.py."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
import tifffile
from PIL import Image
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.helpers.dicom import write_slice
from tests.helpers.real_data import real_data_or_none
from tests.helpers.segments import contour, write_rtstruct, write_seg, write_seg_nrrd

# Real files above this size slow the run down without adding anything.
_LARGEST = 60_000


def seeds_of(kind: str) -> list[bytes]:
    """Returns the whole files of a kind, always in the same order."""
    return [seed for seed in _MAKERS[kind]() if seed]


def kinds() -> tuple[str, ...]:
    """Returns the kinds of files there are seeds for."""
    return tuple(_MAKERS)


def _real(*patterns: str, most: int = 12, largest: int = _LARGEST) -> list[bytes]:
    """Returns real files; none where the real scans are not on this computer."""
    found: list[bytes] = []
    for pattern in patterns:
        name, _, rest = pattern.partition("/")
        folder = real_data_or_none(name)
        if folder is None:
            continue
        files = sorted(
            file for file in folder.glob(rest) if file.is_file() and file.stat().st_size <= largest
        )
        found += [file.read_bytes() for file in files[:most]]
    return found


def _ramp(rows: int = 24, columns: int = 20) -> np.ndarray:
    return np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)


def _labels(rows: int = 24, columns: int = 20) -> np.ndarray:
    array = np.zeros((rows, columns), np.uint8)
    array[4:12, 5:15], array[14:20, 3:9] = 1, 2
    return array


def _box(slices: int = 6) -> np.ndarray:
    return np.stack([_labels()] * slices)


# --- one function per kind --------------------------------------------------------------------------------------------


def _dicom() -> list[bytes]:
    made = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "slice.dcm"
        for syntax in (None, ImplicitVRLittleEndian, ExplicitVRBigEndian):
            options = {} if syntax is None else {"transfer_syntax": syntax}
            made.append(write_slice(path, _ramp().astype(np.int16), modality="CT", **options).read_bytes())
        for compression in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
            made.append(_compressed(path, compression))
        dataset = pydicom.dcmread(write_slice(path, _ramp()))
        dataset.is_deflated = True
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
        dataset.save_as(path)
        made.append(path.read_bytes())
    return made + _real(
        "nasty_dicom/pydicom_test_files/*.dcm",
        "nasty_dicom/rt_utils/oriented_data/0.dcm",
        "nasty_dicom/dicomdir_study/98892003/MR2/15970",
        "nasty_dicom/wg04/CT1_J2KI.dcm",
        "nasty_dicom/wg04/MR4_JPLY.dcm",
        "nasty_dicom/*/*emf*",
        most=60,
    )


def _compressed(path: Path, syntax: UID) -> bytes:
    # JPEG 2000 halves a picture five times, so it needs some size.
    dataset = pydicom.dcmread(write_slice(path, _ramp(64, 48)))
    dataset.compress(syntax)
    dataset.save_as(path)
    return path.read_bytes()


def _pictures(format_name: str, **options: object) -> list[bytes]:
    colours = np.dstack([_labels() * 90] * 3)
    pictures = [Image.fromarray(_labels()), Image.fromarray(colours)]
    if format_name == "PNG":
        indexed = Image.fromarray(_labels()).convert("P")
        indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        pictures += [
            Image.fromarray(_ramp()),
            Image.fromarray(_labels() > 0),
            indexed,
            Image.fromarray(np.dstack([colours, np.full_like(_labels(), 255)])),
        ]
    made = []
    for picture in pictures:
        stream = io.BytesIO()
        picture.save(stream, format=format_name, **options)
        made.append(stream.getvalue())
    return made


def _png() -> list[bytes]:
    return _pictures("PNG") + _real("sunnybrook_cardiac/labels/*.png", "chaos_ct_liver/labels/*.png", most=4)


def _jpg() -> list[bytes]:
    return _pictures("JPEG", quality=95) + _pictures("JPEG", progressive=True)


def _tiff() -> list[bytes]:
    made = []
    for options in (
        {},
        {"compression": "zlib"},
        {"imagej": True},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"byteorder": ">"},
    ):
        for array in (_labels(), _ramp()):
            stream = io.BytesIO()
            tifffile.imwrite(stream, array, **options)
            made.append(stream.getvalue())
    stream = io.BytesIO()
    Image.fromarray(_labels()).save(stream, format="TIFF", compression="tiff_lzw")
    return [*made, stream.getvalue()]


def _npy() -> list[bytes]:
    made = []
    for array in (_labels(), _ramp().astype(np.float64), _labels() > 0, np.asfortranarray(_ramp()), _box()):
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        made.append(stream.getvalue())
    stream = io.BytesIO()
    np.savez_compressed(stream, _labels())
    return [*made, stream.getvalue()]


def _volumes(suffix: str, *, compressed: tuple[bool, ...] = (True, False)) -> list[bytes]:
    made = []
    with tempfile.TemporaryDirectory() as name:
        for array in (_box(), _box().astype(np.int16) * 300, _box().astype(np.float32)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.8, 0.7, 3.0))
            for useful in compressed:
                path = Path(name) / f"scan{suffix}"
                sitk.WriteImage(image, str(path), useCompression=useful)
                made.append(path.read_bytes())
    return made


def _nifti() -> list[bytes]:
    return (
        _volumes(".nii", compressed=(False,))
        + _volumes(".nii.gz")
        + [nibabel.Nifti2Image(_box().T, np.diag([0.7, 0.8, 3, 1])).to_bytes()]
        + _real("hippocampus_msd/labels/*.nii.gz", most=2)
    )


def _nrrd() -> list[bytes]:
    return _volumes(".nrrd") + _real("pyradiomics_nrrd/*label.nrrd", most=1)


def _mha() -> list[bytes]:
    return _volumes(".mha")


def _nhdr() -> list[bytes]:
    head = b"NRRD0004\ntype: unsigned char\ndimension: 3\nspace: left-posterior-superior\nsizes: 20 24 6\n"
    grid = b"space directions: (0.8,0,0) (0,0.7,0) (0,0,3)\nkinds: domain domain domain\nencoding: raw\n"
    return [
        head + grid + b"data file: pixels.raw\n",
        head + grid + b"data file: plane%d.raw 1 6 1 2\n",
        head + grid + b"data file: LIST 2\n" + b"".join(b"plane%d.raw\n" % n for n in range(1, 7)),
    ]


def _mhd() -> list[bytes]:
    head = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    grid = b"ElementSpacing = 0.8 0.7 3\nDimSize = 20 24 6\nElementType = MET_UCHAR\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    return [
        head + grid + b"ElementDataFile = pixels.raw\n",
        head + grid + b"ElementDataFile = plane%d.raw 1 6 1\n",
        head + grid + b"ElementDataFile = LIST\n" + b"".join(b"plane%d.raw\n" % n for n in range(1, 7)),
    ]


def _safetensors() -> list[bytes]:
    # torch takes seconds to import; only the workers for models pay for it.
    from autoseg_lib.networks.model_file import save_model
    from autoseg_lib.networks.registry import NetworkSpec, build_network
    from autoseg_lib.preprocess.intensity import IntensityPlan
    from autoseg_lib.preprocess.pipeline import Preprocessing

    small = {"channels": [2, 4], "strides": [2], "num_res_units": 0}
    spec = NetworkSpec("3D", "unet", 3, (16, 16, 16), options=small)
    metadata = {
        "settings": {"dimension": "3D", "labels_list": ["liver", "spleen"]},
        "labels": ["liver", "spleen"],
        "network": spec.to_dict(),
        "augmentation": {"mirror_pairs": [[1, 2]], "spacing_zyx_mm": [3, 1, 1]},
        "data": {"modality": "MR"},
        "epoch": 3,
        "preprocessing": Preprocessing("3D", IntensityPlan("zscore"), None, (1.0, 1.0, 1.0)).to_dict(),
    }
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        save_model(path, build_network(spec), metadata)
        whole = path.read_bytes()
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    return [whole, whole, whole, len(header).to_bytes(8, "little") + header]


def _csv() -> list[bytes]:
    return [
        b"image,label,case,patient\nscan_1.png,scan_2.png,liver_1,anna\nscan_2.png,scan_1.png,liver_2,berta\n",
        b"image\nscan_1.png\nscan_2.png\n",
        "\ufeffimage;case\r\nscan_1.png;M\u00fcller\r\n".encode(),
        b'case,label,roi,dice\n"a, b",1,"say ""x""",0.5\n',
    ]


def _yaml() -> list[bytes]:
    return [
        b'main_dir: data\nmodel_filename: liver\ndimension: "2D"\nlabels_list: [liver, spleen]\ninput_shape: [256, 256]\n'
        b"epochs: 100\nbatch_size: auto\nlearning_rate: 1.0e-3\naugment_params: {rotate: 15}\nresume: auto\n",
        b"main_dir: &d data\nmodel_dir: *d\nseed: 5\nnum_workers: 0\nspacing_mm: [1, 1.5, 3]\nfolds: 1\nseries: [1, 2]\n",
        b"model_filename: a.safetensors\nfov: [300, 300]\nmatrix_size: [256, 256]\nformats: png,npy\ntta: yes\n",
    ]


def _rtstruct() -> list[bytes]:
    made = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rt.dcm"
        boxes = [contour([(2, 2, z), (9, 2, z), (9, 11, z), (2, 11, z)]) for z in (0, 3, 6)]
        holes = [
            contour([(4, 4, z), (6, 4, z), (6, 7, z), (4, 7, z)], kind="CLOSEDPLANAR_XOR") for z in (0, 3)
        ]
        for rois in ([("GTV-1", boxes)], [("GTV-1", boxes + holes), ("lung", boxes[:1])]):
            made.append(write_rtstruct(path, rois).read_bytes())
            made.append(
                write_rtstruct(path, rois, transfer_syntax=ExplicitVRLittleEndian, frame="").read_bytes()
            )
    return made + _real("nasty_dicom/rt_utils/mock_data/*rt.dcm", largest=_LARGEST)


def _dicom_seg() -> list[bytes]:
    made = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "seg.dcm"
        for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
            pixels = _labels() if kind == "LABELMAP" else (_labels() > 0).astype(np.uint8)
            frames = [(1 + number % 2, (0, 0, 3.0 * number), pixels) for number in range(4)]
            made.append(write_seg(path, frames, {1: "liver", 2: "spleen"}, kind=kind).read_bytes())
    return made + _real("dicom_seg/highdicom/seg_*.dcm")


def _seg_nrrd() -> list[bytes]:
    keys = {
        f"Segment{number}_{key}": value
        for number, name in enumerate(("liver", "spleen"))
        for key, value in (
            ("ID", f"S{number}"),
            ("Name", name),
            ("LabelValue", str(number + 1)),
            ("Layer", "0"),
        )
    }
    made = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "scan.seg.nrrd"
        for array, encoding in (
            (_box(), "gzip"),
            (_box(), "raw"),
            (np.stack([_box()] * 2), "gzip"),
            (_box(), "bzip2"),
        ):
            made.append(write_seg_nrrd(path, array, keys, encoding=encoding).read_bytes())
    return made


_MAKERS: dict[str, Callable[[], list[bytes]]] = {
    "dicom": _dicom,
    "png": _png,
    "jpg": _jpg,
    "tiff": _tiff,
    "npy": _npy,
    "nifti": _nifti,
    "nrrd": _nrrd,
    "mha": _mha,
    "nhdr": _nhdr,
    "mhd": _mhd,
    "safetensors": _safetensors,
    "rtstruct": _rtstruct,
    "dicomseg": _dicom_seg,
    "segnrrd": _seg_nrrd,
    "csv": _csv,
    "yaml": _yaml,
}
