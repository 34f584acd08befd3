"""The emotions of each data set, in the order of the published systems' logits."""

from __future__ import annotations

IEMOCAP = ("ang", "exc", "fru", "hap", "neu", "sad")
MOSEI = ("anger", "disgust", "fear", "happy", "sad", "surprise")
IEMOCAP_PAIRS = tuple(f"{emotion}_{side}" for emotion in ("neu", "hap", "sad", "ang") for side in ("no", "yes"))
"""MulT's eight outputs: four emotions, two logits each."""

DATASETS: dict[str, tuple[tuple[str, ...], ...]] = {
    "iemocap": (IEMOCAP, IEMOCAP_PAIRS),
    "mosei": (MOSEI, ("sentiment",)),
}
"""The label sets of each data set, distinguished by their size."""


def labels_for(dataset: str, count: int) -> tuple[str, ...] | None:
    """The labels of ``dataset`` for a system with ``count`` outputs, or None where none are known."""
    return next((labels for labels in DATASETS.get(dataset, ()) if len(labels) == count), None)
