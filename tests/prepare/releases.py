"""Made-up releases of IEMOCAP and MOSEI, with the oddities of the real ones; each picture and sample says which it is.

A picture shows its number in sixteen blocks, black or white, over the whole of what is cut out of it; a sample's value
follows from its place and channel.
"""

from __future__ import annotations

import csv
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

NTSC = Fraction(30000, 1001)
RATE = 16000
LOUD = (7, 11)  # a sample's steps by channel


def sound(count: int, channels: int) -> NDArray[np.int16]:
    """Samples [n, channels] that all differ from those near them."""
    place = np.arange(count)[:, None] * np.array(LOUD[:channels])
    return (place % 20011 - 10005).astype("<i2")


def write_wav(path: Path, samples: NDArray[np.int16], rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def blocks(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """A panel [height, width, 3] with a number's sixteen bits, two rows of eight."""
    bits = np.array([number >> place & 1 for place in range(16)], np.uint8).reshape(2, 8)
    gray = 30 + 190 * np.kron(bits, np.ones((height // 2, width // 8), np.uint8))
    panel = np.repeat(np.pad(gray, ((0, height - gray.shape[0]), (0, width - gray.shape[1])))[..., None], 3, 2)
    return panel.astype(np.uint8)


def read_blocks(rgb: NDArray[np.uint8]) -> int:
    """The number that a picture shows."""
    height, width = rgb.shape[0] // 2, rgb.shape[1] // 8
    middles = [
        rgb[
            row * height + height // 4 : row * height + 3 * height // 4,
            c * width + width // 4 : c * width + 3 * width // 4,
        ]
        for row in range(2)
        for c in range(8)
    ]
    return sum(int(middle.mean() > 125) << place for place, middle in enumerate(middles))


def write_video(
    path: Path,
    frames: Iterable[tuple[int, NDArray[np.uint8]]],
    time_base: Fraction,
    rate: Fraction,
    codec: str = "mpeg4",
    **options: str,
) -> None:
    """Encode (presentation time in units of ``time_base``, picture) as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        for place, (pts, rgb) in enumerate(frames):
            if not place:
                stream.height, stream.width = rgb.shape[:2]
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = pts, time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def dialogue_frame(number: int) -> NDArray[np.uint8]:
    """720x480: the number on the left and 1000 more on the right, exactly where 224x224 is cut out of each half."""
    rgb = np.full((480, 720, 3), 128, np.uint8)
    for left, shown in ((68, number), (428, number + 1000)):
        rgb[128:352, left : left + 224] = blocks(shown, 224, 224)
    rgb[128:352, 68:96, 0] = 250  # the first column of the left panel is red, of the right one blue
    rgb[128:352, 428:456, 2] = 250
    return rgb


@dataclass(frozen=True)
class Said:
    """An utterance of a made-up dialogue; ``line``: of the transcript, None: there is none."""

    name: str
    start: float
    end: float
    label: str
    line: str | None


def write_dialogue(
    release: Path,
    name: str,
    utterances: list[Said],
    *,
    seconds: float = 4.0,
    dropped: tuple[int, ...] = (),
    extra: tuple[str, ...] = (),
    encoding: str = "utf-8",
    line_end: str = "\n",
    fps: Fraction = NTSC,
    **options: str,
) -> None:
    """One dialogue's four files. ``dropped``: frames that are not in the video; ``extra``: more transcript lines."""
    dialog = release / f"Session{name[4]}" / "dialog"
    numbers = [number for number in range(int(seconds * fps)) if number not in dropped]
    frames = ((number, dialogue_frame(number)) for number in numbers)
    write_video(dialog / f"avi/DivX/{name}.avi", frames, 1 / fps, fps, qmin="1", qmax="2", **options)
    write_wav(dialog / f"wav/{name}.wav", sound(int(seconds * RATE), 2))
    lines = [said.line for said in reversed(utterances) if said.line is not None] + list(extra)
    for folder in ("transcriptions", "EmoEvaluation", "EmoEvaluation/Categorical"):
        (dialog / folder).mkdir(parents=True, exist_ok=True)
    (dialog / f"transcriptions/{name}.txt").write_bytes("".join(line + line_end for line in lines).encode(encoding))
    (dialog / f"transcriptions/._{name}.txt").write_bytes(b"\0\5\26\7")
    (dialog / f"EmoEvaluation/._{name}.txt").write_bytes(b"\0\5\26\7")
    (dialog / f"EmoEvaluation/Categorical/e1_{name}.txt").write_text("[9.0 - 9.5]\tnot\tang\t[1, 1, 1]\n")
    rating = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for said in utterances:
        rating += [
            f"[{said.start:.4f} - {said.end:.4f}]\t{said.name}\t{said.label}\t[2.5000, 2.5000, 2.5000]",
            "C-E2:\tNeutral;\t()",
            "A-E3:\tval 3; act 2; dom  ;\t()",
            "",
        ]
    (dialog / f"EmoEvaluation/{name}.txt").write_bytes(line_end.join(rating).encode())


def said(name: str, start: float, end: float, label: str, words: str | None) -> Said:
    """An utterance with a transcript line of other times than the evaluation's."""
    return Said(
        name, start, end, label, None if words is None else f"{name} [{start + 9:08.4f}-{end + 9:08.4f}]: {words}"
    )


def write_iemocap(release: Path) -> dict[str, Said]:
    """A release of two sessions; returns all utterances by name."""
    first, second, third, fourth = "Ses01F_impro01", "Ses01M_script01_1b", "Ses02F_script02_2", "Ses02M_impro03"
    made = {
        first: [
            said(f"{first}_F000", 0.3, 1.1234, "neu", "Yes: I said: [LAUGHTER] no."),
            said(f"{first}_M000", 1.0, 2.5, "ang", "Over\u2014lapping."),
            said(f"{first}_F001", 2.6, 3.2, "xxx", "Not agreed on."),
            said(f"{first}_M001", 3.3, 3.9, "sad", ""),
            said(f"{first}_F002", 3.4, 3.8, "hap", None),
            said(f"{first}_F003", 3.8, 9.0, "exc", "Longer than the media."),
            said(f"{first}_F004", 7.0, 9.0, "exc", "After the media."),
        ],
        second: [
            said(f"{second}_M000", 0.1, 0.9, "fru", "caf\xe9 \xa31"),
            said(f"{second}_F000", 1.0, 2.0, "exc", "A ]: in the words: yes"),
            said(f"{second}_M001", 2.0, 3.0, "sur", "Oh!"),
        ],
        third: [
            said(f"{third}_F000", 0.2, 1.6, "sad", "  One space too many. "),
            said(f"{third}_M000", 1.7, 2.9, "hap", "Frames are missing."),
            said(f"{third}_M001", 3.01, 3.02, "neu", "Too short for a picture."),
        ],
        fourth: [
            said(f"{fourth}_F000", 0.5, 1.5, "neu", "A."),
            said(f"{fourth}_M000", 1.5, 2.5, "ang", "B."),
            said(f"{fourth}_M001", 2.5, 3.5, "fru", "C."),
        ],
    }
    remarks = (
        f"{first}_FXX0 [012.0000-013.0000]: Who?",
        "M: a remark",
        "(door)",
        "[noise]: nothing",
        f"{first}_F009",
        "",
    )
    write_dialogue(release, first, made[first], extra=remarks)
    write_dialogue(release, second, made[second], encoding="cp1252", line_end="\r\n")
    write_dialogue(release, third, made[third], dropped=(*range(10, 14), 55, 56, 80))
    write_dialogue(release, fourth, made[fourth], encoding="utf-8-sig", fps=Fraction(25), bf="2")
    return {utterance.name: utterance for utterances in made.values() for utterance in utterances}


@dataclass(frozen=True)
class Clip:
    """A clip of a made-up MOSEI video."""

    video: str
    clip: int
    start: float
    end: float
    words: str
    label: tuple[int, ...]  # anger, disgust, fear, happiness, sadness, surprise

    @property
    def name(self) -> str:
        return f"{self.video}_{self.clip}"


EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")


def write_tables(folder: Path, clips: list[Clip]) -> None:
    """MTurk's tables: three rows for each clip over two files, in which an emotion's values sum to above 0 or not."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["HITId", "Input.VIDEO_ID", "Input.CLIP", *[f"Answer.{emotion}" for emotion in reversed(EMOTIONS)]]
    rows = []
    for number, clip in enumerate(clips):
        for rater in range(3):
            values = dict.fromkeys(EMOTIONS, "" if (number + rater) % 2 else "0")
            values |= {
                e: ("2" if rater == number % 3 else "") for e, there in zip(EMOTIONS, clip.label, strict=True) if there
            }
            path = "https://example.org/videos/" if rater == 1 else ""
            row = ['a "quoted", HIT', path + clip.video, str(clip.clip)]
            rows.append(row + [values[e] for e in reversed(EMOTIONS)])
    for name, part in (("Batch_1.csv", rows[::2]), ("Batch_2.csv", rows[1::2])):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *part])
    (folder / "._Batch_1.csv").write_bytes(b"\0\5\26\7")


def write_csd(path: Path, clips: list[Clip]) -> None:
    """The SDK's file of the same labels."""
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_group("All Labels/data")
        for video in {clip.video for clip in clips}:
            mine = [clip for clip in reversed(clips) if clip.video == video]
            order = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")
            features = [[-1.0, *[0.66 * clip.label[EMOTIONS.index(e)] for e in order]] for clip in mine]
            data[f"{video}/features"] = np.array(features, np.float32)
            data[f"{video}/intervals"] = np.array([[clip.start, clip.end] for clip in mine], np.float32)


FRAMES = {  # each video's frames a second, and when each of its frames is shown, in units of one frame
    "-aB_3dEfGh1": (Fraction(25), list(range(200))),
    "_under_score_": (NTSC, list(range(180))),
    "230165": (Fraction(30), [place for place in range(270) if not 60 < place < 103 and (place % 7 or not place)]),
    "xyZ0123": (Fraction(15), list(range(60))),
}


def write_mosei(release: Path, *, full: bool = False, csd: bool = False) -> dict[str, Clip]:
    """A release, in either of its two layouts and with either kind of labels; returns all clips by name."""
    clips = [
        Clip("-aB_3dEfGh1", 0, 0.0, 2.6, "One.", (0, 0, 0, 1, 0, 0)),
        Clip("-aB_3dEfGh1", 1, 2.2, 4.9, "Two ___ with ___ bars: and colons", (1, 0, 0, 0, 1, 0)),
        Clip("-aB_3dEfGh1", 10, 4.9, 12.0, "Past the end", (0, 0, 0, 0, 0, 0)),
        Clip("_under_score_", 0, -0.4, 1.7, "Negative", (0, 0, 1, 0, 0, 0)),
        Clip("_under_score_", 3, 2.05, 2.4, "Short", (0, 1, 0, 0, 0, 1)),
        Clip("230165", 7, 1.6, 4.1, "It jerks.", (0, 0, 0, 0, 0, 1)),
        Clip("230165", 8, 4.0, 8.2, "", (0, 0, 0, 1, 0, 0)),
        Clip("xyZ0123", 2, 0.6, 3.3, "Caf\xe9", (0, 0, 0, 0, 1, 0)),
    ]
    root = release / "Raw" if full else release
    texts = root / ("Transcript/Segmented/Combined" if full else "Transcript/Combined")
    texts.mkdir(parents=True)
    for video, (rate, places) in FRAMES.items():
        frames = ((place, blocks(number, 180, 320)) for number, place in enumerate(places))
        path = root / f"Videos/Full/Combined/{video}.mp4"
        write_video(path, frames, 1 / rate, rate, "libx264", crf="10", bf="2", preset="veryfast")
        channels = 2 if video == "230165" else 1
        write_wav(
            root / ("Audio/Full/WAV_16000" if full else "Audio/WAV_16000") / f"{video}.wav", sound(9 * RATE, channels)
        )
        mine = [c for c in clips if c.video == video] + [Clip(video, 99, 0.1, 1.0, "Nobody rated it", (0,) * 6)]
        lines = [f"{video}___{c.clip}___{c.start}___{c.end}___ {c.words} " for c in reversed(mine)]
        encoding, end = ("cp1252", "\r\n") if video == "xyZ0123" else ("utf-8", "\n")
        (texts / f"{video}.txt").write_bytes(end.join(lines).encode(encoding))
        (texts / f"._{video}.txt").write_bytes(b"\0\5\26\7")
    (texts / "NoMedia.txt").write_text("NoMedia___0___0.0___1.0___words\n")
    rated = [*clips, Clip("NoMedia", 0, 0.0, 1.0, "words", (1, 0, 0, 0, 0, 0))]
    if csd:
        (root / "Labels").mkdir()
        write_csd(root / "Labels/CMU_MOSEI_Labels.csd", rated)
    else:
        write_tables(root / "Labels", rated)
    return {clip.name: clip for clip in clips}
