"""The parity gate: a graph that gives other answers is not written; one that only rounds differently is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mmx.cli.main import main
from mmx.export import exporter, parity
from mmx.export.specs import ExportSpec, spec_for
from mmx.models.checkpoint import load_checkpoint
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import ParityError

Break = Callable[[onnx.ModelProto], None]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def scale(name: str, factor: float) -> Break:
    """Scale one weight of the graph."""

    def apply(model: onnx.ModelProto) -> None:
        (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), name))

    return apply


def misread_padding(model: onnx.ModelProto) -> None:
    """Let padding tokens be attended to: only a case with padded text shows it."""
    for node in model.graph.node:
        node.input[:] = ["ones" if name == "attention_mask" and node.op_type == "Cast" else name for name in node.input]
    shape = onnx.helper.make_node("Shape", ["attention_mask"], ["ones_shape"])
    ones = onnx.helper.make_node(
        "ConstantOfShape", ["ones_shape"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.int64))
    )
    model.graph.node.insert(0, ones)
    model.graph.node.insert(0, shape)


FAULTS: dict[str, Break] = {
    "a text weight": scale("T.albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight.T", 1.001),
    "a convolution": scale("V.4.block.conv1.weight", 1.001),
    "an audio weight": scale("A.0.layers.2.blocks.0.mlp.fc2.weight.T", 1.001),
    "a norm's bias": scale("v_transformer.encoder.layers.0.norm1.bias", 1.01),
    "the fusion": scale("weighted_fusion.weight.T", 1.0001),
    "the normalisation": scale("normalise.mean", 1.001),
    "the mask": misread_padding,
    "not a number": scale("V.4.block.conv2.weight", float("nan")),
}


@pytest.fixture
def as_exported(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Break | None], None]:
    """Let the export come out as the bundle's graph, broken as asked, instead of tracing for seconds."""

    def prepare(fault: Break | None) -> None:
        model = onnx.load(tiny_bundle / "model.onnx")
        if fault is not None:
            fault(model)
        monkeypatch.setattr(exporter, "to_onnx", lambda *_: model)

    return prepare


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_after_export_exits_3_and_leaves_nothing(
    fault: str, as_exported: Callable[..., None], tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    as_exported(FAULTS[fault])
    assert main(["export", str(tiny_checkpoint), "--out", str(tmp_path / "ckpt.mmx")]) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmx: error:")]
    assert len(errors) == 1 and "does not give PyTorch's answers" in errors[0]
    assert names_in(tmp_path) == []


def test_without_a_fault_the_same_path_passes(as_exported: Callable[..., None], tiny_checkpoint: Path, tmp_path: Path):
    as_exported(None)
    assert main(["export", str(tiny_checkpoint), "--out", str(tmp_path / "ckpt.mmx")]) == 0
    record = Bundle.open(tmp_path / "ckpt.mmx").manifest.graphs["fp32"].parity
    assert record["worst"] == max(max(outputs.values()) for outputs in record["cases"].values()) < record["tolerance"]
    assert record["tolerance"] == 2e-5


def test_what_was_assumed_and_said_is_in_the_manifest(
    as_exported: Callable[..., None], tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """A bare state dict has no heads: the export says what it assumed, and which option changes it."""
    as_exported(None)
    bare, labels, config = tmp_path / "bare.pt", tmp_path / "labels.txt", tmp_path / "config.toml"
    torch.save(load_checkpoint(tiny_checkpoint).module.state_dict(), bare)
    labels.write_text("\n".join("abcdef"))
    config.write_text("[text]\nheads = 4\nlayers = 2\n")
    assert main(["export", str(bare), "--labels", str(labels), "--model-config", str(config)]) == 0
    assert "assumed what neither" in capsys.readouterr().err
    manifest = Bundle.open(tmp_path / "bare.mmx").manifest
    assert manifest.labels == tuple("abcdef")
    assert manifest.provenance["checkpoint"]["assumptions"] == {"encoder.heads": 4, "visual.simam": "reference"}
    assert main(["export", str(bare), "--model-config", str(tmp_path / "missing.json")]) == 2


def test_a_breach_keeps_the_old_bundle(
    as_exported: Callable[..., None], tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
):
    as_exported(None)
    out = tmp_path / "ckpt.mmx"
    exporter.export_bundle(tiny_checkpoint, out)
    as_exported(FAULTS["the fusion"])
    with pytest.raises(ParityError):
        exporter.export_bundle(tiny_checkpoint, out)
    Bundle.open(out)


def test_the_cases_are_those_of_the_contract(tiny_checkpoint: Path):
    """Batches of 1, 2 and 7; no face; no sound; one piece; ragged; padded text; no dynamic axis of the example is 1."""
    spec = spec_for(load_checkpoint(tiny_checkpoint).module)
    shapes = {case: {name: array.shape for name, array in inputs.items()} for case, inputs in spec.cases.items()}
    assert {shape["input_ids"][0] for shape in shapes.values()} == {1, 2, 7}
    indices = {name: [inputs[name] for inputs in spec.cases.values()] for name in ("face_index", "piece_index")}
    for index in indices.values():
        assert any((rows == -1).all(axis=1).any() for rows in index)  # a sample that has none
        assert any(((rows == -1).any(axis=1) & (rows >= 0).any(axis=1)).any() for rows in index)  # ragged
        assert any(rows.shape == (1, 1) and rows[0, 0] == 0 for rows in index)  # just one
    assert any(not inputs["attention_mask"].all() for inputs in spec.cases.values())
    assert max(inputs["input_ids"].shape[1] for inputs in spec.cases.values()) == 100
    example = spec.cases[spec.example]
    for tensor in spec.inputs:
        assert all(
            size > 1
            for size, axis in zip(example[tensor.name].shape, tensor.axes, strict=True)
            if isinstance(axis, str)
        )


class Rounding(torch.nn.Module):
    """Loses most digits in float32: (x + 1e4) - 1e4."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (((x + self.big) - self.big),)

    def __init__(self) -> None:
        super().__init__()
        self.big = torch.nn.Parameter(torch.tensor([1e4]), requires_grad=False)


@pytest.mark.parametrize(("shift", "passes"), [(0.0, True), (0.05, False)])
def test_what_float32_itself_rounds_is_allowed_and_no_more(tmp_path: Path, shift: float, passes: bool):
    """The graph of ``Rounding`` is exact, so it is further from PyTorch's float32 than the tolerance."""
    from mmx.runtime.manifest import TensorSpec

    x = np.random.default_rng(0).standard_normal((64,)).astype(np.float32)
    node = onnx.helper.make_node("Add", ["x", "shift"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    constant = numpy_helper.from_array(np.float32([shift]), "shift")
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:], [constant])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "g.onnx",
    )
    tensors = tuple(TensorSpec(name, "float32", ("n",)) for name in ("x", "y"))
    spec = ExportSpec(tensors[:1], tensors[1:], {"noise": {"x": x}}, "noise", "noise", {})
    proof = parity.measure(Rounding(), tmp_path / "g.onnx", spec)
    assert proof.worst > spec.tolerance and "noise" in proof.rounding
    if passes:
        proof.require("it")
    else:
        with pytest.raises(ParityError):
            proof.require("it")


@pytest.mark.parametrize(
    ("error", "rounding", "passes"),
    [(0.5, 0.6, False), (2e-3, 5e-3, False), (9e-4, 5e-3, True), (9e-4, 5e-4, False), (1e-5, 0.0, True)],
)
def test_the_allowance_for_rounding_ends(error: float, rounding: float, passes: bool):
    """An error of 0.5 is wrong answers, even if float32 is 0.6 off float64: then there is nothing to hold it to."""
    proof = parity.Parity({"c": {"logits": error}}, {"c": {"logits": rounding}} if rounding else {}, 2e-5)
    if passes:
        proof.require("it")
    else:
        with pytest.raises(ParityError, match=r"logits is off by") as caught:
            proof.require("it")
        assert ("amplify rounding" in caught.value.hint) == (rounding > parity.MOST)


def test_relative_error_is_the_worst_difference_over_the_largest_reference():
    zeros, nan = np.zeros((2, 3)), np.array([1.0, np.nan])
    assert parity.relative_error(np.array([1.0, -3.0]), np.array([1.0, -4.0])) == 0.25
    assert parity.relative_error(zeros, zeros) == 0
    assert parity.relative_error(zeros + 1, zeros) == np.inf
    assert parity.relative_error(zeros, zeros[:1]) == np.inf
    assert np.isnan(parity.relative_error(nan, np.array([1.0, 1.0])))
    assert np.isnan(parity.relative_error(np.array([1.0, 1.0]), nan))


def test_the_reference_is_left_as_it_was(tiny_checkpoint: Path, tiny_bundle: Path):
    loaded = load_checkpoint(tiny_checkpoint)
    before = copy.deepcopy(loaded.module.state_dict())
    parity.measure(loaded.module, tiny_bundle / "model.onnx", spec_for(loaded.module))
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.module.state_dict().items())
