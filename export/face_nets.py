"""MTCNN's three nets, rewritten for speed: same function, about twice as fast in ONNX Runtime on a CPU.

What changes, all of it exact up to rounding (and compared with the source nets before anything is written):

- the pixel normalisation (x - 127.5) / 128 goes into the first convolution (no net pads, so the algebra has no edges);
- the softmax over (no face, face) becomes one logit, the difference of the two; landmarks are dropped;
- the transposed flatten before the dense layer goes into that layer's columns;
- PReLU becomes convolutions and ReLUs, which ONNX Runtime keeps in its blocked layout and fuses (see ``_activate``).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mmx.export.assets import find_face_nets
from mmx.runtime.bundle import FACE_NETS
from mmx.runtime.errors import BadDataError, ParityError
from mmx.runtime.files import sha256_of, whole_folder, write_bytes
from mmx.runtime.machine import user_cache

Array = NDArray[np.float64]
Affine = tuple[Array, Array]  # weight and bias

INPUT, OUTPUT = "pixels", "logit_and_offsets"
SIZES = {"pnet": 12, "rnet": 24, "onet": 48}
POOLS = {"pnet": (2, 0, 0), "rnet": (3, 3, 0), "onet": (3, 3, 2, 0)}  # max-pool window after each convolution, 0: none
CHANNELS = {"pnet": [10, 16, 32, 2, 4], "rnet": [28, 48, 64, 128, 2, 4], "onet": [32, 64, 64, 128, 256, 2, 4, 10]}
BLOCK = 16  # channels that ONNX Runtime's blocked kernels handle at once with AVX-512
SMALL_KERNEL = 64  # multiplications per output under which a convolution costs less than a pass over its output
TOLERANCE = 1e-5  # probabilities and box offsets (in units of the box) against the source nets


@dataclass(frozen=True)
class _Layer:
    """A convolution or dense layer: weight [out, in, ...], bias [out], slope [out] of the PReLU after it (or None)."""

    weight: Array
    bias: Array
    slope: Array | None = None

    def signed(self, sign: Array) -> _Layer:
        """The layer for inputs whose channels come multiplied by ``sign`` (1 or -1)."""
        return replace(self, weight=self.weight * sign.reshape(1, -1, *[1] * (self.weight.ndim - 2)))


def build_face_nets(source: dict[str, Path], out: Path) -> dict[str, Path]:
    """Rewrite mtcnn-runtime's pnet, rnet and onet and write them to the folder ``out``, each under its name.

    The nets written take ``pixels`` float32 [n, 3, h, w] (RGB, 0..255; 24 x 24 for rnet, 48 x 48 for onet) and give
    ``logit_and_offsets``: [n, 5, rows, columns] for pnet, [n, 5] for the others.

    Raises:
        BadDataError: a source file is missing or is not the net it should be.
        ParityError: a rewritten net does not give what its source gives.
    """
    built = {}
    for name in SIZES:
        model = _rewrite(name, _read(name, source[name]))
        _check(name, source[name], model)
        built[name] = out / f"{name}.onnx"
        write_bytes(built[name], model.SerializeToString())
    return built


def _read(name: str, path: Path) -> list[_Layer]:
    """The layers of a source net in order: convolutions, for rnet and onet a dense layer, then the heads."""
    try:
        graph = onnx.load(path).graph
    except Exception as e:  # protobuf and file errors alike
        raise BadDataError(f"{path} is not a readable ONNX file: {e}", "install mtcnn-runtime again") from e
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
    slopes = {node.input[0]: arrays[node.input[1]].ravel() for node in graph.node if node.op_type == "PRelu"}
    layers = [
        _Layer(arrays[node.input[1]], arrays[node.input[2]], slopes.get(node.output[0]))
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
    ]
    if [len(layer.bias) for layer in layers] != CHANNELS[name]:
        raise BadDataError(f"{path} is not MTCNN's {name}", "install mtcnn-runtime again")
    return layers


class _Graph:
    """Nodes and initialisers of a graph under construction; every method returns the new value's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def affine(self, kind: str, name: str, x: str, weight: Array, bias: Array, **attributes: Any) -> str:
        parameters = self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        return self.node(kind, name, x, *parameters, **attributes)

    def conv(self, name: str, x: str, weight: Array, bias: Array, group: int = 1) -> str:
        return self.affine("Conv", name, x, weight, bias, kernel_shape=list(weight.shape[2:]), group=group)

    def dense(self, name: str, x: str, weight: Array, bias: Array) -> str:
        return self.affine("Gemm", name, x, weight, bias, transB=1)

    def pool(self, name: str, x: str, window: int) -> str:
        return self.node("MaxPool", name, x, kernel_shape=[window] * 2, strides=[2, 2], ceil_mode=1)

    def mix(self, name: str, x: str, straight: Affine, bent: Affine, group: int = 1) -> str:
        """straight(x) + ReLU(bent(x)), each a convolution given by weight and bias."""
        relu = self.node("Relu", f"{name}.relu", self.conv(f"{name}.bent", x, *bent, group))
        return self.node("Add", name, self.conv(f"{name}.straight", x, *straight, group), relu)

    def scale_mix(self, name: str, x: str, straight: Array, bent: Array) -> str:
        """straight * x + ReLU(bent * x) with one factor per channel."""
        factors = [(factor.reshape(-1, 1, 1, 1), np.zeros(len(factor))) for factor in (straight, bent)]
        return self.mix(name, x, factors[0], factors[1], group=len(straight))

    def model(self, name: str, size: list[Any], answer: list[Any]) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, size)]
        outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, answer)]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def _rewrite(name: str, layers: list[_Layer]) -> onnx.ModelProto:
    pools = POOLS[name]
    first = layers[0]
    bias = first.bias - 127.5 / 128 * first.weight.sum(axis=(1, 2, 3))
    convolutions = [_Layer(first.weight / 128, bias, first.slope), *layers[1 : len(pools)]]
    graph, x, sign = _Graph(), INPUT, np.ones(3)
    for i, (layer, window) in enumerate(zip(convolutions, pools, strict=True), start=1):
        x, sign = _activate(graph, f"conv{i}", x, layer.signed(sign), window)

    score, offsets = layers[len(pools) + (name != "pnet") :][:2]
    weight = np.concatenate([score.weight[1:] - score.weight[:1], offsets.weight])
    head = _Layer(weight, np.concatenate([score.bias[1:] - score.bias[:1], offsets.bias]))
    if name == "pnet":
        graph.conv(OUTPUT, x, head.signed(sign).weight, head.bias)
        return graph.model(name, ["n", 3, "height", "width"], ["n", 5, "rows", "columns"])
    x = _dense(graph, graph.node("Flatten", "flat", x), layers[len(pools)], sign)
    graph.dense(OUTPUT, x, head.weight, head.bias)
    return graph.model(name, ["n", 3, SIZES[name], SIZES[name]], ["n", 5])


