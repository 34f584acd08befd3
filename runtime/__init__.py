"""From a media file to emotions, with numpy, PyAV, SentencePiece and an inference engine. No torch.

    from mmx.runtime import MediaArrays, Predictor

    with Predictor("ckpt.mmx") as predictor:
        for prediction in predictor.predict("talk.mp4", transcript="talk.srt"):
            print(prediction.start, prediction.labels)
        predictor.predict(data)  # the bytes of a file, or a file object
        predictor.predict(MediaArrays(frames, times, sound, 16000))  # or decoded frames and sound

Importing this package costs nothing: each name is imported from its module when it is first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmx.runtime import telemetry

if TYPE_CHECKING:
    from mmx.runtime.backends import Backend, open_backend
    from mmx.runtime.bundle import Bundle
    from mmx.runtime.errors import MmxError
    from mmx.runtime.live.live import Live
    from mmx.runtime.media.arrays import MediaArrays
    from mmx.runtime.network import Network
    from mmx.runtime.packing import pack
    from mmx.runtime.prediction import Prediction, SeenFace, arrow_schema, prediction_schema, to_pandas
    from mmx.runtime.predictor import Predictor
    from mmx.runtime.throughput import FileResult, Pipeline
    from mmx.runtime.types import Batch, Sample, Span
    from mmx.runtime.workers.task import Limits, Task

logging.getLogger("mmx").addHandler(logging.NullHandler())  # silent, until a program asks for more
telemetry.turn_off()

_HOME = {
    "Backend": "backends",
    "Batch": "types",
    "Bundle": "bundle",
    "FileResult": "throughput",
    "Limits": "workers.task",
    "Live": "live.live",
    "MediaArrays": "media.arrays",
    "MmxError": "errors",
    "Network": "network",
    "Pipeline": "throughput",
    "Prediction": "prediction",
    "Predictor": "predictor",
    "Sample": "types",
    "SeenFace": "prediction",
    "Span": "types",
    "Task": "workers.task",
    "arrow_schema": "prediction",
    "open_backend": "backends",
    "pack": "packing",
    "prediction_schema": "prediction",
    "to_pandas": "prediction",
}

__all__ = [  # noqa: RUF022 (in the order a reader meets them)
    "Predictor",
    "MediaArrays",
    "Live",
    "Prediction",
    "SeenFace",
    "to_pandas",
    "prediction_schema",
    "arrow_schema",
    "Network",
    "Pipeline",
    "Task",
    "Limits",
    "FileResult",
    "Bundle",
    "Span",
    "Sample",
    "Batch",
    "pack",
    "Backend",
    "open_backend",
    "MmxError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
