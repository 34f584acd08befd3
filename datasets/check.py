"""What is in a table of clips, and what would make its scores wrong: from the table, headers, and some of the media."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from mmx.datasets.reading import read_media
from mmx.datasets.table import Clip, Table
from mmx.runtime.errors import BadDataError
from mmx.runtime.files import sha256_of
from mmx.runtime.manifest import Preprocessing, QualitySpec
from mmx.runtime.media.container import MediaInfo
from mmx.runtime.media.decode import probe
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.quality import of_sound

AFTER_END_S = 0.1  # a row that ends this much after its file does is wrong about something


@dataclass(frozen=True)
class Findings:
    """What ``check_table`` found.

    Attributes:
        seconds: of each row whose length is known. words: of each row. silent, unseen: rows in files without sound,
            without picture. problems: (line, what is wrong) of rows whose media do not fit them.
        labels: rows with each label, by split.
        shared: files (of the same content, whatever their names), speakers and texts that two splits share, by pair.
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
    same = _by_content(path for path, header in headers.items() if not isinstance(header, str))
    same |= {path: path.name for path in files if path not in same}
    return Findings(
        tuple(seconds),
        tuple(len(clip.text.split()) for clip in clips),
        silent,
        unseen,
        tuple(problems),
        {split: _labels(mine, table.labels) for split, mine in table.splits.items()},
        {
            "files": _shared(table.splits, lambda clip: same[clip.path]),
            "speakers": _shared(table.splits, lambda clip: clip.speaker),
            "texts": _shared(table.splits, lambda clip: " ".join(clip.text.lower().split())),
        },
    )


@dataclass(frozen=True)
class Looked:
    """What the media of some rows hold.

    Attributes:
        clips: rows that were looked into. frames: taken of them, one each half second. faces: frames with a face.
        faceless: lines of clips with frames, none of which has a face. silent: lines whose sound holds nothing, and
            why. problems: (line, what is wrong) of clips that cannot be read.
    """

    clips: int
    frames: int
    faces: int
    faceless: tuple[int, ...]
    silent: tuple[tuple[int, str], ...]
    problems: tuple[tuple[int, str], ...]


def look_into(
    table: Table, count: int, detector: FaceDetector | None, progress: Callable[[int, int], None] | None = None
) -> Looked:
    """Decode so many rows, evenly from all, as training does; without a detector no face is looked for."""
    clips = sorted((clip for mine in table.splits.values() for clip in mine), key=lambda clip: clip.line)
    chosen = clips if count >= len(clips) else [clips[place * len(clips) // count] for place in range(count)]
    spec, usual = Preprocessing(), QualitySpec.usual()
    frames, faces, faceless, silent, problems = 0, 0, [], [], []
    for number, clip in enumerate(chosen, 1):
        try:
            media = read_media(clip, spec)
        except BadDataError as e:
            problems.append((clip.line, e.message))
            continue
        finally:
            if progress:
                progress(number, len(chosen))
        frames += len(media.frames)
        seen = 0
        if detector is not None and media.frames:
            seen = sum(crop.face is not None for crop in detector.extract(media.frames, "skip"))
            faces += seen
            faceless += [] if seen else [clip.line]
        if why := of_sound(media.sound, media.rate, usual).nothing:
            silent.append((clip.line, why))
    return Looked(len(chosen), frames, faces, tuple(faceless), tuple(silent), tuple(problems))


def _by_content(files: Iterable[Path]) -> dict[Path, str]:
    """A name for each file, the same for files of the same content; only files of equal size are read."""
    by_size: dict[int, list[Path]] = {}
    for path in files:
        by_size.setdefault(path.stat().st_size, []).append(path)
    named: dict[Path, str] = {}
    for alike in by_size.values():
        first: dict[str, str] = {}
        for path in alike:
            key = sha256_of(path) if len(alike) > 1 else ""
            named[path] = first.setdefault(key, path.name)
    return named


def _labels(clips: tuple[Clip, ...], labels: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(label for clip in clips for label, there in zip(labels, clip.target, strict=True) if there)
    return {label: counts[label] for label in labels}


def _shared(splits: Mapping[str, tuple[Clip, ...]], what: Callable[[Clip], str]) -> dict[str, list[str]]:
    """What is in two splits, by pair; what rows do not have does not count."""
    found = {split: {what(clip) for clip in clips} - {""} for split, clips in splits.items()}
    both = {f"{a} and {b}": sorted(found[a] & found[b]) for a, b in combinations(found, 2)}
    return {pair: names for pair, names in both.items() if names}