def _activate(graph: _Graph, name: str, x: str, layer: _Layer, window: int) -> tuple[str, Array]:
    """Convolution, PReLU and max-pool (window 0: none) of one layer, out of convolutions, ReLU and max-pool.

    Returns the value and a sign per channel: the value is sign * result, and the next layer's weights take the sign.

    With p = conv(x) and slope a, PReLU(p) is a p + ReLU((1 - a) p) where a <= 1; where a > 1 it is the negative of
    -a p + ReLU((a - 1) p), hence the sign. Under a max-pool:
    - a > 1 must wait until after the pool, since the sign would make it a min-pool; PReLU is monotone there.
    - a >= 0 may wait, which leaves a quarter of the work. So does a < 0, if the pool also gets the channel a p:
      pool(PReLU(p)) = max(q, r) = q + ReLU(r - q) with q = pool(p), r = pool(a p). That is free while the extra
      channels only fill up the kernels' block; otherwise PReLU comes first, and where the convolution is a small one,
      doing it twice is cheaper than reading its output twice.
    """
    weight, bias, slope = layer.weight, layer.bias, layer.slope
    assert slope is not None
    sign = np.where(slope <= 1, 1.0, -1.0)
    if not window:
        p = graph.conv(name, x, weight, bias)
        return graph.scale_mix(f"{name}.prelu", p, sign * slope, abs(1 - slope)), sign

    falling = np.flatnonzero(slope < 0)
    n, wide = len(bias), len(bias) + len(falling)
    if wide <= BLOCK * -(-n // BLOCK):
        extra_weight, extra_bias = _scaled(weight[falling], bias[falling], slope[falling])
        p = graph.conv(name, x, np.concatenate([weight, extra_weight]), np.concatenate([bias, extra_bias]))
        straight = np.eye(n, wide) * np.where(slope < 0, 1, sign * slope)[:, None]
        bent = np.eye(n, wide) * np.where(slope < 0, -1, abs(1 - slope))[:, None]
        bent[falling, np.arange(n, wide)] = 1
        pooled, zeros = graph.pool(f"{name}.pool", p, window), np.zeros(n)
        matrices = (straight[:, :, None, None], zeros), (bent[:, :, None, None], zeros)
        return graph.mix(f"{name}.prelu", pooled, *matrices), sign

    steep = slope > 1
    straight, bent = np.where(steep, 1, slope), np.where(steep, 0, 1 - slope)
    if weight[0].size <= SMALL_KERNEL:
        active = graph.mix(f"{name}.prelu", x, _scaled(weight, bias, straight), _scaled(weight, bias, bent))
    else:
        active = graph.scale_mix(f"{name}.prelu", graph.conv(name, x, weight, bias), straight, bent)
    pooled = graph.pool(f"{name}.pool", active, window)
    if not steep.any():
        return pooled, sign
    return graph.scale_mix(f"{name}.steep", pooled, np.where(steep, -slope, 1), np.where(steep, slope - 1, 0)), sign


def _scaled(weight: Array, bias: Array, factor: Array) -> Affine:
    return weight * factor.reshape(-1, 1, 1, 1), bias * factor


def _dense(graph: _Graph, x: str, layer: _Layer, sign: Array) -> str:
    """The dense layer with its PReLU, as Max(y, slope * y): its columns go from the source's (channel, x, y) order to
    the plain flatten's (channel, y, x)."""
    slope, outputs = layer.slope, len(layer.bias)
    if slope is None or slope.max() > 1:
        raise BadDataError("the face net's dense layer has a PReLU slope over 1", "install mtcnn-runtime again")
    columns = layer.weight.reshape(outputs, len(sign), 3, 3).transpose(0, 1, 3, 2) * sign.reshape(1, -1, 1, 1)
    y = graph.dense("dense", x, columns.reshape(outputs, -1), layer.bias)
    return graph.node("Max", "dense.prelu", y, graph.node("Mul", "dense.bent", y, graph.constant("dense.slope", slope)))


def _check(name: str, source: Path, model: onnx.ModelProto) -> None:
    """Compare a rewritten net with its source on random pixels, in sizes that meet every edge of the pools."""
    original = ort.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    rewritten = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for height, width in [(12, 12), (37, 50), (64, 33)] if name == "pnet" else [(SIZES[name], SIZES[name])] * 3:
        pixels = random.integers(0, 256, (1, 3, height, width)).astype(np.float32)
        by_width = {value.shape[1]: value for value in original.run(None, {"input": (pixels - 127.5) / 128})}
        answer = rewritten.run(None, {INPUT: pixels})[0]
        face = 1 / (1 + np.exp(-answer[:, 0]))
        error = max(np.abs(face - by_width[2][:, 1]).max(), np.abs(answer[:, 1:] - by_width[4]).max())
        if not error <= TOLERANCE:
            raise ParityError(f"the rewritten {name} differs from {source} by {error:.2e}", "report this to mmx")


def face_nets() -> dict[str, Path]:
    """The face detector's nets as mmx runs them, made once and kept in the user's cache folder.

    Raises:
        EnvironmentMissing: the package that holds their weights is not installed.
    """
    source = find_face_nets()
    key = "".join(sha256_of(source[net])[:8] for net in FACE_NETS)
    folder = user_cache(f"face-nets-{key}-{version('mmx')}")
    if not folder.is_dir():
        with suppress(FileExistsError), whole_folder(folder) as part:  # another process may have made it by now
            build_face_nets(source, part)
    return {net: folder / f"{net}.onnx" for net in FACE_NETS}
