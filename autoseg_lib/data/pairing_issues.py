"""What is said when images and labels do not fit together: orphans, near misses, doubles, skipped files."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from autoseg_lib.data.cases import Key, PairingIssue
from autoseg_lib.data.discover import IMAGE_FOLDERS, Discovery
from autoseg_lib.data.naming import image_stem
from autoseg_lib.errors import name_list
from autoseg_lib.io.files import natural_key, same_text


def key_of(file: Path, root: Path) -> Key:
    """Returns a file's place in the layout below ``root``, for comparing."""
    return folders_of(file.parent, root), same_text(image_stem(file))


def folders_of(folder: Path, root: Path) -> tuple[str, ...]:
    """Returns the folders from ``root`` down to ``folder``, for comparing."""
    return tuple(same_text(part) for part in folder.relative_to(root).parts)


def doubled_labels(labels: dict[Key, list[Path]]) -> list[PairingIssue]:
    """Reports labels that share one name."""
    issues = []
    for files in labels.values():
        if len(files) > 1:
            names = [file.name for file in files]
            issues.append(
                PairingIssue(
                    "error",
                    "two_labels",
                    f"{name_list(names)} are {len(names)} labels for one image. Keep one of them.",
                    tuple(names),
                    tuple(files),
                )
            )
    return issues


def doubled_images(found: Discovery, root: Path) -> list[PairingIssue]:
    """Reports images that share one name."""
    by_key: dict[Key, set[Path]] = defaultdict(set)
    for source in found.sources:
        for file in source.images:
            by_key[key_of(file, root)].add(file)
    issues = []
    for files in by_key.values():
        if len(files) > 1:
            paths = sorted(files, key=lambda file: natural_key(file.name))
            names = [file.name for file in paths]
            text = f"{name_list(names)} are {len(names)} images of one name, so their label is not certain. Keep one of them."
            issues.append(PairingIssue("error", "two_images", text, tuple(names), tuple(paths)))
    return issues


def _plain(key: Key) -> tuple[tuple[str, ...], str]:
    """Returns a key without case, accents, zero padding, separators and words like "label"."""

    def plain(text: str) -> str:
        text = re.sub(r"\.(dcm|dicom|ima|png|jpe?g|tiff?|npy|nii|nrrd|mha)$", "", text.casefold())
        text = re.sub(r"_0000$", "", text)  # some tools number the channels of an image
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        words = re.findall(r"\d+|[^\W\d_]+", text)
        kept = [word for word in words if word not in _LABEL_WORDS] or words
        return "-".join(str(int(word)) if word.isdecimal() else word for word in kept)

    return tuple(plain(part) for part in key[0]), plain(key[1])


_LABEL_WORDS = {
    "label",
    "labels",
    "mask",
    "masks",
    "seg",
    "segmentation",
    "gt",
    "image",
    "img",
    "manual",
    "lbl",
    "anno",
    "annotation",
    "segm",
    "contour",
    "roi",
}


def orphans(images: dict[Key, Path], labels: dict[Key, Path]) -> list[PairingIssue]:
    """Reports images and labels without a partner; those whose name is nearly a partner's as errors."""
    by_plain: dict[object, list[Key]] = defaultdict(list)
    for key in labels:
        by_plain[_plain(key)].append(key)
    claims = Counter(_plain(key) for key in images)
    issues, near_images, near_labels = [], set(), set()
    near: list[tuple[Path, Path]] = []
    for key, file in images.items():
        candidates = by_plain.get(_plain(key), [])
        if len(candidates) == 1 and claims[_plain(key)] == 1:
            near.append((file, labels[candidates[0]]))
            near_images.add(key)
            near_labels.add(candidates[0])
    if near:
        shown = "; ".join(f"'{_shown(label)}' for '{_shown(image)}'" for image, label in near[:5])
        more = f" and {len(near) - 5} more" if len(near) > 5 else ""
        count = (
            "1 label looks like a match but its"
            if len(near) == 1
            else f"{len(near)} labels look like matches but their"
        )
        verb = "name differs" if len(near) == 1 else "names differ"
        issues.append(
            PairingIssue(
                "error",
                "near_miss",
                f"{count} {verb}: {shown}{more}. Give each label exactly the name of its image.",
                tuple(label.name for _, label in near),
                partners=tuple((label, image) for image, label in near),
            )
        )
    for what, partner, orphans, known in (
        ("image", "label", images, near_images),
        ("label", "image", labels, near_labels),
    ):
        left = sorted(
            (file for key, file in orphans.items() if key not in known),
            key=lambda file: natural_key(file.name),
        )
        if left:
            names = [file.name for file in left]
            count = f"1 {what} has" if len(left) == 1 else f"{len(left)} {what}s have"
            hint = "Labels need the same name as their image." if what == "image" else "They are not used."
            issues.append(
                PairingIssue(
                    "warning",
                    f"{what}_orphan",
                    f"{count} no {partner}: {name_list(names)}. {hint}",
                    tuple(names),
                    tuple(left),
                )
            )
    return issues


def _shown(file: Path) -> str:
    return (
        file.name
        if file.parent.name.lower() in (*IMAGE_FOLDERS, "labels")
        else f"{file.parent.name}/{file.name}"
    )


def left_out_issues(found: Discovery) -> list[PairingIssue]:
    """Reports localizers and series that were not chosen."""
    issues = []
    for source in found.left_out:
        localizer = source.series is not None and source.series.is_localizer
        names = tuple(dict.fromkeys(file.name for file in source.images))
        what = "a localizer (scout)" if localizer else "a series not chosen by the setting series"
        count = "1 slice" if len(names) == 1 else f"{len(names)} slices"
        issues.append(
            PairingIssue(
                "warning",
                "localizer" if localizer else "series",
                f"{what} of {count} was skipped: {name_list(list(names))}.",
                names,
            )
        )
    return issues


def skipped_issues(found: Discovery) -> list[PairingIssue]:
    """Reports files that are no images; damaged ones as errors."""
    issues = []
    by_reason: dict[tuple[bool, str], list[Path]] = defaultdict(list)
    for item in found.skipped:
        if item.reason != "a file of the operating system":
            by_reason[(item.serious, item.reason)].append(item.path)
    for (serious, reason), paths in by_reason.items():
        names = [path.name for path in paths]
        if serious:
            text = f"{name_list(names)}: {reason}. Replace or remove it."
            issues.append(PairingIssue("error", "unreadable", text, tuple(names), tuple(paths)))
        else:
            text = f"{name_list(names)} skipped: {reason}."
            issues.append(PairingIssue("warning", "skipped", text, tuple(names), tuple(paths)))
    return issues


def no_pairs(images: dict[Key, Path], labels: dict[Key, Path]) -> PairingIssue:
    """Reports that nothing fits together."""
    image, label = next(iter(images.values()), None), next(iter(labels.values()), None)
    if image and label and image_stem(image).casefold() == image_stem(label).casefold():
        # The slices' names agree, so it is the folders' names that do not.
        text = (
            f"no scan folder among the labels has the name of one among the images (first image: '{image.parent.name}/"
            f"{image.name}', first label: '{label.parent.name}/{label.name}'). Give each scan's folder of labels the name of "
            "its folder of images."
        )
    else:
        text = (
            f"no image has a label of the same name (first image: '{image.name if image else 'none'}', first label: "
            f"'{label.name if label else 'none'}'). Name each label like its image: 'slice_3.dcm' goes with 'slice_3.png'."
        )
    return PairingIssue("error", "no_pairs", text)
