"""An INT8 graph as an FP8 one: E4M3 in the layers that it quantises, with the ranges measured for that one.

E4M3 has about as many codes as INT8 but spreads them over 17 powers of two, so a limit that was chosen for INT8 by
cutting off outliers can be doubled without losing accuracy below it, and cuts nothing off.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

E4M3 = TensorProto.FLOAT8E4M3FN
LARGEST = 448.0  # of E4M3
INT8_LEVELS = 127.0
HEADROOM = 2.0


def to_fp8(int8: onnx.ModelProto, fp32: onnx.ModelProto) -> onnx.ModelProto:
    """Turn every INT8 quantise-dequantise pair and weight into E4M3.

    Args:
        int8: a QDQ graph, symmetric, with the names that ``calibration.quantize`` gives; it is not changed.
        fp32: has the weights as they were.
    """
    model = onnx.ModelProto()
    model.CopyFrom(int8)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    original = {tensor.name: tensor for tensor in fp32.graph.initializer}
    constants: dict[str, TensorProto] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.input[0] in stored:
            exact = original.get(node.input[0].removesuffix("_int8"))
            values = _dequantised(node, stored) if exact is None else numpy_helper.to_array(exact)
            tensors = _weight(values, _axis(node), node.input[0].removesuffix("_int8"))
        else:
            scale = numpy_helper.to_array(stored[node.input[1]])
            name = node.input[1].removesuffix("_scale")
            tensors = [
                numpy_helper.from_array((scale * np.float32(HEADROOM * INT8_LEVELS / LARGEST)), f"{name}_scale_fp8"),
                _fp8(np.zeros(scale.shape, np.float32), f"{name}_zero_fp8"),
            ]
        node.input[len(node.input) - len(tensors) :] = [tensor.name for tensor in tensors]
        constants |= {tensor.name: tensor for tensor in tensors}
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:], model.graph.value_info[:]
    model.graph.initializer.extend([*kept, *constants.values()])
    return model


def _weight(values: NDArray[np.float32], axis: int, name: str) -> list[TensorProto]:
    """A weight in E4M3 with a scale for each channel along ``axis``: values, scales and zero points."""
    largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis), keepdims=True)
    scales = np.where(largest > 0, largest, 1.0).astype(np.float32) / np.float32(LARGEST)
    return [
        _fp8(np.clip(values / scales, -LARGEST, LARGEST), f"{name}_fp8"),
        numpy_helper.from_array(scales.ravel(), f"{name}_scale_fp8"),
        _fp8(np.zeros(scales.size, np.float32), f"{name}_zero_fp8"),
    ]


def _fp8(values: NDArray, name: str) -> TensorProto:
    codes = np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(E4M3))
    return helper.make_tensor(name, E4M3, values.shape, codes.tobytes(), raw=True)


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _dequantised(node: NodeProto, stored: dict[str, TensorProto]) -> NDArray[np.float32]:
    integers, scales = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
    shape = [1] * integers.ndim
    shape[_axis(node)] = -1
    return integers.astype(np.float32) * scales.reshape(shape)
