"""The quicker face searches against the exact one: python studies/faces_modes.py VIDEO... [--bundle BUNDLE]

Each video's frames are looked at as they are and in scenes made of them: the picture at a half, a quarter and an eighth
of its size and somewhere else in each frame (or, still, in the same place), several of them, and none (upside down and
dark). The exact search and the others take each video, turn and turn about, on one core; what counts is CPU time.
``moved`` is no search but a measure of what a difference means: the exact search on frames moved by one pixel.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import click
import numpy as np
from numpy.typing import NDArray

from mmx.evaluation.environment import describe
from mmx.evaluation.statistics import Latency, Ratio, latency, speedup
from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.files import write_text
from mmx.runtime.manifest import FaceSpec, Preprocessing
from mmx.runtime.media.faces import FaceCrop, FaceDetector
from mmx.runtime.media.reader import Frame, read_segments
from mmx.runtime.packing import PIECE_SHAPE
from mmx.runtime.predictor import Predictor
from mmx.runtime.types import Sample

Frames = list[NDArray[np.uint8]]
Logits = Callable[[Sequence[FaceCrop]], NDArray[np.float32] | None]
QUICKER = ("fast", "large", "track")
SEED = 0


class Extractor(Protocol):
    """What is compared: a search, or what stands in for one."""

    def extract(self, frames: Sequence[NDArray[np.uint8]], no_face: str) -> list[FaceCrop]: ...


@dataclass(frozen=True)
class Moved:
    """A detector that is shown each frame one pixel further right and down, and its boxes moved back."""

    detector: FaceDetector

    def extract(self, frames: Sequence[NDArray[np.uint8]], no_face: str) -> list[FaceCrop]:
        """As ``FaceDetector.extract``."""
        moved = [np.ascontiguousarray(np.roll(frame, (1, 1), (0, 1))) for frame in frames]
        return [
            replace(crop, face=replace(crop.face, box=crop.face.box - 1)) if crop.face else crop
            for crop in self.detector.extract(moved, no_face)
        ]


@dataclass(frozen=True)
class Result:
    """One search on the scenes of one kind, of all videos.

    Attributes:
        frames, faces: looked at; with a face by the exact search.
        missed, invented: faces that only the exact search found, or only this one.
        same: faces whose crop is the same to the last bit.
        iou_mean, iou_least: overlap of both boxes where both found one.
        crop: mean difference of the crops there, in grey levels (0 to 255).
        logits: largest change of any visual logit of any video; None without a bundle.
    """

    scene: str
    mode: str
    frames: int
    faces: int
    missed: int
    invented: int
    same: int
    iou_mean: float
    iou_least: float
    crop: float
    logits: float | None
    exact_ms: Latency
    mode_ms: Latency
    ratio: Ratio

    def line(self) -> str:
        """The result as one line of text."""
        change = "" if self.logits is None else f", logits {self.logits:.3f}"
        boxes = f"IoU {self.iou_mean:.3f} (least {self.iou_least:.2f}), crop {self.crop:.2f}{change}"
        return (
            f"{self.scene:9} {self.mode:6} {self.faces:4} of {self.frames} frames: {self.missed} missed, "
            f"{self.invented} invented, {self.same} same; {boxes}; "
            f"{self.exact_ms.p50:.1f} -> {self.mode_ms.p50:.1f} ms, {self.ratio}"
        )


def scenes(frames: Frames) -> dict[str, Frames]:
    """What is made of a video's frames; the picture's place is drawn anew for each, unless it is still."""
    walls = [np.ascontiguousarray(frame[::-1] // 2) for frame in frames]

    def on_walls(*steps: int, still: bool = False) -> Frames:
        random = np.random.default_rng(SEED)
        made = [wall.copy() for wall in walls]
        for scene, frame in zip(made, frames, strict=True):
            random = np.random.default_rng(SEED) if still else random
            columns = np.array_split(np.arange(scene.shape[1]), len(steps))  # side by side, so that none hides another
            for step, column in zip(steps, columns, strict=True):
                small = frame[: frame.shape[0] // step * step, : frame.shape[1] // step * step]
                small = small.reshape(small.shape[0] // step, step, -1, step, 3).mean(axis=(1, 3)).astype(np.uint8)
                small = small[:, : len(column)]
                top = int(random.integers(scene.shape[0] - small.shape[0] + 1))
                left = int(column[0] + random.integers(len(column) - small.shape[1] + 1))
                scene[top : top + small.shape[0], left : left + small.shape[1]] = small
        return made

    return {
        "as it is": frames,
        "1/2": on_walls(2),
        "1/4": on_walls(4),
        "1/8": on_walls(8),
        "1/4 still": on_walls(4, still=True),
        "three": on_walls(3, 4, 6),
        "none": walls,
    }


def compare(
    detectors: dict[str, Extractor], name: str, videos: Sequence[Frames], passes: int, logits: Logits
) -> tuple[list[Result], list[NDArray[np.float32]]]:
    """Every search on the scenes of one kind; and the exact search's visual logits, one array a video."""
    found: dict[str, list[list[FaceCrop]]] = {mode: [] for mode in detectors}
    seconds: dict[str, list[float]] = {mode: [] for mode in detectors}
    for frames in videos:
        for mode, detector in detectors.items():
            found[mode].append(detector.extract(frames, "skip"))
        for turn in range(passes):
            for mode in detectors if turn % 2 == 0 else reversed(detectors):
                began = time.process_time()
                detectors[mode].extract(frames, "skip")  # all at once, for the tracker
                seconds[mode].append((time.process_time() - began) / len(frames))
    exact = [logits(crops) for crops in found["exact"]]
    results = []
    for mode in list(detectors)[1:]:
        changes = [
            float(np.abs(a - b).max())
            for a, crops in zip(exact, found[mode], strict=True)
            if a is not None and (b := logits(crops)) is not None
        ]
        crops = [(a, b) for one in zip(found["exact"], found[mode], strict=True) for a, b in zip(*one, strict=True)]
        results.append(_result(name, mode, crops, changes, seconds))
    return results, [values for values in exact if values is not None]


