"""What folding did to a system, as plain data: ``mmx inspect`` prints it and a bundle's manifest keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from mmx.export.folding.record import FoldRecord
from mmx.models.counting import count, utterance


def describe(
    system: nn.Module, folded: nn.Module, records: Sequence[FoldRecord], example: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """The folding report and the sizes before and after it.

    Args:
        system, folded, records: what went into ``fold`` and what came out of it.
        example: keyword arguments of the forward, for the multiply-accumulates (default: ``counting.utterance()``).

    Returns:
        ``folding``, the records as dictionaries (for ``Manifest.folding``), and ``counts`` (for
        ``Manifest.provenance["counts"]``): ``example``, the shape of each input; ``before`` and ``after``, parameters
        and macs by trunk.
    """
    inputs = dict(example or utterance())
    before, after = (count(module, inputs) for module in (system, folded))
    return {
        "folding": [asdict(record) for record in records],
        "counts": {
            "example": {name: list(tensor.shape) for name, tensor in inputs.items()},
            "before": {part: asdict(counted) for part, counted in before.items()},
            "after": {part: asdict(counted) for part, counted in after.items()},
        },
    }
