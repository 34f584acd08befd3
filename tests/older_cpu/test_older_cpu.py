"""The stand-in for an older CPU is one for every library, and a crash in it is still reported as one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# One product of 8-bit weights and activations at their limits: 16-bit sums saturate, and only AVX2 has no others.
SATURATES = """
import sys
import numpy as np, onnx, onnxruntime
from onnx import TensorProto, helper, numpy_helper
constants = {"s": np.float32(1 / 127), "z": np.int8(0), "w": np.full((64, 64), 127, np.int8)}
nodes = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"]),
    helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
    helper.make_node("MatMul", ["xd", "wd"], ["y"]),
]
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
initializers = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
def product(session):
    return float(session.run(None, {"x": np.ones((1, 64), np.float32)})[0].max())
"""
LOOK = (
    SATURATES
    + """
import json, threading
import openvino
found = {}
def look():
    found["numpy"] = sorted(k for k, on in np._core._multiarray_umath.__cpu_features__.items() if on and "AVX" in k)
    found["openvino"] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found["onnxruntime"] = product(onnxruntime.InferenceSession(model.SerializeToString()))
thread = threading.Thread(target=look)
thread.start()
thread.join()
print(json.dumps(found))
"""
)


def test_every_library_sees_the_older_cpu(older_cpu: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], env=older_cpu, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["numpy"] and not [name for name in found["numpy"] if name.startswith("AVX512")]
    assert "FP32" in found["openvino"] and "BF16" not in found["openvino"]
    assert found["onnxruntime"] < 60  # of 64


def test_torch_sees_the_older_cpu(older_cpu: dict[str, str]) -> None:
    look = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    done = subprocess.run([sys.executable, "-c", look], env=older_cpu, capture_output=True, text=True)
    assert done.stdout.strip() == "AVX2", done.stderr


@pytest.mark.parametrize("handler", ["", "import faulthandler; faulthandler.enable();"])
def test_a_crash_stays_a_crash(older_cpu: dict[str, str], handler: str) -> None:
    """The program's own handler is called, and without one the process dies of the signal."""
    crash = f"{handler}import ctypes; ctypes.string_at(0)"
    done = subprocess.run([sys.executable, "-c", crash], env=older_cpu, capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert ("Fatal Python error: Segmentation fault" in done.stderr) == bool(handler)


def test_a_command_keeps_its_status(tmp_path: Path) -> None:
    run = Path(__file__).with_name("run.py")
    done = subprocess.run([sys.executable, run, sys.executable, "-c", "raise SystemExit(3)"])
    assert done.returncode == 3
