"""Posts that an audit calls an error: a run refuses them, or leaves them out where it is told to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_builders.audit import errors_of
from data_builders.findings import Finding
from rivegs_mllm.types import UserError

OF_PICTURES = ("missing picture", "unreadable picture", "size differs", "too thin picture")
FOR_PREDICTION = ("bad line", *OF_PICTURES)
"""Errors of posts that are to be answered: their labels are not looked at."""

_LISTED = 5


@dataclass(frozen=True, slots=True)
class BadPosts:
    """The lines to leave out, by split, and the findings that say why."""

    lines: Mapping[str, frozenset[int]]
    findings: Sequence[Finding]

    def summary(self) -> list[str]:
        """How many posts are left out, and the first of them; nothing where there are none."""
        if not self.findings:
            return []
        counts = ", ".join(f"{len(lines)} of {split}" for split, lines in self.lines.items() if lines)
        more = len(self.findings) - _LISTED
        listed = [f"  {finding.place}: {finding.kind}: {finding.message}" for finding in self.findings[:_LISTED]]
        return [f"posts left out: {counts}", *listed, *([f"  and {more} more"] if more > 0 else [])]


def find_bad_posts(folder: Path, splits: Sequence[str], skip: bool, matters: Callable[[str], bool]) -> BadPosts:
    """The posts of some splits of a dataset with errors, of the kinds that matter, to be left out.

    Raises UserError for the first error, with its file and line, where it is not to be skipped, and for one that is of
    the whole set.
    """
    found = [own for own in errors_of(folder, splits, decode=skip) if matters(own.kind)]
    places = {split: re.compile(re.escape(f"{folder / split}.jsonl") + r":(\d+)") for split in splits}
    lines: dict[str, set[int]] = {split: set() for split in splits}
    for finding in found:
        matches = {split: place.fullmatch(finding.place) for split, place in places.items()}
        of_line = next(((split, match) for split, match in matches.items() if match), None)
        if of_line is None or not skip:
            raise UserError(_refusal(finding, len({own.place for own in found}), folder, of_line is not None))
        lines[of_line[0]].add(int(of_line[1][1]))
    return BadPosts({split: frozenset(own) for split, own in lines.items()}, found)


def _refusal(finding: Finding, count: int, folder: Path, of_line: bool) -> str:
    more = f"one of {count} posts with errors, " if of_line and count > 1 else ""
    cure = "; --skip-bad leaves such posts out" if of_line else ""
    return f"{finding.place}: {finding.kind}: {finding.message}; {more}see `rivegs audit {folder}`{cure}"
