"""Many findings of one kind are told as one, so that nobody has to scroll past 500 lines to see the other kinds."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg_lib.data.doctor.finding import Finding, Fix
from autoseg_lib.errors import name_list

# As many findings of one kind are still read one by one.
MOST_OF_ONE_KIND = 12


def gathered(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings with those of one kind made one where they are more than MOST_OF_ONE_KIND.

    Of one kind are findings of the same code, severity and transformation, all with a fix or all without. No file, no sample
    and no change of a fix is lost.

    Args:
        findings: in any order; the one that stands for many takes the place of the first of them.
    """
    kinds: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.severity, finding.code, finding.fix is None, str(finding.details.get("transform")))
        kinds.setdefault(key, []).append(finding)
    result = []
    for members in kinds.values():
        result += [_one(members)] if len(members) > MOST_OF_ONE_KIND else members
    return result


def _one(members: Sequence[Finding]) -> Finding:
    first = members[0]
    files = tuple(dict.fromkeys(name for member in members for name in member.files))
    samples = tuple(dict.fromkeys(sample for member in members for sample in member.samples))
    others = list(dict.fromkeys(_name(member) for member in members[1:] if _name(member)))
    where = f": {name_list(others)}" if others else ""
    text = f"{first.text} There are {len(members) - 1} more findings like this{where}."
    details = {
        key: value
        for key, value in first.details.items()
        if all(member.details.get(key) == value for member in members)
    }
    return Finding(first.severity, first.code, text, files, samples, _one_fix(members), details)


def _name(finding: Finding) -> str:
    if finding.files:
        return finding.files[0]
    return finding.samples[0].case if finding.samples else ""


def _one_fix(members: Sequence[Finding]) -> Fix | None:
    fixes = [member.fix for member in members if member.fix is not None]
    if not fixes:
        return None
    texts = list(dict.fromkeys(fix.text for fix in fixes))
    times = f" ({len(fixes)} times)" if len(texts) == 1 else f", and {len(fixes) - 1} more changes like this"
    return Fix(
        texts[0] + times,
        tuple(action for fix in fixes for action in fix.actions),
        sure=all(fix.sure for fix in fixes),
    )
