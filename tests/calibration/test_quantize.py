"""The INT8 graph is onnxruntime.quantization's, and each layer's cost is what an integer computation says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mmx.calibration.layers import find_layers
from mmx.calibration.quantize import WEIGHT_LEVELS, quantise, quantised_weight
from mmx.calibration.ranges import measure_limits
from mmx.calibration.sensitivity import layer_sqnr
from mmx.export.precision.samples import utterances
from mmx.export.precision.session import cpu_session
from mmx.runtime.backends import MODULES
from mmx.runtime.bundle import Bundle

Inputs = dict[str, np.ndarray]


def convolutions() -> onnx.ModelProto:
    """Two convolutions with a ReLU between: all that quantize_static quantises is what mmx does."""
    random = np.random.default_rng(0)
    values = {
        "w1": random.normal(size=(8, 3, 3, 3)).astype(np.float32) * random.uniform(0.1, 3, (8, 1, 1, 1)).astype("f"),
        "b1": random.normal(size=8).astype(np.float32),
        "w2": random.normal(size=(8, 8, 3, 3)).astype(np.float32),
        "b2": random.normal(size=8).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2", "b2"], ["y"], "second", pads=[1, 1, 1, 1]),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 8])],
            [numpy_helper.from_array(value, name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def pictures(count: int) -> list[Inputs]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


class Reader(CalibrationDataReader):
    """The samples, for onnxruntime's calibrator."""

    def __init__(self, samples: list[Inputs]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Inputs | None:
        return next(self._left, None)


def test_the_graph_is_that_of_quantize_static(tmp_path: Path) -> None:
    model, samples = convolutions(), pictures(8)
    onnx.save(model, tmp_path / "fp32.onnx")
    quantize_static(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        Reader(samples),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    layers = find_layers(model)
    _, limits, _ = measure_limits(model, layers, lambda: samples, "minmax")
    mine, theirs = cpu_session(quantise(model, layers, limits)), cpu_session(onnx.load(tmp_path / "int8.onnx"))
    exact = cpu_session(model)
    for sample in pictures(4):
        a, b, c = (session.run(None, sample)[0] for session in (mine, theirs, exact))
        step = limits["y"] / 127
        assert np.abs(a - b).max() <= 1.01 * step  # a tie may round the other way
        assert np.mean(np.abs(a - b) > step / 2) < 0.01
        assert np.abs(a - c).max() > step / 10  # it is not the FP32 graph


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_within_half_a_step_of_each_channel(axis: int) -> None:
    random = np.random.default_rng(0)
    values = (random.normal(size=(6, 5)) * 10 ** random.uniform(-3, 3, (6, 1))).astype(np.float32)
    values[2] = 0
    integers, scales = quantised_weight(values, axis)
    shape = (-1, 1) if axis == 0 else (1, -1)
    back = integers.astype(np.float64) * scales.reshape(shape)
    assert (np.abs(back - values) <= 0.5001 * scales.reshape(shape)).all()
    assert integers.dtype == np.int8 and np.abs(integers.astype(int)).max() == WEIGHT_LEVELS == 64


def test_sqnr_is_that_of_the_layer_alone() -> None:
    """The second convolution, computed by hand with its own input and weight rounded."""
    model, samples = convolutions(), pictures(3)
    layers = find_layers(model)
    _, limits, _ = measure_limits(model, layers, lambda: samples, "minmax")
    found = layer_sqnr(model, layers, limits, samples)
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    session = cpu_session(watched)
    weight = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    integers, scales = quantised_weight(weight["w2"], 0)
    rounded = integers * scales.reshape(-1, 1, 1, 1)
    noise = signal = 0.0
    for sample in samples:
        y, r = session.run(["y", "r"], sample)
        step = np.float32(limits["r"] / 127)
        coarse = np.clip(np.rint(r / step), -128, 127) * step
        noise += float(((y - convolve(coarse, rounded, weight["b2"])) ** 2).sum())
        signal += float((y**2).sum())
    assert found["second"] == pytest.approx(10 * np.log10(signal / noise), abs=0.05)


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with padding 1, in float64."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows.astype(np.float64), weight) + bias.reshape(1, -1, 1, 1)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_cpu_saturates(engine: str, sign: int, tmp_path: Path) -> None:
    """The largest sums that there are: all activations and weights at their limits. 8-bit weights fail here on AVX2."""
    model = convolutions()
    for tensor in model.graph.initializer:
        shape = tuple(tensor.dims)
        value = sign * np.ones(shape, np.float32) if len(shape) > 1 else np.zeros(shape, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    x = {"x": np.full((1, 3, 8, 8), sign, np.float32)}
    exact = cpu_session(model).run(None, x)[0]
    layers = find_layers(model)
    _, limits, _ = measure_limits(model, layers, lambda: [x], "minmax")
    onnx.save(quantise(model, layers, limits), tmp_path / "model.onnx")
    with import_module(MODULES[engine]).load(tmp_path / "model.onnx", "int8", 1) as backend:
        np.testing.assert_allclose(backend.run(x)["y"], exact, rtol=0.02)  # a step of INT8, and bfloat16 where it is


def test_a_whole_system(tiny_bundle: Path) -> None:
    """Every input stays, all layers but the kept ones hold INT8 weights, shared weights are stored once."""
    bundle = Bundle.open(tiny_bundle)
    model = onnx.load(bundle.graph().path)
    layers = find_layers(model)
    samples = list(utterances(bundle.manifest, 6, 2))
    _, limits, _ = measure_limits(model, layers, lambda: samples, "minmax")
    kept = [layer.node for layer in layers[:3]]
    graph = quantise(model, layers, limits, kept)
    onnx.checker.check_model(graph)
    stored = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert len(stored) == len(graph.graph.initializer)
    shared = {layer.weight for layer in layers[3:]}
    assert all(stored[f"{name}_int8"] == TensorProto.INT8 for name in shared)
    assert not any("weighted_fusion" in layer.node for layer in layers)
    exact, coarse = cpu_session(model), cpu_session(graph)
    assert [i.name for i in exact.get_inputs()] == [i.name for i in coarse.get_inputs()]
    own = cpu_session(graph, as_written=True)
    for output in ("logits_text", "logits_visual"):  # raw mel powers reach over seven decades: not with INT8
        a, b, c = (np.concatenate([each.run([output], x)[0] for x in samples]) for each in (exact, own, coarse))
        assert 0 < rms(b - a) < 0.15 * rms(a), output  # seeded weights magnify rounding
        assert rms(c - a) < 1.2 * rms(b - a), output  # on any CPU: an engine is no worse than what it runs
    nothing = quantise(model, layers, limits, [layer.node for layer in layers])
    same, wanted = (session.run(["logits"], samples[0])[0] for session in (cpu_session(nothing), exact))
    np.testing.assert_allclose(same, wanted, rtol=1e-5)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def test_layers_that_a_user_keeps() -> None:
    from mmx.calibration.layers import Layer, without
    from mmx.runtime.errors import UsageError

    layers = [
        Layer(name, op, "x", "w", "y", 0)
        for name, op in (("A.0.fc1", "MatMul"), ("A.1.fc1", "MatMul"), ("V.0", "Conv"))
    ]
    assert [layer.node for layer in without(layers, ("A.0.*",))] == ["A.1.fc1", "V.0"]
    assert [layer.node for layer in without(layers, ("Conv", "A.1*"))] == ["A.0.fc1"]
    assert without(layers, ()) == layers
    for patterns in (("B.*",), ("A.*", "V.*")):
        with pytest.raises(UsageError, match="--keep-fp32"):
            without(layers, patterns)
