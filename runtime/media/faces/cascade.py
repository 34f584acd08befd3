"""The three stages of MTCNN on one frame, as facenet-pytorch 2.6 runs them.

P-Net slides over a pyramid of the frame and proposes boxes, R-Net rejects most of them, O-Net decides. The nets come
from ``mmx.export.face_nets``: pixels 0..255 in, one logit (face against not) and four box offsets out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mmx.runtime.errors import BadDataError
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces.boxes import Boxes, pixel_rectangles, refine, squared, suppress, suppress_nested
from mmx.runtime.media.faces.resample import IntegralImage

NETS = ("pnet", "rnet", "onet")
CELL = 12  # P-Net sees 12 x 12 pixels, every 2 pixels
STRIP_PIXELS = 1 << 16  # P-Net's maps of so many pixels stay in the cache, and bound the memory of huge frames
CROPS_AT_ONCE = {24: 32, 48: 16}  # likewise for R-Net and O-Net, by crop size


@dataclass(frozen=True)
class Detections:
    """Every face of a frame, most probable first: boxes [n, 4], probabilities [n]."""

    boxes: Boxes
    probabilities: NDArray[np.float32]


NOTHING = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32))


@dataclass(frozen=True)
class Proposals:
    """What P-Net takes for faces at one level: boxes in whole pixels of the frame [n, 4], scores, offsets [n, 4]."""

    boxes: Boxes
    scores: NDArray[np.float32]
    offsets: NDArray[np.float32]


class Cascade:
    """P-Net, R-Net and O-Net, each one single-threaded session that any number of threads may use."""

    def __init__(self, nets: dict[str, Path], spec: FaceSpec) -> None:
        if missing := [name for name in NETS if name not in nets]:
            raise BadDataError(f"the bundle has no face net {missing[0]}", "export the checkpoint again")
        self._spec = spec
        self._pnet, self._rnet, self._onet = (_open(Path(nets[name])) for name in NETS)

    def __call__(self, frame: NDArray[np.uint8]) -> Detections:
        """All faces of one RGB frame [h, w, 3]."""
        scales = self.scales(frame)
        if not scales:
            return NOTHING
        image = IntegralImage(frame)
        return self.decide(image, [self.propose(image, scale) for scale in scales])

    def scales(self, frame: NDArray[np.uint8]) -> list[float]:
        """The levels of the frame's pyramid, the largest picture (for the smallest faces) first."""
        return pyramid(frame.shape[0], frame.shape[1], self._spec)

    def propose(self, image: IntegralImage, scale: float) -> Proposals:
        """P-Net on one level: the cells that it takes for a face."""
        height, width = int(image.height * scale + 1), int(image.width * scale + 1)
        cells, scores, offsets = [], [], []
        lowest = np.float32(self._spec.thresholds[0])
        for row, start, stop in _strips(height, width):
            maps = _run(self._pnet, image.resize_rows(height, width, start, stop))[0]
            probability = _probability(maps[0])
            y, x = np.nonzero(probability >= lowest)
            cells.append(np.stack([x, y + row], axis=1))
            scores.append(probability[y, x])
            offsets.append(maps[1:, y, x].T)
        corner = 2 * np.concatenate(cells).astype(np.float32) + 1
        boxes = np.concatenate([corner, corner + (CELL - 1)], axis=1) / np.float32(scale)
        return Proposals(np.floor(boxes), np.concatenate(scores), np.concatenate(offsets))

    def decide(self, image: IntegralImage, levels: Sequence[Proposals]) -> Detections:
        """R-Net and O-Net on what P-Net proposed at some levels (at least one), in the pyramid's order."""
        boxes, scores, offsets = self._judge(self._rnet, image, _merged(levels), 24, self._spec.thresholds[1])
        kept = suppress(boxes, scores, 0.7, np.zeros(len(boxes), np.int64))
        return self.confirm(image, squared(refine(boxes[kept], offsets[kept], more=1)))

    def confirm(self, image: IntegralImage, boxes: Boxes) -> Detections:
        """O-Net alone: which of the square boxes hold a face, and where exactly it is."""
        boxes, scores, offsets = self._judge(self._onet, image, boxes, 48, self._spec.thresholds[2])
        boxes = refine(boxes, offsets, more=1)
        kept = suppress_nested(boxes, scores, 0.7)
        return Detections(boxes[kept], scores[kept])

    def _judge(
        self, net: ort.InferenceSession, image: IntegralImage, boxes: Boxes, size: int, minimum: float
    ) -> tuple[Boxes, NDArray[np.float32], NDArray[np.float32]]:
        """The boxes that a net gives more than ``minimum``, with their scores and offsets."""
        rectangles = pixel_rectangles(boxes, image.width, image.height)
        inside = (rectangles[:, :2] < rectangles[:, 2:]).all(axis=1)
        boxes, rectangles = boxes[inside], rectangles[inside]
        step = CROPS_AT_ONCE[size]
        answers = [
            _run(net, image.crops(rectangles[first : first + step], size)) for first in range(0, len(boxes), step)
        ]
        answer = np.concatenate([np.empty((0, 5), np.float32), *answers])
        scores = _probability(answer[:, 0])
        passed = scores > np.float32(minimum)
        return boxes[passed], scores[passed], answer[passed, 1:]


def _merged(levels: Sequence[Proposals]) -> Boxes:
    """The proposals of all levels without those that overlap a better one: square boxes, best first."""
    boxes = np.concatenate([found.boxes for found in levels])
    scores = np.concatenate([found.scores for found in levels])
    offsets = np.concatenate([found.offsets for found in levels])
    level = np.repeat(np.arange(len(levels)), [len(found.scores) for found in levels])
    kept = suppress(boxes, scores, 0.5, level)
    kept = kept[suppress(boxes[kept], scores[kept], 0.7, np.zeros(len(kept), np.int64))]
    return squared(refine(boxes[kept], offsets[kept], more=0))


def pyramid(height: int, width: int, spec: FaceSpec) -> list[float]:
    """The scales at which P-Net looks at a frame; none if its shorter side is under the smallest face."""
    scale = CELL / spec.min_face
    shorter = min(height, width) * scale
    scales = []
    while shorter >= CELL:
        scales.append(scale)
        scale *= spec.factor
        shorter *= spec.factor
    return scales


def _strips(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Cut a level into strips: P-Net's first output row, and the input rows start:stop that give it and the next ones.

    Output row r needs input rows 2r .. 2r + 11; the last one of an odd height makes do with one less (the pool's
    ceil_mode), so the last strip runs to the end of the level.
    """
    rows = (height - 1) // 2 - 4
    step = max(16, STRIP_PIXELS // width // 2)
    for row in range(0, rows, step):
        yield row, 2 * row, height if row + step >= rows else 2 * (row + step) + CELL - 2


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every frame size would leave a plan of its own behind
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [session.get_inputs()[0].name, session.get_outputs()[0].name]
    except Exception as e:  # ONNX Runtime raises its own unrelated exception types
        raise BadDataError(f"{path} is not a readable face net: {e}", "export the checkpoint again") from e
    if names != ["pixels", "logit_and_offsets"]:
        raise BadDataError(f"{path} is not a face net that mmx made", "export the checkpoint again")
    return session


def _run(net: ort.InferenceSession, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    answer: NDArray[np.float32] = net.run(None, {"pixels": pixels})[0]
    return answer


def _probability(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax of (0, logit) in float32 steps, so that scores near 1 tie exactly where PyTorch's do."""
    small = np.exp(-np.abs(logit))
    return np.divide(np.where(logit > 0, np.float32(1), small), np.float32(1) + small, dtype=np.float32)
