"""Optimisation profiles: which shapes an engine takes, and which it is tuned for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmx.export.durations import duration_at, sizes, text_size
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.manifest import Manifest, TensorSpec
from mmx.runtime.records import Profile, Range

Axes = Mapping[str, tuple[int, int, int]]  # by axis name: least, tuned for, most

NAMES = ("short", "typical", "long")
LONGEST_AT_ONCE = 2  # utterances of the greatest length in one batch; more would only cost GPU memory
STEPS_PER_S = 4  # rows per second of the feature-based systems' inputs


def profiles_for(manifest: Manifest, names: Sequence[str] = NAMES, batch: int = 8) -> tuple[Profile, ...]:
    """Profiles from the quantiles of the bundle's data set, within what the model allows.

    ``short`` takes up to the median duration and is tuned for one utterance of the lower quartile; ``typical`` takes up
    to the 95th percentile and is tuned for a half-full batch of median ones; ``long`` takes the longest segment there
    can be (``Preprocessing.max_segment_s``), two at a time.

    Raises:
        UsageError: an unknown profile, or a graph with an axis that no rule knows.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch} leaves nothing to run", "--batch takes a number from 1 up")

    def seconds(percent: float) -> float:
        return duration_at(manifest.dataset, percent)

    half = (batch + 1) // 2
    longest = manifest.preprocessing.max_segment_s
    plans = {
        "short": _axes(manifest, seconds(25), seconds(50), 1, batch),
        "typical": _axes(manifest, seconds(50), seconds(95), half, batch),
        "long": _axes(manifest, seconds(99), longest, 1, min(batch, LONGEST_AT_ONCE)),
    }
    if unknown := [name for name in names if name not in plans]:
        raise UsageError(f"there is no profile {unknown[0]!r}", f"use {', '.join(NAMES)}, or a JSON file")
    if len(set(names)) < len(names):
        raise UsageError(f"--profiles {','.join(names)} names one twice", f"use some of {', '.join(NAMES)}")
    inputs = manifest.graphs["fp32"].inputs
    return tuple(profile(name, inputs, plans[name]) for name in names)


def read_profiles(path: Path, inputs: Sequence[TensorSpec], manifest: Manifest | None = None) -> tuple[Profile, ...]:
    """Profiles from a JSON file: ``{"name": {"axis": [least, tuned for, most], ...}, ...}``.

    Args:
        manifest: of the bundle; its text tower's table of positions is the most that a text may have. None: anything.

    Raises:
        BadDataError: not such a file. UsageError: there is none, an axis of the graph is left out, or is too long.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "--profiles takes short, typical, long, or a JSON file")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
        plans = {
            str(name): {str(axis): (int(a), int(b), int(c)) for axis, (a, b, c) in axes.items()}
            for name, axes in raw.items()
        }
        if not plans or any(not 0 <= a <= b <= c or c == 0 for axes in plans.values() for a, b, c in axes.values()):
            raise ValueError("sizes must rise from least to most")
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise BadDataError(f"{path} holds no profiles: {e}", '{"short": {"batch": [1, 1, 8], ...}, ...}') from e
    positions = (
        math.inf if manifest is None else text_size(manifest, "positions", manifest.preprocessing.text.max_tokens)
    )
    longest = max(axes.get("tokens", (0, 0, 0))[2] for axes in plans.values())
    if longest > positions:
        raise UsageError(f"{path} asks for texts of {longest} tokens; the model takes {positions}", 'lower "tokens"')
    return tuple(profile(name, inputs, axes) for name, axes in plans.items())


def profile(name: str, inputs: Sequence[TensorSpec], axes: Axes) -> Profile:
    """Give every input its shapes.

    Raises:
        UsageError: an axis of the graph has no range.
    """
    if absent := {axis for spec in inputs for axis in spec.axes if isinstance(axis, str) and axis not in axes}:
        raise UsageError(
            f"profile {name}: nothing says how long the axis {min(absent)!r} is",
            'give --profiles FILE.json with {"short": {"' + min(absent) + '": [least, tuned for, most], ...}}',
        )

    def shape(spec: TensorSpec, position: int) -> tuple[int, ...]:
        return tuple(axes[axis][position] if isinstance(axis, str) else axis for axis in spec.axes)

    return Profile(name, {spec.name: Range(shape(spec, 0), shape(spec, 1), shape(spec, 2)) for spec in inputs})


def _axes(manifest: Manifest, tuned_s: float, most_s: float, tuned_batch: int, most_batch: int) -> Axes:
    most = sizes(most_s, manifest)
    tuned = sizes(min(tuned_s, most_s), manifest)
    steps = (1, max(1, round(STEPS_PER_S * tuned_s)), max(1, round(STEPS_PER_S * most_s)))
    known: dict[str, tuple[int, int, int]] = {
        "batch": (1, tuned_batch, most_batch),
        "tokens": (1, tuned.tokens, most.tokens),
        "faces": (1, tuned_batch * tuned.faces, most_batch * most.faces),
        "face_slots": (1, tuned.faces, most.faces),
        "pieces": (1, tuned_batch * tuned.pieces, most_batch * most.pieces),
        "piece_slots": (1, tuned.pieces, most.pieces),
    }
    for spec in manifest.graphs["fp32"].inputs:
        known |= {axis: steps for axis in spec.axes if isinstance(axis, str) and axis.endswith("_rows")}
    return known
