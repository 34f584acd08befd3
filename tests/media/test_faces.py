"""The face detector on real frames: against facenet-pytorch, and against a plain cascade in torch that always runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch.nn import functional as F

from mmx.benchmarks.contenders.facenet import load_mtcnn
from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.manifest import FaceSpec
from mmx.runtime.media.faces import FaceDetector
from mmx.runtime.media.faces.cascade import Cascade

SPEC = FaceSpec()


@pytest.fixture(scope="module")
def source() -> dict[str, Path]:
    try:
        return find_face_nets()
    except EnvironmentMissing as e:
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def nets(source: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build_face_nets(source, tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def detector(nets: dict[str, Path]) -> FaceDetector:
    return FaceDetector(nets, SPEC, threads=1)


@pytest.fixture(scope="module")
def talking(talking_face: tuple[Path, str]) -> list[np.ndarray]:
    """Eight frames of the demo's clip: one face, 640 x 360."""
    with av.open(talking_face[0]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return frames[:: len(frames) // 7][:8]


@pytest.fixture(scope="module")
def crowd(talking: list[np.ndarray]) -> np.ndarray:
    """Twelve faces in one frame, large ones, small ones and mirrored ones."""
    rows = [np.concatenate([talking[i], talking[i + 1][:, ::-1]], axis=1)[:, :1280] for i in (0, 2)]
    small = [frame[::2, ::2] for frame in talking]
    rows += [np.concatenate(small[i : i + 4], axis=1) for i in (0, 4)]
    return np.concatenate(rows)


def largest_first(boxes: np.ndarray) -> np.ndarray:
    return np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")


class PlainCascade:
    """MTCNN written for reading, on mtcnn-runtime's own nets: torch for resizing, one crop at a time, greedy loops."""

    def __init__(self, source: dict[str, Path]) -> None:
        self.sessions = {name: ort.InferenceSession(str(path)) for name, path in source.items()}

    def run(self, net: str, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.sessions[net].run(None, {"input": ((planes - 127.5) / 128).numpy()})
        by_width = {value.shape[1]: torch.from_numpy(value) for value in outputs}
        return by_width[2][:, 1], by_width[4]

    def __call__(self, frame: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        planes = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
        height, width = frame.shape[:2]
        found, scale = [], 12 / SPEC.min_face
        while min(height, width) * scale >= 12:
            size = int(height * scale + 1), int(width * scale + 1)
            face, offsets = self.run("pnet", F.interpolate(planes, size=size, mode="area"))
            y, x = torch.nonzero(face[0] >= 0.6, as_tuple=True)
            corner = torch.stack([2 * x + 1, 2 * y + 1], 1).float()
            boxes = (torch.cat([corner, corner + 11], 1) / scale).floor()
            kept = self.suppress(boxes, face[0, y, x], 0.5)
            found.append((boxes[kept], face[0, y, x][kept], offsets[0, :, y, x].T[kept]))
            scale *= SPEC.factor
        boxes, scores, offsets = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = self.suppress(boxes, scores, 0.7)
        boxes = self.square(boxes[kept] + offsets[kept] * (boxes[kept, 2:] - boxes[kept, :2]).repeat(1, 2))
        boxes, scores, offsets = self.judge("rnet", planes, boxes, 24)
        kept = self.suppress(boxes, scores, 0.7)
        boxes = self.square(boxes[kept] + offsets[kept] * (boxes[kept, 2:] - boxes[kept, :2] + 1).repeat(1, 2))
        boxes, scores, offsets = self.judge("onet", planes, boxes, 48)
        boxes = boxes + offsets * (boxes[:, 2:] - boxes[:, :2] + 1).repeat(1, 2)
        kept = self.suppress(boxes, scores, 0.7, of_smaller=True)
        return boxes[kept], scores[kept]

    def judge(self, net: str, planes: torch.Tensor, boxes: torch.Tensor, size: int) -> Any:
        crops, inside = [], []
        for i, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
            crop = planes[:, :, max(y0, 1) - 1 : max(y1, 0), max(x0, 1) - 1 : max(x1, 0)]
            if crop.numel():
                crops.append(F.interpolate(crop, size=(size, size), mode="area"))
                inside.append(i)
        if not crops:
            return boxes[:0], boxes[:0, 0], boxes[:0]
        scores, offsets = self.run(net, torch.cat(crops))
        passed = scores > 0.7
        return boxes[inside][passed], scores[passed], offsets[passed]

    @staticmethod
    def square(boxes: torch.Tensor) -> torch.Tensor:
        size = boxes[:, 2:] - boxes[:, :2]
        side = size.max(1, keepdim=True).values
        corner = boxes[:, :2] + size / 2 - side / 2
        return torch.cat([corner, corner + side], 1)

    @staticmethod
    def suppress(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, of_smaller: bool = False) -> torch.Tensor:
        more = int(of_smaller)
        order, kept = scores.argsort(descending=True, stable=True), []
        area = (boxes[:, 2:] - boxes[:, :2] + more).prod(1)
        while len(order):
            best, order = order[0], order[1:]
            kept.append(int(best))
            sides = torch.minimum(boxes[best, 2:], boxes[order, 2:]) - torch.maximum(boxes[best, :2], boxes[order, :2])
            shared = (sides + more).clamp(min=0).prod(1)
            base = torch.minimum(area[best], area[order]) if of_smaller else area[best] + area[order] - shared
            order = order[~(shared / base > threshold)]
        return torch.tensor(kept, dtype=torch.long)


def test_all_detections_are_the_plain_cascades(
    talking: list[np.ndarray], crowd: np.ndarray, source: dict[str, Path], nets: dict[str, Path]
) -> None:
    plain, cascade = PlainCascade(source), Cascade(nets, SPEC)
    noise = np.random.default_rng(0).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    counts = []
    for frame in [*talking[:4], crowd, talking[0][::3, ::3], talking[1].transpose(1, 0, 2), noise]:
        found = cascade(frame)
        boxes, scores = plain(frame)
        assert len(found.boxes) == len(boxes)
        ours, theirs = largest_first(found.boxes), largest_first(boxes.numpy())
        np.testing.assert_allclose(found.boxes[ours], boxes.numpy()[theirs], atol=1e-3)
        np.testing.assert_allclose(found.probabilities[ours], scores.numpy()[theirs], atol=1e-5)
        counts.append(len(boxes))
    assert counts[:4] == [1, 1, 1, 1]
    assert counts[4] >= 10


def test_faces_and_crops_are_facenet_pytorchs(
    talking: list[np.ndarray], crowd: np.ndarray, detector: FaceDetector
) -> None:
    def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
        return PlainCascade.suppress(boxes, scores, threshold)

    try:
        mtcnn = load_mtcnn(nms)
    except EnvironmentMissing as e:
        pytest.skip(str(e))
    for frame in [*talking, crowd, talking[0][::2, ::2], np.zeros((64, 64, 3), np.uint8)]:
        pixels = frame.astype(np.float32)  # as the public data sets' loaders give it
        (ours,) = detector.extract([frame], "skip")
        boxes, probabilities = mtcnn.detect(pixels)
        assert (boxes is None) == (ours.face is None)
        if boxes is not None and ours.face is not None:
            np.testing.assert_allclose(ours.face.box, boxes[0].astype(np.float32), atol=1e-3)
            assert ours.face.probability == pytest.approx(float(probabilities[0]), abs=1e-5)
            assert np.array_equal(ours.pixels, mtcnn.extract(pixels, boxes, None).numpy())


def test_crop_of_tensors_is_an_option(talking: list[np.ndarray], nets: dict[str, Path], detector: FaceDetector) -> None:
    (crop,) = FaceDetector(nets, FaceSpec(resample="torch")).extract(talking[:1])
    (face,) = detector.detect(talking[:1])
    assert face is not None and crop.face is not None and np.array_equal(face.box, crop.face.box)
    size = face.box[2:] - face.box[:2]
    x0, y0 = (face.box[:2] - size / 46).astype(int)
    x1, y1 = (face.box[2:] + size / 46).astype(int)
    planes = torch.from_numpy(talking[0][y0:y1, x0:x1]).permute(2, 0, 1)[None].float()
    assert np.array_equal(crop.pixels, F.interpolate(planes, size=(48, 48), mode="area")[0].numpy())


def test_results_do_not_depend_on_company_order_or_threads(
    talking: list[np.ndarray], crowd: np.ndarray, nets: dict[str, Path], detector: FaceDetector
) -> None:
    frames = [*talking, crowd, talking[0][:5, :5], talking[3][::2, ::2]]
    together = FaceDetector(nets, SPEC, threads=4).extract(frames[::-1])[::-1]
    for frame, crop in zip(frames, together, strict=True):
        (alone,) = detector.extract([frame])
        assert np.array_equal(alone.pixels, crop.pixels)
        assert (alone.face is None) == (crop.face is None)
        if alone.face and crop.face:
            assert np.array_equal(alone.face.box, crop.face.box)
            assert alone.face.probability == crop.face.probability


def test_largest_face_wins(crowd: np.ndarray, nets: dict[str, Path], detector: FaceDetector) -> None:
    found = Cascade(nets, SPEC)(crowd).boxes
    (face,) = detector.detect([crowd])
    assert face is not None and np.array_equal(face.box, found[largest_first(found)[0]])


def test_no_face_policies(talking: list[np.ndarray], detector: FaceDetector) -> None:
    empty = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 300, 3))  # a ramp: no face, rows differ
    with_face = detector.extract([talking[0]])[0].pixels
    results = {
        policy: detector.extract([talking[0], empty], policy) for policy in ("center", "skip", "mask", "upstream")
    }
    for first, second in results.values():
        assert np.array_equal(first.pixels, with_face)
        assert first.face is not None and second.face is None
    assert results["skip"][1].pixels is None
    assert np.array_equal(results["mask"][1].pixels, np.zeros((3, 48, 48)))
    center = results["center"][1].pixels
    sums = np.interp(np.arange(49) * 200 / 48, np.arange(201), np.cumsum([0, *range(200)]))
    expected = np.diff(sums) / (200 / 48)  # mean grey of each of the 48 slices of the ramp
    np.testing.assert_allclose(center, np.broadcast_to(expected[:, None], (3, 48, 48)), atol=1e-3)
    upstream = results["upstream"][1].pixels  # 200 high: rows 76..123, columns 52..99, unscaled
    assert np.array_equal(upstream, empty[76:124, 52:100].transpose(2, 0, 1))
    with pytest.raises(BadDataError, match=r"at 1\.500 s"):
        detector.extract([talking[0], empty], "error", times=[1.0, 1.5])
    with pytest.raises(BadDataError, match="does not fit"):
        detector.extract([empty[:60]], "upstream")
    with pytest.raises(UsageError, match="centre"):
        detector.extract([empty], "centre")


@pytest.mark.parametrize("size", [(1, 1), (11, 11), (19, 500), (20, 20), (21, 33), (400, 21)])
def test_odd_sizes(size: tuple[int, int], detector: FaceDetector) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (crop,) = detector.extract([frame])
    assert crop.pixels is not None and crop.pixels.shape == (3, 48, 48) and np.isfinite(crop.pixels).all()


def test_grey_and_strided_frames(talking: list[np.ndarray], detector: FaceDetector) -> None:
    grey = talking[0].mean(axis=2).astype(np.uint8)
    flat, stacked = detector.extract([grey, np.stack([grey] * 3, axis=2)])
    assert flat.face is not None and np.array_equal(flat.pixels, stacked.pixels)
    mirrored = talking[0][:, ::-1]
    view, copy = detector.extract([mirrored, mirrored.copy()])
    assert view.face is not None and np.array_equal(view.pixels, copy.pixels)


def test_a_4k_frame(talking: list[np.ndarray], detector: FaceDetector) -> None:
    frame = np.kron(talking[0], np.ones((6, 6, 1), np.uint8))
    small, large = detector.detect([talking[0], frame])
    assert small is not None and large is not None
    scaled = large.box / 6
    shared = np.prod(np.minimum(scaled[2:], small.box[2:]) - np.maximum(scaled[:2], small.box[:2]))
    assert shared / (np.prod(scaled[2:] - scaled[:2]) + np.prod(small.box[2:] - small.box[:2]) - shared) > 0.85


@pytest.mark.parametrize("shape", [(10, 10, 4), (10,), (0, 10, 3), (2, 10, 10, 3)])
def test_what_is_no_frame(shape: tuple[int, ...], detector: FaceDetector) -> None:
    with pytest.raises(BadDataError, match="uint8"):
        detector.detect([np.zeros(shape, np.uint8)])
    with pytest.raises(BadDataError, match="float32"):
        detector.detect([np.zeros((10, 10, 3), np.float32)])  # type: ignore[list-item]


def test_wrong_nets(source: dict[str, Path], nets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="not a face net that mmx made"):
        FaceDetector(source, SPEC)
    broken = tmp_path / "rnet.onnx"
    broken.write_bytes(nets["rnet"].read_bytes()[:5000])
    with pytest.raises(BadDataError, match=r"rnet\.onnx"):
        FaceDetector(nets | {"rnet": broken}, SPEC)
    with pytest.raises(BadDataError, match="no face net onet"):
        FaceDetector({name: nets[name] for name in ("pnet", "rnet")}, SPEC)
    with pytest.raises(BadDataError, match="make no sense"):
        FaceDetector(nets, FaceSpec(factor=1.0))
    with pytest.raises(BadDataError, match="lanczos"):
        FaceDetector(nets, FaceSpec(resample="lanczos"))