def _result(
    name: str, mode: str, crops: list[tuple[FaceCrop, FaceCrop]], changes: list[float], seconds: dict[str, list[float]]
) -> Result:
    pixels = [(a.pixels, b.pixels) for a, b in crops if a.pixels is not None and b.pixels is not None]
    overlaps = [overlap(a.face.box, b.face.box) for a, b in crops if a.face and b.face] or [1.0]
    differences = [float(np.abs(a - b).mean()) for a, b in pixels] or [0.0]
    return Result(
        scene=name,
        mode=mode,
        frames=len(crops),
        faces=sum(a.face is not None for a, _ in crops),
        missed=sum(a.face is not None and b.face is None for a, b in crops),
        invented=sum(a.face is None and b.face is not None for a, b in crops),
        same=sum(np.array_equal(a, b) for a, b in pixels),
        iou_mean=float(np.mean(overlaps)),
        iou_least=min(overlaps),
        crop=float(np.mean(differences)),
        logits=max(changes, default=None),
        exact_ms=latency(seconds["exact"]),
        mode_ms=latency(seconds[mode]),
        ratio=speedup(seconds["exact"], seconds[mode]),
    )


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    shared = float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))
    return shared / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - shared)


def visual_logits(predictor: Predictor | None, crops: Sequence[FaceCrop]) -> NDArray[np.float32] | None:
    """What a system says of the faces alone; None without a system or without faces."""
    faces = [crop.pixels for crop in crops if crop.pixels is not None]
    if predictor is None or not faces:
        return None
    silence = np.empty((0, *PIECE_SHAPE), np.float32)
    return predictor.network.logits([Sample(None, np.stack(faces), silence)])["logits_visual"][0]


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--frames", "count", default=20, show_default=True, help="Frames of each video, at most.")
@click.option("--passes", default=3, show_default=True, help="Timed runs of each video.")
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), help="Whose visual logits to compare.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here, too.")
def main(videos: tuple[Path, ...], count: int, passes: int, bundle: Path | None, out: Path | None) -> None:
    """Measure what the quicker face searches cost and save on VIDEOS, single-threaded."""
    made = [scenes(_frames(video, count)) for video in videos]
    predictor = Predictor(bundle, threads=1) if bundle else None
    results: list[Result] = []
    spread: list[NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory() as folder:
        nets = build_face_nets(find_face_nets(), Path(folder))
        exact = FaceDetector(nets, FaceSpec(), threads=1)
        detectors: dict[str, Extractor] = {"exact": exact}
        detectors |= {mode: FaceDetector(nets, FaceSpec(), threads=1, search=mode) for mode in QUICKER}
        detectors["moved"] = Moved(exact)
        for name in made[0]:
            logits = partial(visual_logits, predictor)
            some, values = compare(detectors, name, [scene[name] for scene in made], passes, logits)
            for result in some:
                click.echo(result.line())
            results += some
            spread += values
    deviation = float(np.std(spread, axis=0).mean()) if spread else None
    if deviation is not None:
        click.echo(f"visual logits of all scenes have a standard deviation of {deviation:.3f}")
    if out:
        report = {
            "environment": asdict(describe()),
            "videos": [video.name for video in videos],
            "logits_deviation": deviation,
            "results": [asdict(result) for result in results],
        }
        write_text(out, json.dumps(report, indent=2) + "\n")


def _frames(video: Path, count: int) -> Frames:
    events = read_segments(video, None, Preprocessing(), audio=False, threads=1)
    return [event.rgb for event in islice((e for e in events if isinstance(e, Frame)), count)]


if __name__ == "__main__":
    main()
