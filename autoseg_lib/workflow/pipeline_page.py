"""docs/pipeline.md, made from the tables of operations: the page can say nothing that the check does not.

python -m autoseg_lib.workflow.pipeline_page docs/pipeline.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg_lib.postprocess.pipeline import STEPS
from autoseg_lib.preprocess.filters.table import FILTERS
from autoseg_lib.preprocess.operations import REQUIRED, Operation, Parameter
from autoseg_lib.preprocess.schema import section_keys

_INTRODUCTION = """\
# Before and after the network

<!-- Made from the tables in the code: python -m autoseg_lib.workflow.pipeline_page docs/pipeline.md -->

What is done to a scan before the network sees it, and to its answer after, is data: two keys of the JSON in the model file,
`preprocessing` (a table, carried out in the order of this page) and `postprocessing` (a list of steps, carried out in its own
order). A model file never holds code: names are looked up among what is listed here, numbers are checked against the ranges
listed here, and every mistake is told at once.

* While training: the setting `channels` names what the network sees (`["image", "log 2 mm", "sobel"]`), the setting
  `preprocessing` takes the other keys (`{"resampling": "cubic", "crop": {"to": "body", "margin_mm": 10}}`).
* While segmenting: `autoseg segment ... --set preprocessing.crop.margin_mm=20 --set postprocessing=[]` (the margin
  is refused where a model does not crop; `--set preprocessing.crop.to=body` makes one crop). Entries of lists are
  counted from 1: `postprocessing.1.…`. What belongs to the network's weights (`dimension`, `channels`, `neighbours`) cannot be
  edited. A model expects the images that it was trained with: other grey values, voxel sizes or orientations make it worse.
* A crop to a mask, while segmenting: `autoseg segment ... --set preprocessing.crop.to=mask --set region_masks=FOLDER`. The folder
  holds a mask for each scan, under the scan's name and of any kind that `autoseg measure` reads; all that is not 0 counts. A scan
  without a mask is not segmented, and it is said. Training does not take masks to crop to.
* Several images of a patient (CT and PET, MR sequences): a CSV manifest with the columns `image`, `image_2`, `image_3`, ... and,
  to train, `label`; to train also folders `images_2/`, `images_3/` beside `images/` with the same names. The further images are laid onto the first one's grid by position, in one resampling; images in another
  frame of reference, without a place, or in another place are refused.

**The way back.** The network's probabilities go back onto the scan's own grid in one linear resampling, then the likeliest ROI
is taken; what was cropped away is background. Turning, cutting and padding move whole pixels there and back, so they change
nothing; a test lays masks through each of them, in all 48 orientations, and finds them again pixel for pixel.
"""

_BEFORE = """\
## Before: `preprocessing`

Keys that are left out have their defaults. In the order in which they are carried out:
"""

_FILTERS = """\
## Filters as channels

A channel's `filter` is one of these tables. Filters work on the network's grid (there "down the rows" means the same direction in
every scan, and in 3D voxels have one size in all scans), on grey values that are not yet normalised; their answers are then
normalised by their own percentiles. `sobel`, `mean` and `log` work within the slice in 2D and in space in 3D, all others within
the slice. Sizes are in mm: a scan without pixel spacing is refused. `wavelet` needs PyWavelets:
`python -m pip install "autoseg-workbench[filters]"`.

Time for a slice of 256 × 256 pixels of 1 mm with the default parameters, measured on a busy computer with two cores: mean 7 ms, sobel
22, laws 23, haralick 39 (energy and entropy 440), log 40, wavelet 50, gabor 230 (four angles).
"""

_AFTER = """\
## After: `postprocessing`

A list of tables `{"step": name, ...}`, carried out in order on the scan's own grid, before anything is measured.
"""


def pipeline_page() -> str:
    """Returns the page as Markdown."""
    before = [_part(_of_key(key.name, key.form, key.operation)) for key in section_keys()]
    filters = [
        _part((f"`{name}`", item.operation, {**item.operation.example})) for name, item in FILTERS.items()
    ]
    after = [
        _part((f"`{name}`", step.operation, {"step": name, **step.operation.example}))
        for name, step in STEPS.items()
    ]
    parts = [_INTRODUCTION, _BEFORE, *before, _FILTERS, *filters, _AFTER, *after]
    return "\n".join(parts).rstrip() + "\n"


def _of_key(name: str, form: str, operation: Operation) -> tuple[str, Operation, Any]:
    example: Any = dict(operation.example)
    if form in ("tables", "steps"):
        example = {name: [{"image": 0}, example] if form == "tables" else [example]}
    elif form == "table":
        example = {name: example}
    return f"`{name}`", operation, example


def _part(item: tuple[str, Operation, Any]) -> str:
    title, operation, example = item
    lines = [f"### {title}", "", operation.about, ""]
    lines += ["| key | accepts | default | |", "|---|---|---|---|"]
    lines += [_row(parameter) for parameter in operation.parameters]
    lines += ["", "```json", json.dumps(example, ensure_ascii=False), "```", ""]
    if operation.inverse:
        lines += [f"Back: {operation.inverse}.", ""]
    if operation.source:
        lines += [f"Source: {operation.source}.", ""]
    return "\n".join(lines)


def _row(parameter: Parameter) -> str:
    default = "needed" if parameter.default is REQUIRED else f"`{_json(parameter.default)}`"
    cells = [f"`{parameter.name}`", parameter.takes, default, parameter.about]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _json(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def main(arguments: Sequence[str]) -> None:
    """Writes the page to the path given."""
    Path(arguments[0]).write_text(pipeline_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
