"""The exported graph: its contract, its names, and its answers at shapes that the export never saw."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from mmx.export.folding.fold import fold
from mmx.export.graph import to_onnx
from mmx.export.parity import relative_error, run
from mmx.export.specs import ExportSpec, spec_for
from mmx.models.checkpoint import load_checkpoint
from mmx.runtime.bundle import Bundle
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.packing import pack
from mmx.runtime.types import Sample

AXES = {
    "input_ids": ["batch", "tokens"],
    "attention_mask": ["batch", "tokens"],
    "faces": ["faces", 3, 48, 48],
    "face_index": ["batch", "face_slots"],
    "pieces": ["pieces", 128, 32],
    "piece_index": ["batch", "piece_slots"],
    "logits": ["batch", 6],
    "logits_text": ["batch", 6],
    "logits_visual": ["batch", 6],
    "logits_audio": ["batch", 6],
}


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> onnx.ModelProto:
    return onnx.load(tiny_bundle / "model.onnx")


@pytest.fixture(scope="module")
def session(tiny_bundle: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(tiny_bundle / "model.onnx", options)


def test_inputs_and_outputs_are_the_contract(model: onnx.ModelProto, tiny_bundle: Path):
    onnx.checker.check_model(model, full_check=True)
    found = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert found == AXES and list(found) == list(AXES)
    assert model.opset_import[0].version >= 18 and {opset.domain for opset in model.opset_import} == {""}
    spec = Bundle.open(tiny_bundle).manifest.graphs["fp32"]
    assert {tensor.name: list(tensor.axes) for tensor in (*spec.inputs, *spec.outputs)} == AXES
    assert spec.opset == model.opset_import[0].version


def test_names_are_those_of_the_system(model: onnx.ModelProto, tiny_checkpoint: Path):
    system = load_checkpoint(tiny_checkpoint).module
    folded, _ = fold(system)
    modules = {name for form in (system, folded) for name, _ in form.named_modules()}
    for node in model.graph.node:
        scope, _, operation = node.name.rpartition("/")
        assert scope in modules and re.fullmatch(rf"{node.op_type}(_\d+)?", operation), node.name
    names = [node.name for node in model.graph.node]
    values = [name for node in model.graph.node for name in node.output]
    weights = [tensor.name for tensor in model.graph.initializer]
    for unique in (names, values + weights + list(AXES)[:6]):
        assert len(unique) == len(set(unique))
    assert not [name for name in values + weights if re.match(r"val_|node_|target_|[a-z_]*\d+$", name)]
    stored = {name for form in (system, folded) for name in form.state_dict(keep_vars=True)}
    large = [t.name for t in model.graph.initializer if np.prod(t.dims) > 4]
    folded_biases = {name.removesuffix("weight") + "bias" for name in stored}
    derived = re.compile(r"(\.(T|gather|unsqueeze|slice)(_\d+)?)+$")
    made = re.compile(r".*(/InstanceNormalization\.(scale|b)|/Reshape\.shape|self_attn/Add_\d\.b)")  # constants
    assert [n for n in large if derived.sub("", n) not in stored | folded_biases and not made.fullmatch(n)] == []


def test_what_is_not_used_is_not_there(model: onnx.ModelProto):
    names = [tensor.name for tensor in model.graph.initializer]
    assert not [name for name in names if ".pooler" in name or ".head" in name or "running_" in name]
    used = {name for node in model.graph.node for name in node.input}
    assert set(names) <= used
    assert not [node for node in model.graph.node if node.op_type in ("Identity", "BatchNormalization", "Dropout")]
    assert {"NonZero", "Loop", "If", "Where"}.isdisjoint(node.op_type for node in model.graph.node)


def test_nothing_of_this_machine_is_in_the_file(tiny_bundle: Path):
    content = (tiny_bundle / "model.onnx").read_bytes() + (tiny_bundle / "manifest.json").read_bytes()
    home = str(Path(__file__).parents[2])
    for word in (home, str(Path.home()) + "/", "site-packages", "stack_trace", str(tiny_bundle.parent)):
        assert word.encode() not in content, word


def sample(rng: np.random.Generator, tokens: int, faces: int, pieces: int) -> Sample:
    return Sample(
        token_ids=rng.integers(0, 30000, tokens) if tokens else None,
        faces=rng.uniform(0, 255, (faces, 3, 48, 48)).astype(np.float32),
        pieces=(10 ** rng.uniform(-4, 2, (pieces, 128, 32))).astype(np.float32),
    )


@pytest.mark.parametrize("seed", range(8))
def test_random_shapes_give_pytorchs_answers(session: ort.InferenceSession, tiny_checkpoint: Path, seed: int):
    system = load_checkpoint(tiny_checkpoint).module.double()
    rng = np.random.default_rng(seed)
    shapes = rng.integers(0, (40, 12, 12), (rng.integers(1, 9), 3))
    inputs = pack([sample(rng, *shape) for shape in shapes]).inputs
    expected = run(system, inputs, spec_for(system))
    found = session.run(None, inputs)
    for (name, wanted), got in zip(expected.items(), found, strict=True):
        assert relative_error(got, wanted) < 2e-5, name


def test_answers_do_not_depend_on_the_batch_or_its_order(session: ort.InferenceSession):
    rng = np.random.default_rng(3)
    shapes = [(5, 2, 3), (40, 9, 12), (2, 1, 1), (17, 0, 4), (3, 5, 0), (0, 0, 0), (9, 20, 1), (0, 3, 7)]
    samples = [sample(rng, *shape) for shape in shapes]
    together = session.run(None, pack(samples).inputs)
    order = rng.permutation(len(samples))
    shuffled = session.run(None, pack([samples[i] for i in order]).inputs)
    for number, one in enumerate(samples):
        alone = session.run(None, pack([one]).inputs)
        for a, b, c in zip(alone, together, shuffled, strict=True):
            assert relative_error(b[number], a[0]) < 1e-5
            assert relative_error(c[list(order).index(number)], a[0]) < 1e-5


def test_the_order_of_faces_and_pieces_does_not_matter(session: ort.InferenceSession):
    rng = np.random.default_rng(4)
    one = sample(rng, 7, 9, 11)
    turned = Sample(one.token_ids, one.faces[::-1].copy(), one.pieces[::-1].copy())
    for a, b in zip(session.run(None, pack([one]).inputs), session.run(None, pack([turned]).inputs), strict=True):
        assert relative_error(b, a) < 1e-5


class Small(torch.nn.Module):
    """[rows, 3] -> [rows, 3], or not quite."""

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.way = forward

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.way(x),)


SMALL = ExportSpec(
    inputs=(TensorSpec("x", "float32", ("rows", 3)),),
    outputs=(TensorSpec("y", "float32", ("rows", 3)),),
    cases={"example": {"x": np.ones((4, 3), np.float32)}},
    example="example",
    counted="example",
    limits={},
)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: torch.ones(4, 3) * x.sum(),  # an axis fixed at what the example had
        lambda x: x.T,
        lambda x: x[:, :2],
        lambda x: x.double(),
        lambda x: torch.cat([x, x]),
        lambda x: x[0],
    ],
)
def test_an_output_that_breaks_the_contract_is_rejected(forward: Callable[[torch.Tensor], torch.Tensor]):
    with pytest.raises(RuntimeError, match="the exported graph's outputs are"):
        to_onnx(Small(forward), SMALL, "small")


def test_an_input_fixed_by_the_system_is_rejected():
    with pytest.raises(Exception, match="rows"):  # torch.export itself sees this one
        to_onnx(Small(lambda x: x.view(4, 3)), SMALL, "small")


def test_an_operator_that_must_be_taken_apart_still_exports(tmp_path: Path):
    """The fast way has no translation for it, so the exporter's decompositions run."""
    system = Small(lambda x: torch.nn.functional.softshrink(x, 0.25) - torch.lerp(x, x * x, 0.3))
    onnx.save(to_onnx(system, SMALL, "small"), tmp_path / "small.onnx")
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    (found,) = ort.InferenceSession(tmp_path / "small.onnx").run(None, {"x": x})
    assert relative_error(found, system(torch.from_numpy(x))[0].numpy()) < 1e-6
