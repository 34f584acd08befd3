"""Predictions as text for people: one block per segment."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mmx.runtime.backends import Backend
    from mmx.runtime.live.live import Live
    from mmx.runtime.prediction import Prediction
    from mmx.runtime.predictor import Predictor
    from mmx.runtime.throughput import Pipeline

BAR = 20  # columns


def describe(predictor: Predictor | Pipeline | Live, verbose: bool = False) -> str:
    """One line: the bundle, its system and what runs it; ``verbose``: also why that backend was taken."""
    manifest, backend = predictor.bundle.manifest, predictor.backend
    return (
        f"{printable(str(predictor.bundle.path))}: {manifest.system} ({manifest.dataset}), "
        f"{backend.name} {backend.precision} on {backend.device}{reason(backend, verbose)}"
    )


def reason(backend: Backend, verbose: bool) -> str:
    """Why a backend was taken, in parentheses; of what ``auto`` measured and passed over only that it did so."""
    if backend.why.startswith("auto: ") and not verbose:
        return " (chosen by auto; -v says why)"
    return f" ({printable(backend.why)})"


def render(prediction: Prediction) -> str:
    """A block of lines: the segment, a bar per label with each modality's contribution, what was seen, the timings.

    A label over its threshold has a ``*``. Contributions are fusion weight times logit; they add up to the logit.
    """
    width = shutil.get_terminal_size((100, 24)).columns
    title = f"{printable(prediction.file)}  {prediction.start:.2f}-{prediction.end:.2f} s"
    lines = ["", click.style(title, bold=True)]
    if prediction.text:
        words = printable(prediction.text)
        room = max(width - 4, 20)
        lines.append(f'  "{words if len(words) <= room else words[: room - 3] + "..."}"')
    if prediction.probabilities:
        lines += _table(prediction)
    else:
        lines.append("  nothing to predict from")
    if prediction.uncertain:
        lines.append(f"  emotions: uncertain: {prediction.uncertain}")
    else:
        lines.append(f"  emotions: {', '.join(prediction.labels) or 'none over its threshold'}")
    lines.append(f"  faces: {prediction.faces_found} of {prediction.frames_seen} frames")
    lines += [f"  {modality} left out: {why}" for modality, why in prediction.left_out.items()]
    if prediction.tracks:
        lines.append(f"  {prediction.tracks} (--video-track, --audio-track)")
    if prediction.flags:
        lines.append(f"  flags: {', '.join(prediction.flags)}")
    lines.append("  ms: " + "  ".join(f"{stage} {ms:.1f}" for stage, ms in prediction.timings_ms.items()))
    return "\n".join(lines)


def printable(text: str) -> str:
    """The text on one line, without characters that would move the cursor or change the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def _table(prediction: Prediction) -> list[str]:
    names = max(map(len, prediction.probabilities))
    rows = []
    for label, probability in prediction.probabilities.items():
        filled = round(probability * BAR)
        over = label in prediction.labels
        mark = "*" if over else " "
        bar = "█" * filled + "·" * (BAR - filled)
        left = f"  {label:{names}}  {bar} {probability:7.1%}{mark} (> {prediction.thresholds[label]:.0%})"
        parts = "".join(f"{prediction.contributions[m][label]:+9.3f}" for m in prediction.modalities)
        rows.append((left, over, parts))
    head = " " * len(rows[0][0]) + "".join(f"{modality:>9}" for modality in prediction.modalities)
    return [head, *(click.style(left, bold=over) + parts for left, over, parts in rows)]
