"""mmx's face detector against facenet-pytorch on real frames: python studies/faces.py VIDEO... [--json FILE]

Both find the largest face of each frame and cut it out, turn and turn about, with as many threads: facenet-pytorch
gives them to PyTorch, mmx looks at as many frames side by side. Where a box, a probability or a pixel of a crop
differs, the video has no speed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
from numpy.typing import NDArray

from mmx.benchmarks.contenders.facenet import load_mtcnn
from mmx.evaluation.environment import describe
from mmx.evaluation.statistics import Latency, Ratio, latency, speedup
from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.files import write_text
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces import FaceCrop, FaceDetector
from mmx.runtime.media.faces.boxes import suppress

BOX_TOLERANCE = 1e-3  # pixels
PROBABILITY_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Result:
    """One video. ``worst_*``: largest differences where both found a face; speeds are None where they do not agree."""

    video: str
    width: int
    height: int
    threads: int
    frames: int
    faces: int
    disagreements: int
    worst_box_px: float
    worst_probability: float
    worst_pixel: float
    mmx_ms: Latency | None
    facenet_ms: Latency | None
    ratio: Ratio | None

    def line(self) -> str:
        """The result as one line of text."""
        head = f"{self.video} {self.width}x{self.height}, threads {self.threads}: "
        head += f"{self.faces} faces in {self.frames} frames; "
        if self.ratio is None or self.mmx_ms is None or self.facenet_ms is None:
            return head + f"NOT THE SAME ({self.disagreements} frames), so no speed"
        return head + (
            f"boxes within {self.worst_box_px:.1e} px, pixels within {self.worst_pixel:.1e}; "
            f"{self.facenet_ms.p50:.1f} -> {self.mmx_ms.p50:.1f} ms a frame, {self.ratio} times faster"
        )


def measure(
    detector: FaceDetector, mtcnn: Any, video: Path, interval: float, count: int, passes: int, threads: int
) -> Result:
    """Run both on up to ``count`` frames of a video, one each ``interval`` seconds, after one untimed run each.

    Frames are timed in groups of ``threads``, so that mmx has one for each.
    """
    frames = list(_frames(video, interval, count))
    groups = [frames[i : i + threads] for i in range(0, len(frames), threads)]
    seconds = np.zeros((2, len(groups), passes))
    differences, faces, disagreements = [(0.0, 0.0, 0.0)], 0, 0
    for frame in frames:
        theirs, (ours,) = _facenet(mtcnn, frame), detector.extract([frame], "skip")
        faces += ours.face is not None
        difference = _difference(theirs, ours)
        within = difference is not None and difference[0] <= BOX_TOLERANCE and difference[1] <= PROBABILITY_TOLERANCE
        disagreements += not (within and difference is not None and difference[2] == 0)
        differences += [difference] if difference else []
    for i, group in enumerate(groups):
        contenders: list[Callable[[], object]] = [
            partial(_facenet_all, mtcnn, group),
            partial(detector.extract, group, "skip"),
        ]
        for turn in range(passes):
            for which in (0, 1) if (i + turn) % 2 == 0 else (1, 0):
                start = time.perf_counter()
                contenders[which]()
                seconds[which, i, turn] = (time.perf_counter() - start) / len(group)
    height, width = frames[0].shape[:2]
    box, probability, pixel = (float(worst) for worst in np.max(differences, axis=0))
    facts = (video.name, width, height, threads, len(frames), faces, disagreements, box, probability, pixel)
    if disagreements:
        return Result(*facts, None, None, None)
    return Result(*facts, latency(seconds[1]), latency(seconds[0]), speedup(seconds[0], seconds[1]))


def _frames(video: Path, interval: float, count: int) -> Iterator[NDArray[np.uint8]]:
    """RGB frames, the first at or after each multiple of ``interval`` seconds."""
    taken = 0
    with av.open(video) as container:
        for frame in container.decode(video=0):
            if taken < count and (frame.time or 0.0) >= taken * interval:
                taken += 1
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _facenet_all(mtcnn: Any, frames: list[NDArray[np.uint8]]) -> None:
    for frame in frames:
        _facenet(mtcnn, frame)


def _facenet(mtcnn: Any, frame: NDArray[np.uint8]) -> tuple[Any, Any, Any]:
    """Largest face by facenet-pytorch: (box, probability, crop), None each where there is none."""
    pixels = frame.astype(np.float32)
    boxes, probabilities = mtcnn.detect(pixels)
    if boxes is None:
        return None, None, None
    return boxes[0], probabilities[0], mtcnn.extract(pixels, boxes, None).numpy()


def _difference(theirs: tuple[Any, Any, Any], ours: FaceCrop) -> tuple[float, float, float] | None:
    """Largest difference in box, probability and pixels (0 where neither has a face); None where only one has."""
    box, probability, pixels = theirs
    if (box is None) != (ours.face is None):
        return None
    if ours.face is None or ours.pixels is None:
        return 0.0, 0.0, 0.0
    return (
        float(np.abs(box.astype(np.float32) - ours.face.box).max()),
        abs(float(probability) - ours.face.probability),
        float(np.abs(pixels - ours.pixels).max()),
    )


def _fast_nms(boxes: Any, scores: Any, threshold: float) -> Any:
    """mmx's own suppression stands in for torchvision's compiled one, which is about as fast."""
    import torch

    level = np.zeros(len(scores), np.int64)
    return torch.from_numpy(suppress(boxes.numpy(), scores.numpy(), threshold, level))


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--interval", default=0.5, show_default=True, help="Seconds between frames.")
@click.option("--frames", "count", default=40, show_default=True, help="Frames of each video, at most.")
@click.option("--threads", multiple=True, default=(1,), show_default=True, help="Of each; may be repeated.")
@click.option("--passes", default=4, show_default=True, help="Timed runs of each frame.")
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here, too.")
def main(
    videos: tuple[Path, ...], interval: float, count: int, threads: tuple[int, ...], passes: int, out: Path | None
) -> None:
    """Compare mmx's face detector with facenet-pytorch on VIDEOS."""
    import torch

    mtcnn = load_mtcnn(_fast_nms)
    with tempfile.TemporaryDirectory() as folder:
        nets = build_face_nets(find_face_nets(), Path(folder))
        results = []
        for number in threads:
            torch.set_num_threads(number)
            detector = FaceDetector(nets, FaceSpec(), threads=number)
            for video in videos:
                results.append(measure(detector, mtcnn, video, interval, count, passes, number))
                click.echo(results[-1].line())
    if out:
        report = {"environment": asdict(describe()), "results": [asdict(result) for result in results]}
        write_text(out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
