"""Emotions from video, sound and text, with trained models of several systems.

    import mmx

    with mmx.Predictor("ckpt.mmx") as predictor:
        for prediction in predictor.predict("talk.mp4", transcript="talk.srt"):
            print(prediction.start, prediction.labels)

``Predictor`` takes a path, the bytes of a file, a file object, or decoded frames and sound (``MediaArrays``), and
yields a ``Prediction`` for each segment; ``to_pandas`` makes a table of them. ``Pipeline`` reads many files with
several worker processes. What a user can cause or mend is an ``MmxError`` with ``code``, ``message`` and ``hint``.

These names are those of ``mmx.runtime``, which has some more, and are imported when they are first used. The other
packages (``mmx.export``, ``mmx.training``, ...) are what the ``mmx`` command is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmx.runtime import (
        Bundle,
        FileResult,
        MediaArrays,
        MmxError,
        Pipeline,
        Prediction,
        Predictor,
        Span,
        Task,
        to_pandas,
    )

__all__ = [  # noqa: RUF022 (in the order a reader meets them)
    "Predictor",
    "Prediction",
    "MediaArrays",
    "Span",
    "to_pandas",
    "Pipeline",
    "Task",
    "FileResult",
    "Bundle",
    "MmxError",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mmx")
    if name in __all__:
        from mmx import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
