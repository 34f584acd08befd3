"""Adding variants in tests, without the minutes that making a good one takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from mmx.export.precision.variant import add_graph
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.bundle import Bundle


def with_graph(bundle: Bundle, precision: str, model: onnx.ModelProto, **about: Any) -> Bundle:
    """The bundle with a graph added to it; ``about``: fields of its record."""
    with new_variant(bundle) as folder:
        add_graph(folder, bundle, precision, model, **(made_now() | about))
    return bundle.refreshed()


def engine_in(bundle: Path) -> Path:
    """The one engine's file of a bundle."""
    (engine,) = (bundle / "variants").glob("tensorrt*/*.engine")
    return engine
