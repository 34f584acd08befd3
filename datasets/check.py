"""What is in a table of clips, and what would make its scores wrong: found from the table and the media's headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from mmx.datasets.table import Clip, Table
from mmx.runtime.errors import BadDataError
from mmx.runtime.media.container import MediaInfo
from mmx.runtime.media.decode import probe

AFTER_END_S = 0.1  # a row that ends this much after its file does is wrong about something


@dataclass(frozen=True)
class Findings:
    """What ``check_table`` found.

    Attributes:
        seconds: of each row whose length is known. words: of each row. silent, unseen: rows in files without sound,
            without picture. problems: (line, what is wrong) of rows whose media do not fit them.
        labels: rows with each label, by split. shared: files, speakers and texts that two splits share, by pair.
    """

    seconds: tuple[float, ...]
    words: tuple[int, ...]
    silent: int
    unseen: int
    problems: tuple[tuple[int, str], ...]
    labels: dict[str, dict[str, int]]
    shared: dict[str, dict[str, list[str]]]


def check_table(table: Table, progress: Callable[[int, int], None] | None = None) -> Findings:
    """Look at every row of a table, and at the header of every file once; nothing is decoded."""
    clips = [clip for mine in table.splits.values() for clip in mine]
    problems: list[tuple[int, str]] = []
    files = sorted({clip.path for clip in clips})
    headers: dict[Path, MediaInfo | str] = {}
    for number, path in enumerate(files, 1):
        try:
            headers[path] = probe(path)
        except BadDataError as e:
            headers[path] = e.message
        if progress:
            progress(number, len(files))
    seconds, silent, unseen = [], 0, 0
    for clip in sorted(clips, key=lambda clip: clip.line):
        header = headers[clip.path]
        if isinstance(header, str):
            problems.append((clip.line, header))
            continue
        silent += not header.has_audio
        unseen += not header.has_video
        start, end = clip.start or 0.0, clip.end if clip.end is not None else header.duration
        if header.duration and max(start, end or 0.0) > header.duration + AFTER_END_S:
            problems.append((clip.line, f"it ends at {end:g} s and {clip.path.name} at {header.duration:.2f} s"))
        if end is not None and end > start:
            seconds.append(end - start)
    return Findings(
        tuple(seconds),
        tuple(len(clip.text.split()) for clip in clips),
        silent,
        unseen,
        tuple(problems),
        {split: _labels(mine, table.labels) for split, mine in table.splits.items()},
        {
            "files": _shared(table.splits, lambda clip: clip.path.name),
            "speakers": _shared(table.splits, lambda clip: clip.speaker),
            "texts": _shared(table.splits, lambda clip: " ".join(clip.text.lower().split())),
        },
    )


def _labels(clips: tuple[Clip, ...], labels: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(label for clip in clips for label, there in zip(labels, clip.target, strict=True) if there)
    return {label: counts[label] for label in labels}


def _shared(splits: Mapping[str, tuple[Clip, ...]], what: Callable[[Clip], str]) -> dict[str, list[str]]:
    """What is in two splits, by pair; what rows do not have does not count."""
    found = {split: {what(clip) for clip in clips} - {""} for split, clips in splits.items()}
    both = {f"{a} and {b}": sorted(found[a] & found[b]) for a, b in combinations(found, 2)}
    return {pair: names for pair, names in both.items() if names}
