"""Residual and reserved: two forms to train ``ours`` in, one deployed graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmx.export.exporter import export_bundle
from mmx.models.checkpoint import save_checkpoint, seeded_module
from mmx.models.registry import get_system
from mmx.models.residual_free import ReservedBlock, ResidualBlock
from mmx.runtime.backends.onnxruntime import load
from mmx.runtime.bundle import Bundle
from mmx.training.recipe import TINY
from mmx.training.trainer import Trainer

FORMS = {"residual": "tiny", "reserved": "tiny-reserved"}


def deployed(module: nn.Module, form: str, folder: Path, residual: Any = "merge") -> Path:
    """The graph of a checkpoint's faces: the tower that the forms are about."""
    checkpoint = folder / f"{form}.pt"
    save_checkpoint(checkpoint, module, "ours", get_system("ours").presets[FORMS[form]], dataset="mosei")
    out = folder / f"{form}.mmx"
    export_bundle(checkpoint, out, residual=residual, modalities=["visual"])
    return Bundle.open(out).graph().path


SLOPES = ".act.weight"


def shape_of(graph: Path, slopes: bool = True) -> tuple[list[list[str]], dict[str, tuple[int, ...]]]:
    """What a graph is apart from its numbers: nodes with names and wires, weights with shapes.

    Without ``slopes`` a PReLU reads as the ReLU that it is where nobody trained its slopes.
    """
    found = onnx.load(graph).graph
    nodes = [[node.op_type, node.name, *node.input] for node in found.node]
    weights = {tensor.name: tuple(tensor.dims) for tensor in found.initializer}
    if not slopes:
        nodes = [[part.replace("PRelu", "Relu") for part in node if SLOPES not in part] for node in nodes]
        weights = {name: shape for name, shape in weights.items() if SLOPES not in name}
    return nodes, weights


def answers(graph: Path) -> np.ndarray:
    random = np.random.default_rng(2)
    faces = random.uniform(0, 255, (5, 3, 48, 48)).astype(np.float32)
    with load(graph, threads=1) as backend:
        return backend.run({"faces": faces, "face_index": np.array([[0, 1, -1], [2, 3, 4]])})["logits"]


@pytest.mark.parametrize("residual", ["merge", pytest.param("keep", marks=pytest.mark.slow)])
def test_a_system_and_its_reserved_form_export_to_the_same_graph(tmp_path: Path, residual: str) -> None:
    module = seeded_module("ours", get_system("ours").presets["tiny"], seed=3)
    graphs = [deployed(module, "residual", tmp_path, residual)]
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ResidualBlock):
                setattr(parent, name, ReservedBlock.reserve(child))
    graphs.append(deployed(module, "reserved", tmp_path, residual))
    assert shape_of(graphs[0]) == shape_of(graphs[1])
    first, second = map(answers, graphs)
    np.testing.assert_allclose(second, first, atol=2e-5 * np.abs(first).max())


def test_trained_in_either_form_they_are_deployed_alike(in_memory: Callable[..., Any], tmp_path: Path) -> None:
    """Slopes that were trained stay a PReLU; apart from that the graphs are the same."""
    graphs = []
    for form, preset in FORMS.items():
        torch.manual_seed(0)
        module = get_system("ours").build(get_system("ours").presets[preset])
        recipe = replace(TINY, epochs=1, batch_size=8, modalities=("visual",))
        list(Trainer(cast(Any, module), recipe, in_memory(32, 0), in_memory(16, 1)).run())
        graphs.append(deployed(module, form, tmp_path))
        assert any(SLOPES in name for name in shape_of(graphs[-1])[1]) == (form == "reserved")
    assert shape_of(graphs[0], slopes=False) == shape_of(graphs[1], slopes=False)
    assert np.abs(answers(graphs[0]) - answers(graphs[1])).max() > 1e-3  # they did train apart
