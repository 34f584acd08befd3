"""What an engine is built from: one graph of a bundle, or an ONNX file of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.export.precision.current import PRECISIONS
from mmx.runtime.bundle import ENGINES, Bundle
from mmx.runtime.engines import ENGINE_GRAPHS
from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import TensorSpec


@dataclass(frozen=True)
class Source:
    """One graph, as the builder takes it.

    Attributes:
        asked: the bundle or the file that was named.
        graph, sha256: the ONNX file in the asked precision, and the hash of it with its weights.
        inputs, outputs: its contract.
        accuracy: what was measured when the graph was made.
        folder: where its engines go.
        check: raises BadDataError if the files are not those that ``sha256`` is of.
    """

    asked: Path
    graph: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accuracy: Mapping[str, Any]
    folder: Path
    check: Callable[[], object]


def source_in(bundle: Bundle, precision: str) -> Source:
    """A bundle's graph.

    Raises:
        UsageError: no such precision, or the bundle has no such graph.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", f"use one of {', '.join(PRECISIONS)}")
    spec = bundle.manifest.graphs.get(ENGINE_GRAPHS.get(precision, precision))
    if spec is None:
        raise UsageError(
            f"{bundle.path} has no {precision} graph, and building an engine does not make one",
            f"mmx calibrate {bundle.path} --data DIR makes an INT8 graph; --fp16 needs no data",
        )
    return Source(
        bundle.path,
        bundle.path / spec.file,
        bundle.manifest.files[spec.file],
        spec.inputs,
        spec.outputs,
        spec.parity,
        bundle.path / ENGINES,
        lambda: Bundle.open(bundle.path),
    )
