"""A helper process that unpacks compressed pixels: reads requests from stdin, writes pixels to stdout (see dicom_decode).

Each request is a line of JSON (path, frames, size, lut, syntax); each frame is answered by a line of JSON (dtype, shape) and the
pixels, or by {"error": text} instead of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_decode import OpenedFile, Wanted


def main() -> int:
    """Answers requests until stdin ends."""
    opened = OpenedFile(may_write=True)
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        request = json.loads(line)
        rows, columns = request["size"]
        for frame in request["frames"]:
            wanted = Wanted(Path(request["path"]), frame, rows, columns, request["lut"], request["syntax"])
            try:
                pixels = np.ascontiguousarray(opened.stored(wanted))
            except DataError as error:
                out.write(json.dumps({"error": str(error)}).encode("utf-8") + b"\n")
                out.flush()
                break
            out.write(json.dumps({"dtype": pixels.dtype.str, "shape": pixels.shape}).encode("utf-8") + b"\n")
            out.write(pixels.data.cast("B"))
            out.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
