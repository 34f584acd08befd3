"""CMU-MOSEI's emotions: the raters' tables (CSV), or the SDK's ``CMU_MOSEI_Labels.csd`` (HDF5).

An emotion is set for a clip if its values over the rows that rate the clip sum to more than 0.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmx.datasets.prepare.plan import Plan
from mmx.datasets.prepare.text_files import files_in, read_text
from mmx.runtime.errors import BadDataError, missing_extra

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
CSD_COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
_CSD_ORDER = ("anger", "disgust", "fear", "happy", "sad", "surprise")
SAME_CLIP_S = 0.25  # how far a clip's times in the .csd may be from those in the transcript
MOST_INTERVALS = 100_000


@dataclass
class Labels:
    """Labels by clip (from tables), or by video and time (from a .csd).

    Attributes:
        rated: 0 or 1 for each of ``EMOTIONS`` by utterance name.
        timed: for each video, its intervals (start, end in seconds) and their labels.
    """

    rated: dict[str, tuple[int, ...]] = field(default_factory=dict)
    timed: dict[str, list[tuple[float, float, tuple[int, ...]]]] = field(default_factory=dict)

    @property
    def named(self) -> set[str]:
        """The utterances that have a label by name."""
        return set(self.rated)

    def of(self, video: str, clip: str, start: float, end: float) -> tuple[int, ...] | None:
        """The label of a clip; None where it has none."""
        if not self.timed:
            return self.rated.get(f"{video}_{clip}")
        near = [
            (max(abs(start - a), abs(end - b)), label) for a, b, label in self.timed.get(video, ()) if a == a and b == b
        ]
        distance, label = min(near, default=(math.inf, None), key=lambda pair: pair[0])
        return label if distance <= SAME_CLIP_S else None


def find_labels(root: Path, release: Path, given: Path | None) -> tuple[list[Path], list[Path]]:
    """The tables and the .csd files: in ``given`` (a file or a folder), else in ``Labels`` or beside it.

    Raises:
        BadDataError: there are none.
    """
    if given is not None and given.is_file():
        return ([], [given]) if given.suffix.lower() == ".csd" else ([given], [])
    places = [given] if given is not None else [root / "Labels", release / "Labels", root, release]
    for pattern in ("*.csv", "*.csd"):
        for place in places:
            if found := list(files_in(place, pattern)):
                return (found, []) if pattern == "*.csv" else ([], found)
        if given is None and (found := sorted(p for p in release.rglob(f"Labels/{pattern}") if p.name[:2] != "._")):
            return (found, []) if pattern == "*.csv" else ([], found)
    where = given or root / "Labels"
    raise BadDataError(f"{where} holds no labels (*.csv or *.csd)", "--labels FILE|FOLDER says where they are")


def read_tables(paths: Iterable[Path], plan: Plan) -> Labels:
    """The labels of MTurk's tables by column name; tables and rows that make no sense are left out with a line."""
    sums: dict[str, list[float]] = {}
    for path in paths:
        try:
            rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
            columns = {str(name).strip(): name for name in rows.fieldnames or ()}
            needed = ["Input.VIDEO_ID", "Input.CLIP", *(f"Answer.{emotion}" for emotion in EMOTIONS)]
            if missing := [name for name in needed if name not in columns]:
                raise BadDataError(f"{path} has no column {missing[0]}")
            for row in rows:
                values = [(row.get(columns[name]) or "").strip() for name in needed]
                try:
                    _add(sums, values)
                except ValueError:
                    plan.leave_out(f"{path.name} line {rows.line_num}", f"not a rating: {','.join(values)[:60]!r}")
        except (BadDataError, csv.Error) as e:
            plan.leave_out(path.name, getattr(e, "message", f"{path.name} is not a table: {e}"))
    return Labels({name: tuple(int(value > 0) for value in total) for name, total in sums.items()})


def _add(sums: dict[str, list[float]], values: list[str]) -> None:
    """Add one rater's row; an empty answer is 0."""
    video, clip, *answers = values
    numbers = [float(answer) if answer else 0.0 for answer in answers]
    if not (video and clip and all(map(math.isfinite, numbers))):
        raise ValueError
    if clip.replace(".", "", 1).isdigit() and float(clip) == int(float(clip)):
        clip = str(int(float(clip)))  # a table with gaps has its numbers as 5.0
    total = sums.setdefault(f"{video.rpartition('/')[2]}_{clip}", [0.0] * len(EMOTIONS))
    for place, number in enumerate(numbers):
        total[place] += number


def read_csd(path: Path) -> Mapping[str, Any]:
    """What a .csd file holds, as plain lists: intervals and labels by video. Follows no link to another file.

    Raises:
        BadDataError: it is not such a file. EnvironmentMissing: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as e:
        raise missing_extra("h5py, which reads .csd files,", "prepare") from e
    try:
        with h5py.File(path, "r") as file:
            videos = _group(h5py, _group(h5py, file, "All Labels"), "data")
            timed = {}
            for name in videos:
                video = _group(h5py, videos, name)
                features, intervals = _array(h5py, video, "features"), _array(h5py, video, "intervals")
                if features.shape != (len(intervals), len(CSD_COLUMNS)) or intervals.shape[1:] != (2,):
                    raise BadDataError(f"{path}: {name} has features {features.shape}, intervals {intervals.shape}")
                columns = [features[:, CSD_COLUMNS.index(emotion)] > 0 for emotion in _CSD_ORDER]
                timed[str(name)] = [
                    [float(start), float(end), [int(column[row]) for column in columns]]
                    for row, (start, end) in enumerate(intervals)
                ]
            return timed
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as e:
        raise BadDataError(f"{path} is not a CMU_MOSEI_Labels.csd: {e}") from e


def timed_labels(timed: Mapping[str, Any]) -> Labels:
    """``read_csd``'s plain lists as labels."""
    return Labels(
        timed={
            str(video): [(float(start), float(end), tuple(map(int, label))) for start, end, label in rows]
            for video, rows in timed.items()
        }
    )


def _member(h5py: Any, group: Any, name: str, kind: Any) -> Any:
    """A member that lies in this very file."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise KeyError(f"{name} is missing, or a link")
    member = group[name]
    if not isinstance(member, kind):
        raise TypeError(f"{name} is not a {kind.__name__.lower()}")
    return member


def _group(h5py: Any, group: Any, name: str) -> Any:
    return _member(h5py, group, name, h5py.Group)


def _array(h5py: Any, group: Any, name: str) -> Any:
    data = _member(h5py, group, name, h5py.Dataset)
    if data.external or data.is_virtual:
        raise ValueError(f"{name} refers to another file")
    if data.ndim != 2 or len(data) > MOST_INTERVALS or data.shape[1] > 64 or data.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {data.dtype} {data.shape}")
    return data[...]
