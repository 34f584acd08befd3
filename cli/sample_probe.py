"""The second of video that comes with mmx (demo/sample.py writes it), predicted as ``mmx predict`` does it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmx.runtime import Pipeline, Prediction, Predictor, Task

SAMPLE = Path(__file__).parent / "sample"
BUNDLE, CLIP = SAMPLE / "bundle", SAMPLE / "second.mp4"
TOLERANCE = 0.02  # logits: another FFmpeg converts colours a little differently


def predict_here() -> str:
    """What was done, if the prediction is right.

    Raises:
        RuntimeError: it is not.
    """
    expected = _expected()
    with Predictor(BUNDLE, backend="onnxruntime", threads=1) as predictor:
        started = time.perf_counter()
        _check(list(predictor.predict(CLIP, text=expected["text"])), expected)
        took = time.perf_counter() - started
    return f"decoded a second of video, found {expected['faces']} faces, predicted, in {took:.2f} s"


def predict_with_a_worker() -> str:
    """The same, read by a worker process.

    Raises:
        RuntimeError: the prediction is not right. MmxError: the worker could not read the file.
    """
    expected = _expected()
    with Pipeline(BUNDLE, workers=1, backend="onnxruntime", threads=1) as pipeline:
        (result,) = pipeline.run([Task(CLIP, text=expected["text"])])
    if result.error:
        raise result.error
    _check(result.predictions, expected)
    return "read the same second, within its limits of memory and time"


def _expected() -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((SAMPLE / "expected.json").read_text(encoding="ascii"))
    return expected


def _check(predictions: Sequence[Prediction], expected: dict[str, Any]) -> None:
    (prediction,) = predictions
    if prediction.faces_found != expected["faces"]:
        raise RuntimeError(f"found {prediction.faces_found} faces for {expected['faces']}")
    found, right = list(prediction.logits.values()), list(expected["logits"].values())
    if not np.allclose(found, right, rtol=0, atol=TOLERANCE):
        raise RuntimeError(f"predicted logits {found} for {right}")
