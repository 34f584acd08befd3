"""``--data DIR``: the processed IEMOCAP and MOSEI in their public layout, a folder for each utterance.

    IEMOCAP_RAW_PROCESSED/<dialogue>/<utterance>/image_L_0.jpg ... image_R_0.jpg ... audio_L.wav audio_R.wav
    MOSEI_RAW_PROCESSED/<utterance>/image_0.jpg ... audio.wav
    *_RAW_PROCESSED/meta.pkl            utterance -> text, label (IEMOCAP also fps)
    *_SPLIT/{train,valid,test}_split.txt    one utterance a line

IEMOCAP keeps every video frame, both speakers side by side; the one who speaks is the last letter of the utterance's
name, and is on the left if the dialogue's name ends with the same letter. MOSEI keeps one frame each 500 ms.

By default images are taken by time. The public loader (``compat: upstream``) assumes 30 images a second in both, which
on MOSEI makes one face each 7.5 s, and miscounts the files of IEMOCAP, so that it never takes the last image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.datasets.plain_pickle import load_plain
from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import Preprocessing
from mmx.runtime.media.decode import probe

LABELS = {
    "iemocap": ("ang", "exc", "fru", "hap", "neu", "sad"),
    "mosei": ("anger", "disgust", "fear", "happy", "sad", "surprise"),
}
IEMOCAP_FPS = 30.0  # where meta.pkl does not say
MOSEI_FPS = 2.0
UPSTREAM_FPS = 30  # what the public loader assumes
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_SPLIT_LIMIT = 16 * 2**20


@dataclass(frozen=True)
class Item:
    """One utterance on disk. ``images`` are all there are, in time order, ``fps`` of them a second.

    ``layout``: iemocap or mosei.

    ``target``: 0 or 1 for each label of ``LABELS``.
    """

    name: str
    images: tuple[Path, ...]
    audio: Path
    text: str
    target: tuple[int, ...]
    fps: float
    layout: str

    def chosen(self, spec: Preprocessing) -> tuple[Path, ...]:
        """The images that the preprocessing takes: the first at or after each interval, every n-th, or upstream's."""
        if spec.compat == "upstream":
            there = self.images[:-1] if self.layout == "iemocap" else self.images
            return there[:: max(1, int(spec.video.interval_s * UPSTREAM_FPS))]
        if spec.video.every_nth:
            return self.images[:: spec.video.every_nth]
        step = spec.video.interval_s * self.fps
        count = math.ceil(len(self.images) / step - 1e-6)
        places = (math.ceil(k * step - 1e-6) for k in range(count))
        return tuple(self.images[place] for place in places if place < len(self.images))

    def duration(self) -> float:
        """Seconds of sound.

        Raises:
            BadDataError: it is not a readable sound file.
        """
        seconds = probe(self.audio).duration
        if not seconds:
            raise BadDataError(f"{self.audio} does not say how long it is", "extract the data set again")
        return seconds


def read_processed(root: Path, dataset: str, split: str = "test") -> list[Item]:
    """The utterances of one split, in the split file's order.

    Raises:
        BadDataError: a part of the layout is missing or damaged; names the file.
    """
    upper = dataset.upper()
    folder = root / f"{upper}_RAW_PROCESSED"
    names = _read_split(root / f"{upper}_SPLIT" / f"{split}_split.txt")
    meta = load_plain(folder / "meta.pkl")
    if not isinstance(meta, dict):
        raise BadDataError(f"{folder / 'meta.pkl'} holds a {type(meta).__name__}, not a dict by utterance")
    folders = _utterance_folders(folder, dataset)
    return [_item(name, dataset, meta, folders, folder) for name in names]


def _read_split(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(_SPLIT_LIMIT).split()
    except (OSError, UnicodeDecodeError) as e:
        raise BadDataError(
            f"{path} can't be read: {getattr(e, 'strerror', None) or 'it is not text'}",
            "--data takes the folder that holds *_RAW_PROCESSED and *_SPLIT",
        ) from e
    for name in lines:
        if not _NAME.fullmatch(name):
            raise BadDataError(
                f"{path}: {name[:80]!r} is no utterance name", "one name a line: letters, digits, _ and -"
            )
    if not lines:
        raise BadDataError(f"{path} is empty", "one utterance name a line")
    return lines


def _utterance_folders(folder: Path, dataset: str) -> dict[str, Path]:
    """Utterance folders by name: below the dialogues for IEMOCAP, directly in the folder for MOSEI."""
    pattern = "*/*" if dataset == "iemocap" else "*"
    return {path.name: path for path in sorted(folder.glob(pattern)) if path.is_dir() and not path.is_symlink()}


def _item(name: str, dataset: str, meta: Mapping[str, Any], folders: Mapping[str, Path], folder: Path) -> Item:
    entry = meta.get(name)
    where = f"{folder / 'meta.pkl'}: {name}"
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise BadDataError(f"{where} has no text", "each utterance of the split needs an entry with text and label")
    if name not in folders:
        raise BadDataError(f"{folder} has no folder of utterance {name}", "extract the data set again")
    side = _side(name) if dataset == "iemocap" else ""
    prefix = f"image_{side}_" if side else "image_"
    audio = folders[name] / (f"audio_{side}.wav" if side else "audio.wav")
    if not audio.is_file():
        raise BadDataError(f"{audio} is missing", "extract the data set again")
    return Item(
        name=name,
        images=_numbered(folders[name], prefix),
        audio=audio,
        text=entry["text"],
        target=_target(entry.get("label"), dataset, where),
        fps=_fps(entry.get("fps"), where) if dataset == "iemocap" else MOSEI_FPS,
        layout=dataset,
    )


def _side(name: str) -> str:
    parts = name.split("_")
    return "L" if parts[0][-1:] == parts[-1][:1] else "R"


def _numbered(folder: Path, prefix: str) -> tuple[Path, ...]:
    """``<prefix>0.jpg``, ``<prefix>1.jpg``... in the order of their numbers."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,7})\.jpg")
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return tuple(path for _, path in sorted(found))


def _fps(value: Any, where: str) -> float:
    if value is None:
        return IEMOCAP_FPS
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 1000:
        raise BadDataError(f"{where}: fps is {value!r}", "frames a second, a number")
    return float(value)


def _target(label: Any, dataset: str, where: str) -> tuple[int, ...]:
    labels = LABELS[dataset]
    if dataset == "iemocap" and label in labels:
        return tuple(int(label == name) for name in labels)
    listed = dataset == "mosei" and isinstance(label, (list, tuple)) and len(label) == len(labels)
    if listed and all(isinstance(v, (int, float)) and v in (0, 1) for v in label):
        return tuple(int(v) for v in label)
    expected = f"one of {', '.join(labels)}" if dataset == "iemocap" else f"{len(labels)} of 0 or 1"
    raise BadDataError(f"{where}: label is {str(label)[:80]!r}", f"expected {expected}")
