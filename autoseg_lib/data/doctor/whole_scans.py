"""Scans whose labels are all wrong in the same way, judged by the other scans alone.

Within one scan the neighbours of a slice are the best judges of its label, unless they are all turned alike. Here they have no
say: what a label should look like comes from the other scans, and one explanation has to hold for much of the scan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from autoseg_lib.data.doctor.fit import Fit, Fitter, FloatArray, UInt8Array, each, fitted, one_hot
from autoseg_lib.data.doctor.planted import MAD_TO_SIGMA, possible_transforms
from autoseg_lib.data.doctor.transforms import transformed

# With fewer scans there is nobody to judge one of them.
FEWEST_SCANS = 5
# Slices of one scan that have to tell the same, and their share of the scan.
_FEWEST_SLICES = 2
_LEAST_SHARE = 0.3
# An explanation has to raise a slice's Dice with what is expected by this much, and by this many standard deviations (from
# the median absolute deviation over all slices of the set, most of which are right) more than explanations usually do.
_LEAST_GAIN = 0.04
_SIGMAS = 4.0
_SHIFTS = (-2, -1, 1, 2)
# With this many scans or more, their means tell what is usual.
_FEWEST_TO_JUDGE_SCANS = 8
# Exchanging scans has to raise Dice by this much on both: scans of similar people fit each other well.
_LEAST_SWAP_GAIN = 0.08
_AGREEING_SHARE = 0.6
# More scans than this share are never accused: then it is not known which of them are right.
_MOST_WRONG = 0.4


@dataclass(frozen=True)
class ScanFault:
    """What explains the labels of (much of) a scan.

    Attributes:
        members: units whose labels are wrong.
        cleared: units of the same scan whose labels are right, however odd they look among the others.
        kind: "transform", "renumber", "shift" or "swap".
        gain: how much Dice rises, on average.
        transform, mapping, slices: as of ``Suspect``, ROI numbers of the fit.
        partners: for "swap": the unit that holds the right label of each member.
    """

    members: tuple[int, ...]
    cleared: tuple[int, ...]
    kind: str
    gain: float
    transform: str = ""
    mapping: dict[int, int] = field(default_factory=dict)
    slices: int = 0
    partners: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class _Way:
    """One explanation, tried on every slice of a scan; a gain is NaN where it says nothing of the slice."""

    kind: str
    gains: FloatArray
    transform: str = ""
    mapping: dict[int, int] = field(default_factory=dict)
    slices: int = 0
    partners: tuple[int, ...] = ()


def whole_scan_faults(fitter: Fitter, fit: Fit, weights: FloatArray) -> list[ScanFault]:
    """Looks for scans that are turned, renumbered, shifted or exchanged as a whole, or for a good part.

    Args:
        fitter: all units.
        fit: its last fit.
        weights: one per unit; those of weight 0 have no say.
    """
    scans: dict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(fitter.units):
        if len(unit.image) == 1:
            scans[unit.group].append(index)
    several = {group: members for group, members in scans.items() if len(members) >= _FEWEST_SLICES}
    if len(scans) < FEWEST_SCANS or not several:
        return []
    found: list[ScanFault] = []
    heard = weights.copy()
    while len(found) <= _MOST_WRONG * len(several):
        judges = _Judges(fitter, fit, heard)
        left = {group: members for group, members in several.items() if not _told(found, members)}
        ways = {group: list(_ways(judges, members)) for group, members in left.items()}
        clearest = [*_clearest(left, ways), *_swaps(judges, left)]
        if not clearest:
            break
        # The clearest one has no say any longer: scans that look like it may seem wrong by its labels alone.
        best = max(fault.gain for fault in clearest)
        new = [fault for fault in clearest if fault.gain == best]
        found += new
        heard[[index for fault in new for index in fault.members]] = 0
    return found


def _told(found: Sequence[ScanFault], members: Sequence[int]) -> bool:
    return any(set(fault.members) & set(members) for fault in found)


class _Judges:
    """What the other scans let one expect of each unit, and how well a label agrees with it."""

    def __init__(self, fitter: Fitter, fit: Fit, weights: FloatArray) -> None:
        self.labels = fitter.labels
        self.rois = fitter.rois

        def expect(index: int) -> FloatArray:
            moved, _ = fitter.transfer(index, weights, other_groups=True)
            mean: FloatArray = ((fit.first[index] + moved) / 2).astype(np.float32)
            return mean

        self._expected = each(expect, range(len(fitter.units)))
        self._squares = [(item**2).sum(axis=(0, 1, 2)) for item in self._expected]
        self.stored = [self.dice(index, label) for index, label in enumerate(fitter.labels)]

    def dice(self, index: int, label: UInt8Array) -> float:
        """Returns the mean soft Dice over the ROIs that the label has, NaN where it has none."""
        hot = one_hot(label, self.rois)
        sizes = hot.sum(axis=(0, 1, 2))
        drawn = sizes > 0
        if not drawn.any():
            return float("nan")
        both = (hot * self._expected[index]).sum(axis=(0, 1, 2))
        return float(np.mean(2 * both[drawn] / (self._squares[index][drawn] + sizes[drawn] + 1e-6)))

    def likeliest_numbers(self, members: Sequence[int]) -> dict[int, int]:
        """Returns ROI number → the number under which the ROI is expected in this scan; those that stay are left out."""
        total = np.zeros((self.rois, self.rois))
        for index in members:
            hot = one_hot(self.labels[index], self.rois).reshape(-1, self.rois)
            both = hot.T @ self._expected[index].reshape(-1, self.rois)
            total += 2 * both / (self._squares[index][None] + hot.sum(axis=0)[:, None] + 1e-6)
        old, new = linear_sum_assignment(-total)
        drawn = [bool(row.any()) for row in total]
        return {int(a) + 1: int(b) + 1 for a, b in zip(old, new, strict=True) if a != b and drawn[a]}

    def gains(self, members: Sequence[int], labels: Sequence[UInt8Array | None]) -> FloatArray:
        """Returns how much each unit's Dice rises with another label; NaN without one."""
        return np.array(
            [
                float("nan") if label is None else self.dice(index, label) - self.stored[index]
                for index, label in zip(members, labels, strict=True)
            ],
            dtype=np.float32,
        )


