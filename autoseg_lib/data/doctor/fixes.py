"""Fixes that several checks offer: which files to leave out, to rename, to map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from autoseg_lib.data.discover import IMAGE_FOLDERS, LABEL_FOLDERS
from autoseg_lib.data.doctor.context import Context
from autoseg_lib.data.doctor.finding import Fix, FixAction, Sample
from autoseg_lib.data.naming import image_stem
from autoseg_lib.errors import counted
from autoseg_lib.io.volume_files import all_files, is_volume_file, stem_of

# Changes of numbers that a button spells out.
MOST_TOLD = 4


def leave_out(files: Iterable[Path], what: str, reason: str) -> Fix:
    """Returns the fix that moves files aside.

    Args:
        files: the files.
        what: what they are, for the button ("2 images with their labels").
        reason: why, for the log.
    """
    return Fix(
        f"Leave out {what}", (FixAction("leave_out", tuple(dict.fromkeys(files)), {"reason": reason}),)
    )


def leave_out_samples(context: Context, samples: Sequence[Sample], reason: str) -> Fix:
    """Returns the fix that moves images and their labels aside; a slice without a file of its own takes its scan with it."""
    whole = {
        s.case for s in samples if not has_own_files(context, s) and len(context.case(s.case).slices) > 1
    }
    alone = len({sample for sample in samples if sample.case not in whole})
    files = [file for sample in samples for file in sample_files(context, sample)]
    parts = [counted(number, what) for number, what in ((len(whole), "scan"), (alone, "image")) if number]
    return leave_out(files, f"{' and '.join(parts)} with {_their(len(whole) + alone)}", reason)


def unsure(fix: Fix) -> Fix:
    """Returns the fix as one that needs a look."""
    return Fix(fix.text, fix.actions, sure=False)


def has_own_files(context: Context, sample: Sample) -> bool:
    """Whether a slice has an image and a label file that it shares with no other; a whole case has not."""
    return sample.slice_index is not None and not context.shares_files(sample.case)[sample.slice_index]


def _their(number: int) -> str:
    return "its label" if number == 1 else "their labels"


def sample_files(context: Context, sample: Sample) -> tuple[Path, ...]:
    """Returns the image and label files of a sample; those of the whole case where the slice shares its files."""
    if sample.slice_index is not None and has_own_files(context, sample):
        item = context.case(sample.case).slices[sample.slice_index]
        return tuple(file for file in (item.image_file, item.label_file) if file is not None)
    return case_files(context, sample.case)


def case_files(context: Context, name: str) -> tuple[Path, ...]:
    """Returns all image and label files of a case."""
    case = context.training_case(name)
    labels = [
        part for label in case.labels for part in (all_files(label) if is_volume_file(label) else (label,))
    ]
    return tuple(dict.fromkeys((*case.source.files, *labels)))


def label_files(context: Context, samples: Iterable[Sample]) -> tuple[Path, ...]:
    """Returns the label files of samples, each once."""
    files = []
    for sample in samples:
        case = context.case(sample.case)
        slices = case.slices if sample.slice_index is None else (case.slices[sample.slice_index],)
        files += [item.label_file for item in slices if item.label_file is not None]
    return tuple(dict.fromkeys(files))


def map_values(files: Sequence[Path], mapping: Mapping[int | str, int], *, sure: bool = True) -> Fix:
    """Returns the fix that writes other numbers in place of the values of label files."""
    told = ", ".join(f"{old} → {new}" for old, new in list(mapping.items())[:MOST_TOLD])
    more = f" and {len(mapping) - MOST_TOLD} more" if len(mapping) > MOST_TOLD else ""
    return Fix(
        f"Renumber {counted(len(files), 'label file')} ({told}{more})",
        (FixAction("map_values", tuple(files), {"map": dict(mapping)}),),
        sure=sure,
    )


def rename_labels(partners: Sequence[tuple[Path, Path]]) -> Fix:
    """Returns the fix that gives label files the place and name of their images.

    Args:
        partners: (label file, image file) that belong together.
    """
    actions = tuple(FixAction("rename", (label,), {"to": _place(label, image)}) for label, image in partners)
    return Fix(f"Rename {counted(len(actions), 'label file')}", actions)


def _place(label: Path, image: Path) -> Path:
    """Where a label lies when it has its image's folder and name."""
    suffix = label.name[len(stem_of(label)) :] if is_volume_file(label) else label.suffix
    inside = _below(image.parent, IMAGE_FOLDERS)
    root = label.parent
    for _ in _below(label.parent, LABEL_FOLDERS):
        root = root.parent
    return root.joinpath(*inside, image_stem(image) + suffix)


def _below(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The folders between the innermost one of these names and ``folder``, which counts; none where there is no such."""
    for number, part in enumerate(reversed(folder.parts)):
        if part.lower() in names:
            return folder.parts[len(folder.parts) - number :]
    return ()
