"""What an engine is built from: one graph of a bundle, or an ONNX file of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.export.precision.current import PRECISIONS
from mmx.export.variant_writer import VariantFolder, new_variant
from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import Engine, engine_graph, engines_of
from mmx.runtime.errors import UsageError
from mmx.runtime.manifest import TensorSpec


@dataclass(frozen=True)
class Source:
    """One graph, as the builder takes it.

    Attributes:
        asked: the bundle or the file that was named.
        graph, sha256: the ONNX file in the asked precision, and the hash of it with its weights.
        base_sha256: of the FP32 graph that it was derived from.
        inputs, outputs: its contract.
        accuracy: what was measured when the graph was made.
        engines: those that there are of it.
        new_variant: gives a folder for another.
        check: raises BadDataError if the files are not those that ``sha256`` is of.
    """

    asked: Path
    graph: Path
    sha256: str
    base_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accuracy: Mapping[str, Any]
    engines: Sequence[Engine]
    new_variant: Callable[[], AbstractContextManager[VariantFolder]]
    check: Callable[[], object]


def source_in(bundle: Bundle, precision: str) -> Source:
    """A bundle's graph.

    Raises:
        UsageError: no such precision, or the bundle has no such graph.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", f"use one of {', '.join(PRECISIONS)}")
    graph = bundle.described(engine_graph(precision))
    if graph is None:
        raise UsageError(
            f"{bundle.path} has no {precision} graph, and building an engine does not make one",
            f"mmx calibrate {bundle.path} --data DIR makes an INT8 graph; --fp16 needs no data",
        )
    return Source(
        asked=bundle.path,
        graph=graph.path,
        sha256=graph.sha256,
        base_sha256=bundle.graph_sha256,
        inputs=graph.spec.inputs,
        outputs=graph.spec.outputs,
        accuracy=graph.spec.parity,
        engines=engines_of(bundle),
        new_variant=lambda: new_variant(bundle),
        check=lambda: Bundle.open(bundle.path, expect=bundle.identity).graph(engine_graph(precision)),
    )
