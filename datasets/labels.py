"""Labels that are renamed, merged or dropped (``--map``), of a data set and of what a bundle predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.runtime.errors import UsageError

Groups = tuple[tuple[int, ...], ...]
"""For each new label, the places of those that it stands for."""


def parse_map(text: str) -> dict[str, str]:
    """``happy=joy,exc=joy,neu=`` as a dictionary.

    Raises:
        UsageError: it is not written so.
    """
    pairs = [part.split("=") for part in text.split(",") if part.strip()]
    if not pairs or any(len(pair) != 2 or not pair[0].strip() for pair in pairs):
        raise UsageError(f"{text!r} is not a mapping of labels", "--map happy=joy,exc=joy,neu=")
    return {old.strip(): new.strip() for old, new in pairs}


def merge(labels: Sequence[str], mapping: Mapping[str, str], whose: str) -> tuple[tuple[str, ...], Groups]:
    """The labels after renaming, merging (two to one name) and dropping (to ""), and what each stands for.

    Raises:
        UsageError: ``whose`` labels lack one that is mapped, or none is left.
    """
    if unknown := sorted(set(mapping) - set(labels)):
        raise UsageError(f"{whose} has no label {unknown[0]!r}", f"it has {', '.join(labels)}")
    targets = [mapping.get(label, label) for label in labels]
    kept = tuple(dict.fromkeys(target for target in targets if target))
    if not kept:
        raise UsageError("--map drops every label", "keep some")
    return kept, tuple(tuple(place for place, t in enumerate(targets) if t == label) for label in kept)


def between(
    predicted: Sequence[str], held: Sequence[str], mapping: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """A mapping's part for the labels that are predicted, and for those that a data set holds; each may be in both.

    Raises:
        UsageError: neither has one of its labels.
    """
    if unknown := sorted(set(mapping) - {*predicted, *held}):
        raise UsageError(
            f"--map names {unknown[0]!r}, which is neither predicted nor in the data",
            f"predicted: {', '.join(predicted)}; in the data: {', '.join(held)}",
        )
    mine = {old: new for old, new in mapping.items() if old in predicted}
    return mine, {old: new for old, new in mapping.items() if old in held}


def merged_logits(logits: NDArray[np.float32], thresholds: Sequence[float], groups: Groups) -> NDArray[np.float32]:
    """Logits [samples, labels] of merged labels, to be held against ``merged_thresholds``.

    A merged label is predicted where one of its parts is: its logit is the largest of its parts' distances from their
    own thresholds. A label that stands for one alone keeps its logit.
    """
    limits = np.clip(np.asarray(thresholds, np.float64), 1e-9, 1 - 1e-9)
    above = logits - np.log(limits / (1 - limits)).astype(np.float32)
    columns = [logits[:, group[0]] if len(group) == 1 else above[:, list(group)].max(axis=1) for group in groups]
    return np.stack(columns, axis=1)


def merged_thresholds(thresholds: Sequence[float], groups: Groups) -> tuple[float, ...]:
    """A label that stands for one alone keeps its threshold; that of a merged one is 0.5."""
    return tuple(thresholds[group[0]] if len(group) == 1 else 0.5 for group in groups)
