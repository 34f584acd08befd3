"""The raw CMU-MOSEI release: which clips each video has, with their times, words and labels.

    MOSEI_Raw/{Audio/WAV_16000, Videos/Full/Combined, Transcript/Combined, Labels/*.csv}
    or Raw/{Audio/Full/WAV_16000, Videos/Full/Combined, Transcript/Segmented/Combined}

A transcript V.txt has lines ``V___clip___start___end___text``. Clips overlap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mmx.datasets.prepare.mosei_labels import Labels
from mmx.datasets.prepare.plan import SAFE_NAME, Compat, Plan, Task, Utterance, times_fault
from mmx.datasets.prepare.text_files import files_in, read_lines
from mmx.runtime.errors import BadDataError

PARTS = {
    "audio": ("Audio/WAV_16000", "Audio/Full/WAV_16000"),
    "videos": ("Videos/Full/Combined",),
    "transcripts": ("Transcript/Combined", "Transcript/Segmented/Combined"),
}
SEPARATOR = "___"
_CLIP = re.compile(r"\d{1,9}")


def video_of(utterance: str) -> str:
    """The video that a clip is of."""
    return utterance.rpartition("_")[0]


def find_root(release: Path) -> Path:
    """The folder that holds the transcripts' folders: ``release``, or ``MOSEI_Raw`` or ``Raw`` in it.

    Raises:
        BadDataError: there are no transcripts.
    """
    for place in (release, release / "MOSEI_Raw", release / "Raw"):
        if any((place / part).is_dir() for part in PARTS["transcripts"]):
            return place
    raise BadDataError(
        f"{release} holds no {' or '.join(PARTS['transcripts'])}",
        "name the folder MOSEI_Raw, or the one that holds Raw",
    )


def read_release(root: Path, compat: Compat, labels: Labels, plan: Plan) -> None:
    """Add the videos below ``root`` (see ``find_root``) and their labelled clips to the plan."""
    audio, videos, transcripts = (
        next((root / part for part in parts if (root / part).is_dir()), root / parts[0]) for parts in PARTS.values()
    )
    found: dict[str, dict[str, tuple[float, float, str]]] = {}
    for path in files_in(transcripts, "*.txt"):
        shown = path.relative_to(root).as_posix()
        try:
            lines = read_lines(path)
        except BadDataError as e:
            plan.leave_out(path.stem, e.message)
            continue
        _read_transcript(lines, path.stem, shown, compat, found, plan)
    media = {
        "video": {path.stem: path for path in files_in(videos, "*.mp4")},
        "sound": {path.stem: path for path in files_in(audio, "*.wav")},
    }
    for video in sorted((media["video"].keys() & media["sound"].keys()) - found.keys()):
        plan.leave_out(video, "no transcript")
    known = set()
    for video, clips in sorted(found.items()):
        known |= {f"{video}_{clip}" for clip in clips}
        _plan_video(video, clips, media, labels, plan)
    for name in sorted(labels.named - known):
        plan.leave_out(name, "labelled, but no line in a transcript")


def _plan_video(
    video: str,
    clips: Mapping[str, tuple[float, float, str]],
    media: Mapping[str, Mapping[str, Path]],
    labels: Labels,
    plan: Plan,
) -> None:
    """Add one video to the plan, or say why it or some of its clips are left out."""
    missing = [kind for kind, files in media.items() if video not in files]
    utterances = []
    for clip, (start, end, text) in clips.items():
        name = f"{video}_{clip}"
        label = labels.of(video, clip, start, end)
        if missing:
            plan.leave_out(name, f"no {' and no '.join(missing)} file")
        elif label is None:
            plan.leave_out(name, "no label")
        elif fault := times_fault(start, end):
            plan.leave_out(name, fault)
        else:
            utterances.append(Utterance(name, start, end, text, label))
    if utterances:
        plan.tasks.append(Task(video, media["video"][video], media["sound"][video], tuple(utterances)))


def _read_transcript(
    lines: list[str],
    stem: str,
    shown: str,
    compat: Compat,
    found: dict[str, dict[str, tuple[float, float, str]]],
    plan: Plan,
) -> None:
    """Add the clips of one file to ``found`` by video. Of one that is there twice, the last counts."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = _upstream_parts(line) if compat == "upstream" else _parts(line, stem)
        video, clip = parts[0].strip().rpartition("/")[2], parts[1].strip() if len(parts) > 1 else ""
        try:
            start, end = float(parts[2]), float(parts[3])
        except (IndexError, ValueError):
            start = end = float("nan")
        place = f"{shown} line {number}"
        if len(parts) < 4 or start != start or not _CLIP.fullmatch(clip) or not clip.isascii():
            plan.leave_out(place, f"not a clip: {line.strip()[:60]!r}")
        elif not SAFE_NAME.fullmatch(video):
            plan.leave_out(place, f"{video[:60]!r} is no name that the split files can hold")
        elif compat == "correct" and video != stem:
            plan.leave_out(place, f"a clip of {video}, in the transcript of {stem}")
        else:
            clips = found.setdefault(video, {})
            if clip in clips:
                plan.leave_out(place, f"{video}_{clip} is there twice; the last one counts")
            clips[clip] = (start, end, parts[4].strip() if len(parts) > 4 else "")


def _parts(line: str, stem: str) -> list[str]:
    """Video, clip, start, end and all the rest. The video may itself end with an underscore."""
    if line.lstrip().startswith(stem + SEPARATOR):
        return [stem, *line.lstrip()[len(stem + SEPARATOR) :].split(SEPARATOR, 3)]
    return line.split(SEPARATOR, 4)


def _upstream_parts(line: str) -> list[str]:
    """The first five parts that are not empty, as the public notebook takes them: words after a ``___`` are lost."""
    return [part for part in line.split(SEPARATOR) if part][:5]
