"""A backend that computes an INT8 graph as the graph means it passes the probe; one that does not is rejected."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest

from mmx.calibration import quantize
from mmx.calibration.layers import find_layers
from mmx.calibration.ranges import measure_limits
from mmx.export.precision.samples import utterances
from mmx.export.precision.session import cpu_session
from mmx.runtime.backends import MODULES
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.probe import FARTHEST, SAMPLES, check_probe, make_probe, probe_inputs
from mmx.runtime.records import Probe

ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Quantised:
    """INT8 graphs of one bundle and their probes, with weights of 7 bits and of 8."""

    inputs: tuple[TensorSpec, ...]
    files: dict[int, Path]
    probes: dict[int, Probe]


def run_by(model: onnx.ModelProto, **options: bool):
    session = cpu_session(model, **options)
    names = [node.name for node in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture(scope="module")
def quantised(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    bundle = Bundle.open(tiny_bundle)
    model = onnx.load(tiny_bundle / "model.onnx")
    layers = find_layers(model)
    samples = list(utterances(bundle.manifest, 6, 2))
    _, limits, _ = measure_limits(model, layers, lambda: samples, "minmax")
    inputs = bundle.manifest.graphs["fp32"].inputs
    found = Quantised(inputs, {}, {})
    for bits in (7, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantize, "WEIGHT_LEVELS", 64 if bits == 7 else 127)
            graph = quantize.quantise(model, layers, limits)
        found.files[bits] = tmp_path_factory.mktemp("int8") / f"{bits}.onnx"
        onnx.save(graph, found.files[bits])
        found.probes[bits] = make_probe(inputs, run_by(model), run_by(graph, as_written=True))
    return found


def answers(quantised: Quantised, change) -> object:
    """A backend that gives what the graph itself gave, changed by ``change`` (output, its FP32 logits, its own)."""
    probe = quantised.probes[7]
    rows = iter(range(len(probe.samples)))

    class Stand:
        name = "stand-in"

        def run(self, inputs):
            row = next(rows)
            exact, own = ({k: np.array(v[row : row + 1]) for k, v in each.items()} for each in (probe.exact, probe.own))
            return {name: change(name, exact[name], own[name]) for name in own}

    return Stand()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_computes_the_graph_passes(quantised: Quantised, engine: str) -> None:
    with import_module(MODULES[engine]).load(quantised.files[7], "int8", 1) as backend:
        check_probe(quantised.probes[7], backend, quantised.inputs)
    check_probe(quantised.probes[7], answers(quantised, lambda name, exact, own: own), quantised.inputs)  # type: ignore
    assert len(quantised.probes[7].samples) == SAMPLES


@pytest.mark.parametrize(
    "change",
    [
        lambda name, exact, own: exact + 1.2 * FARTHEST * (own - exact) if name == "logits_text" else own,
        lambda name, exact, own: own * np.nan,
        lambda name, exact, own: own[:, :3],
    ],
    ids=["one output too far off", "not finite", "of another shape"],
)
def test_what_does_not_is_rejected(quantised: Quantised, change) -> None:
    with pytest.raises(EnvironmentMissing, match="stand-in does not compute this INT8 graph right on this CPU"):
        check_probe(quantised.probes[7], answers(quantised, change), quantised.inputs)  # type: ignore[arg-type]


CHILD = """
import json, sys
from importlib import import_module
from pathlib import Path
from mmx.runtime.backends import MODULES
from mmx.runtime.errors import EnvironmentMissing
from mmx.runtime.manifest import TensorSpec
from mmx.runtime.probe import check_probe
from mmx.runtime.records import Probe
given = json.load(open(sys.argv[1]))
inputs = [TensorSpec(**each) for each in given["inputs"]]
for bits, file in given["files"].items():
    for engine in ("onnxruntime", "openvino"):
        with import_module(MODULES[engine]).load(Path(file), "int8", 1) as backend:
            try:
                check_probe(Probe(**given["probes"][bits]), backend, inputs)
                print(bits, engine, "right")
            except EnvironmentMissing as e:
                print(bits, engine, "wrong")
"""


def test_a_cpu_that_saturates_is_found(quantised: Quantised, older_cpu: dict[str, str], tmp_path: Path) -> None:
    """As on a CPU without VNNI: 8-bit weights are rejected by both engines, 7-bit weights pass."""
    given = {
        "inputs": [asdict(each) for each in quantised.inputs],
        "files": {bits: str(path) for bits, path in quantised.files.items()},
        "probes": {bits: asdict(probe) for bits, probe in quantised.probes.items()},
    }
    path = tmp_path / "given.json"
    path.write_text(json.dumps(given))
    done = subprocess.run([sys.executable, "-c", CHILD, path], env=older_cpu, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = [f"{bits} {engine} {'right' if bits == 7 else 'wrong'}" for bits in (7, 8) for engine in ENGINES]
    assert done.stdout.split("\n")[:-1] == wanted


def test_the_samples_are_the_same_everywhere(quantised: Quantised) -> None:
    """Values that follow from the formula, computed apart; every sample differs."""
    first, second = (probe_inputs(quantised.inputs, number) for number in (0, 1))
    assert first["input_ids"][0, :3].tolist() == [13 + int(80 * (k * 0.6180339887498949 % 1)) for k in range(3)]
    assert first["faces"][1, 2, 3, 4] == pytest.approx(127.5 * (1 + np.sin(0.16 * 4 + 0.07 * 3 + 4.0)), rel=1e-6)
    assert first["faces"].min() >= 0 and first["faces"].max() <= 255
    assert all(np.isfinite(each).all() for each in first.values())
    for name in ("input_ids", "faces", "pieces"):
        assert not np.array_equal(first[name], second[name])
