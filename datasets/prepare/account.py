"""The account at the end: what was written, what was left out and why, labels by split, speakers in several splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mmx.datasets.prepare.plan import LeftOut

SHOWN_REASONS, SHOWN_NAMES = 30, 3


@dataclass(frozen=True)
class Account:
    """What one run made.

    Attributes:
        recordings: how many were cut. written: utterances on disk. unused: those of them in no split.
        labels: utterances with each label, by split. shared: speakers (MOSEI: videos) in two splits, by pair.
        left_out: everything that is not on disk, or is a line that makes no sense.
    """

    dataset: str
    recordings: int
    written: int
    unused: int
    splits: dict[str, int]
    labels: dict[str, dict[str, int]]
    shared: dict[str, list[str]]
    left_out: tuple[LeftOut, ...]

    def lines(self) -> list[str]:
        """The account as text."""
        kind = "dialogues" if self.dataset == "iemocap" else "videos"
        lines = [
            f"  written     {self.written} utterances of {self.recordings} {kind}",
            "  splits      "
            + ", ".join(f"{split} {count}" for split, count in self.splits.items())
            + (f"; {self.unused} in none" if self.unused else ""),
        ]
        for split, counts in self.labels.items():
            lines.append(f"  {split:10}  " + "  ".join(f"{label} {count}" for label, count in counts.items()))
        who = "speakers" if self.dataset == "iemocap" else "videos"
        for pair, names in self.shared.items():
            lines.append(f"  shared      {len(names)} {who} are in {pair}" + (f": {_few(names)}" if names else ""))
        return lines + reasons(self.left_out)

    def to_plain(self) -> dict[str, Any]:
        """The account for JSON."""
        return {
            "recordings": self.recordings,
            "written": self.written,
            "in_no_split": self.unused,
            "splits": self.splits,
            "labels": self.labels,
            "shared": self.shared,
            "left_out": [[item.what, item.why] for item in self.left_out],
        }


def reasons(left_out: Sequence[LeftOut]) -> list[str]:
    """What was left out, a line for each kind of reason."""
    kinds: dict[str, list[LeftOut]] = {}
    for item in left_out:
        kinds.setdefault(re.sub(r"\d+(\.\d+)?", "#", item.why), []).append(item)
    lines = []
    for items in sorted(kinds.values(), key=len, reverse=True)[:SHOWN_REASONS]:
        why = items[0].why + (" (and alike)" if len({item.why for item in items}) > 1 else "")
        lines.append(f"  left out    {len(items)}: {why}: {_few([item.what for item in items])}")
    if len(kinds) > SHOWN_REASONS:
        lines.append(f"  left out    and for {len(kinds) - SHOWN_REASONS} other reasons")
    return lines


def shared_between(splits: Mapping[str, Sequence[str]], who: Callable[[str], str]) -> dict[str, list[str]]:
    """For each two splits, who is in both."""
    people = {split: {who(name) for name in names} for split, names in splits.items()}
    return {f"{a} and {b}": sorted(people[a] & people[b]) for a, b in combinations(people, 2)}


def count_labels(names: Sequence[str], labels: Mapping[str, Sequence[str]], order: Sequence[str]) -> dict[str, int]:
    """How many of ``names`` have each label."""
    counts = Counter(label for name in names for label in labels[name])
    return {label: counts[label] for label in order}


def _few(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