def _ways(judges: _Judges, members: Sequence[int]) -> Iterator[_Way]:
    labels = [judges.labels[index] for index in members]
    for name in possible_transforms(labels[0]):
        yield _Way("transform", judges.gains(members, [transformed(x, name) for x in labels]), name)
    mapping = judges.likeliest_numbers(members)
    table = np.arange(256, dtype=np.uint8)
    for old, new in mapping.items():
        table[old] = new
    # Scans whose numbers are right gain nothing, which tells what is usual.
    yield _Way("renumber", judges.gains(members, [table[label] for label in labels]), mapping=mapping)
    for shift in _SHIFTS:
        moved = [
            labels[place - shift]
            if 0 <= place - shift < len(labels) and labels[place - shift].shape == label.shape
            else None
            for place, label in enumerate(labels)
        ]
        yield _Way("shift", judges.gains(members, moved), slices=shift)


def _clearest(scans: dict[str, list[int]], ways: dict[str, list[_Way]]) -> list[ScanFault]:
    slice_limits = _limits(ways, np.nanmax)
    scan_limits = _limits(ways, lambda gains, axis: np.array([np.nanmean(gains, axis=1).max()]))
    found = []
    for group, members in scans.items():
        best: ScanFault | None = None
        for way in ways[group]:
            told = np.isfinite(way.gains)
            if told.sum() < _FEWEST_SLICES:
                continue
            wrong = told & (way.gains > slice_limits[way.kind])
            if wrong.sum() < max(_FEWEST_SLICES, _LEAST_SHARE * told.sum()):
                # The slices one by one say too little; all together they may say enough. (A label fits the next slice
                # nearly as well, so that shifts need slices that say so themselves.)
                mean = float(way.gains[told].mean())
                few = way.kind == "shift" or len(scans) < _FEWEST_TO_JUDGE_SCANS
                if few or mean <= scan_limits[way.kind]:
                    continue
                wrong = told & (way.gains > 0)
            gain = float(way.gains[wrong].mean() * wrong.sum() / told.sum())
            if best is None or gain > best.gain:
                best = ScanFault(
                    tuple(members[k] for k in np.flatnonzero(wrong)),
                    tuple(members[k] for k in np.flatnonzero(told & (way.gains < 0))),
                    way.kind,
                    gain,
                    way.transform,
                    way.mapping,
                    way.slices,
                )
        if best is not None:
            found.append(best)
    return found


def _limits(ways: dict[str, list[_Way]], best: Callable[..., FloatArray]) -> dict[str, float]:
    """Returns for each kind the gain that right labels do not reach.

    Args:
        ways: for each scan, what was tried.
        best: takes (way, slice) gains and ``axis``, and returns the best gains.
    """
    gains: dict[str, list[FloatArray]] = defaultdict(list)
    for tried in ways.values():
        for kind in {way.kind for way in tried}:
            stacked = np.stack([way.gains for way in tried if way.kind == kind])
            stacked = stacked[np.isfinite(stacked).any(axis=1)]
            stacked = stacked[:, np.isfinite(stacked).any(axis=0)]
            if stacked.size:
                gains[kind].append(best(stacked, axis=0))
    limits: dict[str, float] = defaultdict(lambda: _LEAST_GAIN)
    for kind, parts in gains.items():
        every = np.concatenate(parts)
        middle = float(np.median(every))
        spread = MAD_TO_SIGMA * float(np.median(np.abs(every - middle)))
        limits[kind] = max(_LEAST_GAIN, middle + _SIGMAS * spread)
    return limits


def _swaps(judges: _Judges, scans: dict[str, list[int]]) -> list[ScanFault]:
    """Pairs of scans of equally many slices whose labels fit each other's images better, both ways."""
    every = list(scans.values())
    tables: dict[tuple[int, int], FloatArray] = {}
    for a, ours in enumerate(every):
        for b, theirs in enumerate(every):
            if a != b and len(ours) == len(theirs):
                labels = [
                    fitted(judges.labels[other], judges.labels[index].shape)
                    for index, other in zip(ours, theirs, strict=True)
                ]
                tables[a, b] = judges.gains(ours, labels)
    found: list[ScanFault] = []
    for (a, b), gains in tables.items():
        back = tables[b, a]
        if a > b or not (np.isfinite(gains).any() and np.isfinite(back).any()):
            continue
        gain = min(float(np.nanmean(gains)), float(np.nanmean(back)))
        agree = min(float(np.mean(gains > 0)), float(np.mean(back > 0)))
        if gain > _LEAST_SWAP_GAIN and agree > _AGREEING_SHARE:
            found.append(ScanFault(tuple(every[a]), (), "swap", gain, partners=tuple(every[b])))
            found.append(ScanFault(tuple(every[b]), (), "swap", gain, partners=tuple(every[a])))
    return found
