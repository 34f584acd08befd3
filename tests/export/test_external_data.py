"""The wire-format reader finds external tensors wherever the onnx package can put them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmx.runtime.errors import BadDataError
from mmx.runtime.external_data import external_locations


def external(location: str) -> TensorProto:
    tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "12")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def inline() -> TensorProto:
    """Its raw bytes look like an external-data entry."""
    return TensorProto(
        name="x", data_type=TensorProto.UINT8, dims=[64], raw_data=external("no.bin").SerializeToString()
    )


def sparse(location: str) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(3), "indices")
    return onnx.SparseTensorProto(values=external(location), indices=indices, dims=[9])


def test_every_place_that_can_hold_a_tensor_is_found(tmp_path: Path):
    branch = helper.make_graph([], "branch", [], [], initializer=[external("branch.bin")])
    deeper = helper.make_node(
        "Loop", [], ["z"], body=helper.make_graph([], "b", [], [], initializer=[external("deep.bin")])
    )
    branch.node.append(deeper)
    nodes = [
        helper.make_node("Constant", [], ["a"], value=external("attribute.bin")),
        helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch),
        helper.make_node("Many", [], ["m"], domain="x", several=[external("several.bin"), inline()]),
        helper.make_node(
            "Graphs", [], ["g"], domain="x", graphs=[helper.make_graph([], "l", [], [], [external("list.bin")])]
        ),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse("sparse_attribute.bin")),
    ]
    graph = helper.make_graph(nodes, "g", [], [], initializer=[inline(), external("graph.bin")])
    graph.sparse_initializer.append(sparse("sparse.bin"))
    inner = helper.make_node("Constant", [], ["y"], value=external("function.bin"))
    function = helper.make_function("x", "f", [], ["y"], [inner], [helper.make_opsetid("", 20)])
    function.attribute_proto.append(helper.make_attribute("d", external("default.bin")))
    model = helper.make_model(graph, functions=[function])
    model.training_info.add(algorithm=helper.make_graph([], "t", [], [], initializer=[external("training.bin")]))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    names = "attribute branch deep several list sparse_attribute graph sparse function default training"
    assert external_locations(path) == {f"{name}.bin" for name in names.split()}


def test_a_real_graph_has_none(tiny_bundle: Path):
    assert external_locations(tiny_bundle / "model.onnx") == set()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GB in a file of 6 bytes
        b"\x0b\x0c",  # groups, which ONNX does not have
        b"\xff" * 30,  # a number without end
        b"\x3a\x02\x0a",  # ends in the middle of a node
        b"\x09\x00\x00",  # ends in the middle of a fixed number
    ],
)
def test_what_is_no_protobuf_is_one_clear_error(tmp_path: Path, content: bytes):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=r"model\.onnx is"):
        external_locations(path)


def test_a_graph_nested_without_end_does_not_exhaust_the_stack(tmp_path: Path):
    data = b""
    for _ in range(5000):  # graph -> node -> attribute -> graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + varint(len(data)) + data
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + varint(len(data)) + data)
    with pytest.raises(BadDataError, match="nested deeper"):
        external_locations(path)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
