"""Independent tools that read DICOM objects: dciodvfy (dicom3tools) and plastimatch; skipped where they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk


def _require(program: str, package: str) -> None:
    if shutil.which(program) is None:
        text = f"{program} is not installed (Debian: apt-get install {package})"
        if os.environ.get("AUTOSEG_REQUIRE_ALL") == "1":
            pytest.fail(text)
        pytest.skip(text)


def validation_errors(path: Path) -> list[str]:
    """Returns what dciodvfy calls an error in a DICOM file."""
    _require("dciodvfy", "dicom3tools")
    done = subprocess.run(
        ["dciodvfy", str(path)], check=False, capture_output=True, text=True, errors="replace"
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def contours_by_plastimatch(
    rtstruct: Path, images: Path, out: Path, *options: str
) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns plastimatch's pixels of each ROI on the grid of a series."""
    _require("plastimatch", "plastimatch")
    command = ["plastimatch", "convert", "--input", str(rtstruct), "--referenced-ct", str(images)]
    command += ["--output-prefix", str(out), "--prefix-format", "nrrd", *options]
    subprocess.run(command, check=True, capture_output=True)
    return {
        path.stem: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
        for path in sorted(out.glob("*.nrrd"))
    }
