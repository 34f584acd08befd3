"""The pieces of the face detector, each against an independent implementation: torch, OpenCV, plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch.nn import functional as F

from mmx.export.assets import find_face_nets
from mmx.export.face_nets import build_face_nets
from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.media.faces import boxes as boxes_module
from mmx.runtime.media.faces.boxes import suppress, suppress_nested
from mmx.runtime.media.faces.resample import IntegralImage, resize_opencv_area

SIZES = [(1, 1), (1, 40), (7, 5), (47, 48), (48, 48), (49, 33), (96, 144), (131, 64), (240, 251)]


@pytest.fixture(scope="module")
def source() -> dict[str, Path]:
    try:
        return find_face_nets()
    except EnvironmentMissing as e:
        pytest.skip(str(e))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def torch_area(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    return F.interpolate(planes, size=(height, width), mode="area")[0].numpy()


@pytest.mark.parametrize("size", SIZES)
def test_pyramid_level_is_torchs_area_resize(size: tuple[int, int]) -> None:
    frame = picture(*size)
    image = IntegralImage(frame)
    for scale in (0.6, 0.31, 1.7):
        height, width = int(size[0] * scale + 1), int(size[1] * scale + 1)
        cut = height // 2
        strips = [image.resize_rows(height, width, 0, cut), image.resize_rows(height, width, cut, height)]
        assert np.array_equal(np.concatenate(strips, axis=2)[0], torch_area(frame, height, width))


def test_crops_are_torchs_area_resize() -> None:
    frame = picture(200, 170)
    rng = np.random.default_rng(1)
    corner = rng.integers(0, (169, 199), (40, 2))
    far = corner + 1 + (rng.random((40, 2)) * ((170, 200) - corner)).astype(int)
    rectangles = np.concatenate([corner, np.minimum(far, (170, 200))], axis=1)
    crops = IntegralImage(frame).crops(rectangles, 24)
    for crop, (x0, y0, x1, y1) in zip(crops, rectangles, strict=True):
        assert np.array_equal(crop, torch_area(frame[y0:y1, x0:x1], 24, 24))


def test_sums_may_pass_two_to_the_thirty_first() -> None:
    frame = np.full((3000, 3000, 3), 255, np.uint8)  # 2.3e9 in the last entry of the integral image
    assert np.array_equal(
        IntegralImage(frame).crops(np.array([[2900, 2900, 3000, 3000]]), 24), np.full((1, 3, 24, 24), 255)
    )


@pytest.mark.parametrize("size", SIZES)
def test_face_resize_is_opencvs_inter_area(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference for INTER_AREA")
    pixels = picture(*size)
    expected = cv2.resize(pixels.astype(np.float32), (48, 48), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resize_opencv_area(pixels, 48), expected)


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float, of_smaller: bool) -> list[int]:
    """Non-maximum suppression as its definition reads."""
    more = 1 if of_smaller else 0
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda k: (-scores[k], k)):
        for j in kept:
            w, h = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]) + more
            shared = max(w, 0) * max(h, 0)
            a, b = (np.prod(boxes[k, 2:] - boxes[k, :2] + more) for k in (i, j))
            if shared / (min(a, b) if of_smaller else a + b - shared) > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("pairs_at_once", [1, 50, 1 << 20])
def test_suppression_is_greedy(pairs_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes_module, "PAIRS_AT_ONCE", pairs_at_once)
    rng = np.random.default_rng(2)
    corner = rng.uniform(-20, 100, (300, 2)).round()
    boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (300, 1)).round()], axis=1).astype(np.float32)
    level = rng.integers(0, 3, 300)
    tied = rng.integers(0, 40, 300).astype(np.float32) / 40
    for threshold in (0.3, 0.5, 0.7):
        expected = [
            i
            for k in range(3)
            for i in np.flatnonzero(level == k)[greedy(boxes[level == k], tied[level == k], threshold, False)]
        ]
        assert suppress(boxes, tied, threshold, level).tolist() == expected
        untied = rng.permutation(300).astype(np.float32)
        assert suppress_nested(boxes, untied, threshold).tolist() == greedy(boxes, untied, threshold, True)


def test_suppression_of_nothing() -> None:
    none = np.empty((0, 4), np.float32)
    assert len(suppress(none, none[:, 0], 0.5, np.empty(0, np.int64))) == 0
    assert len(suppress_nested(none, none[:, 0], 0.5)) == 0


def published_net(name: str, path: Path, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """MTCNN's net as published, in float64 torch: probability of a face and box offsets."""
    graph = onnx.load(path).graph
    arrays = {t.name: torch.from_numpy(numpy_helper.to_array(t).astype(np.float64)) for t in graph.initializer}
    affine = [[arrays[i] for i in n.input[1:]] for n in graph.node if n.op_type in ("Conv", "Gemm")]
    slopes = [arrays[n.input[1]].ravel() for n in graph.node if n.op_type == "PRelu"]
    pools = {"pnet": [2, 0, 0], "rnet": [3, 3, 0], "onet": [3, 3, 2, 0]}[name]
    x = (pixels.double() - 127.5) / 128
    for window in pools:
        x = F.prelu(F.conv2d(x, *affine.pop(0)), slopes.pop(0))
        x = F.max_pool2d(x, window, 2, ceil_mode=True) if window else x
    if name == "pnet":
        return F.conv2d(x, *affine[0]).softmax(1)[:, 1], F.conv2d(x, *affine[1])
    x = F.prelu(F.linear(x.transpose(2, 3).flatten(1), *affine.pop(0)), slopes.pop(0))
    return F.linear(x, *affine[0]).softmax(1)[:, 1], F.linear(x, *affine[1])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pnet", (2, 57, 40)), ("pnet", (1, 12, 12)), ("pnet", (1, 13, 14)), ("rnet", (9, 24, 24)), ("onet", (5, 48, 48))],
)
def test_rewritten_nets(name: str, shape: tuple[int, int, int], source: dict[str, Path], tmp_path: Path) -> None:
    import onnxruntime as ort

    n, height, width = shape
    pixels = np.random.default_rng(3).uniform(0, 255, (n, 3, height, width)).astype(np.float32)
    probability, offsets = published_net(name, source[name], torch.from_numpy(pixels))
    session = ort.InferenceSession(str(build_face_nets(source, tmp_path)[name]))
    answer = session.run(None, {"pixels": pixels})[0].astype(np.float64)
    np.testing.assert_allclose(1 / (1 + np.exp(-answer[:, 0])), probability, atol=3e-6)
    np.testing.assert_allclose(answer[:, 1:], offsets, atol=3e-6)


def test_source_must_be_the_net_it_is_taken_for(source: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="not MTCNN's pnet"):
        build_face_nets(source | {"pnet": source["rnet"]}, tmp_path / "swapped")
    broken = tmp_path / "onet.onnx"
    broken.write_bytes(source["onet"].read_bytes()[:1000])
    with pytest.raises(BadDataError, match=r"onet\.onnx"):
        build_face_nets(source | {"onet": broken}, tmp_path / "broken")
    assert not (tmp_path / "broken" / "onet.onnx").exists()
