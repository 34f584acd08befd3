"""The gate: an INT8 graph must be as good as FP32 on held-out data, and faster than what it would replace here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mmx.benchmarks.timing import interleave, warm_up
from mmx.export.precision.session import cpu_session
from mmx.runtime.backends import MODULES
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.fusion import sigmoid
from mmx.runtime.packing import pack
from mmx.runtime.types import Sample
from mmx.training.evaluate import fuse_batch
from mmx.training.metrics import scorecard

CPU_ENGINES = ("onnxruntime", "openvino")
MAX_LOSS = 0.005
"""Mean F1 and mean accuracy may each lose half a point."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """INT8 against FP32 on held-out samples; shares 0..1, means over the emotions.

    ``f1``, ``accuracy``: (FP32's, INT8's). ``error``: largest difference of a fused logit. ``flips``: labels that
    changed, of ``decisions``.
    """

    samples: int
    f1: tuple[float, float]
    accuracy: tuple[float, float]
    error: float
    flips: int
    decisions: int

    @property
    def holds(self) -> bool:
        """Whether neither mean lost more than ``MAX_LOSS``."""
        return self.f1[0] - self.f1[1] <= MAX_LOSS and self.accuracy[0] - self.accuracy[1] <= MAX_LOSS


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of one utterance, single-threaded and interleaved, by engine and precision."""

    milliseconds: dict[str, float]

    @property
    def replaced(self) -> str:
        """The fastest of what the bundle has already."""
        return min((key for key in self.milliseconds if not key.endswith(" int8")), key=self.milliseconds.__getitem__)

    @property
    def fastest(self) -> str:
        """The fastest engine for INT8."""
        return min((key for key in self.milliseconds if key.endswith(" int8")), key=self.milliseconds.__getitem__)

    @property
    def ratio(self) -> float:
        """How many times faster than what it would replace."""
        return self.milliseconds[self.replaced] / self.milliseconds[self.fastest]

    @property
    def holds(self) -> bool:
        """Whether it is faster."""
        return self.ratio > 1


class Judge:
    """Compares graphs with a bundle's FP32 graph on the same held-out samples.

    Args:
        truths: int64 [samples, labels] in the bundle's order of labels; None: FP32's own answers stand in for them, and
            what is compared is agreement.
    """

    def __init__(self, bundle: Bundle, samples: Sequence[Sample], truths: NDArray[np.int64] | None) -> None:
        self._manifest = bundle.manifest
        self._samples = samples
        self._exact = self.logits(onnx.load(bundle.graph_path()))
        told = sigmoid(self._exact.astype(np.float64)) > np.array(self._manifest.thresholds)
        self._truths = told.astype(np.int64) if truths is None else truths

    def logits(self, model: onnx.ModelProto) -> Logits:
        """The fused logits [samples, labels] of a graph in ONNX Runtime, one sample at a time."""
        session = cpu_session(model)
        names = [f"logits_{modality}" for modality in self._manifest.modalities]
        given = self._manifest.graphs["fp32"].input_names
        rows = []
        for sample in self._samples:
            inputs = pack([sample], self._manifest.preprocessing.text, given).inputs
            each = dict(zip(self._manifest.modalities, session.run(names, inputs), strict=True))
            rows.append(fuse_batch(each, [sample], self._manifest.fusion_weights))
        return np.concatenate(rows)

    def accuracy(self, model: onnx.ModelProto) -> Accuracy:
        """How good a graph is beside FP32."""
        logits, thresholds = self.logits(model), self._manifest.thresholds
        if not np.isfinite(logits).all():
            logits = np.nan_to_num(logits, nan=-1e4, posinf=1e4, neginf=-1e4)  # as wrong as can be, and finite
        labels = self._manifest.labels
        exact, found = (scorecard(x, self._truths, thresholds, labels) for x in (self._exact, logits))
        told = [sigmoid(x.astype(np.float64)) > np.array(thresholds) for x in (self._exact, logits)]
        return Accuracy(
            samples=len(logits),
            f1=(exact.mean("f1"), found.mean("f1")),
            accuracy=(exact.mean("accuracy"), found.mean("accuracy")),
            error=float(np.abs(logits - self._exact).max()),
            flips=int((told[0] != told[1]).sum()),
            decisions=logits.size,
        )


class _Graph:
    """A graph file in an engine, as something that can be timed."""

    def __init__(self, path: Path, engine: str, precision: str, bundle: Bundle) -> None:
        self.key = f"{engine} {precision}"
        self._text = bundle.manifest.preprocessing.text
        self._backend = import_module(MODULES[engine]).load(path, precision, 1)

    def run(self, samples: Sequence[Sample]) -> Logits:
        """The graph's fused logits."""
        logits: Logits = self._backend.run(pack(samples, self._text, self._backend.inputs).inputs)["logits"]
        return logits

    def close(self) -> None:
        """Give the engine's memory back."""
        self._backend.close()


def measure_speed(bundle: Bundle, model: onnx.ModelProto, samples: Sequence[Sample], passes: int = 3) -> Speed:
    """Time an INT8 graph beside every graph of the bundle, in every CPU engine that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.int8.onnx"
        onnx.save(model, path)
        files = {name: bundle.graph_path(name) for name in bundle.manifest.graphs if name != "int8"} | {"int8": path}
        graphs: list[_Graph] = []
        for engine in CPU_ENGINES:
            for precision, file in files.items():
                try:
                    graphs.append(_Graph(file, engine, precision, bundle))
                except (EnvironmentMissing, BadDataError):
                    if engine == CPU_ENGINES[0] and precision in ("fp32", "int8"):  # this one comes with mmx
                        raise
        try:
            costs = {graph.key: warm_up(graph, samples[0]) for graph in graphs}
            makers: list[Callable[[], Sample]] = [lambda s=sample: s for sample in samples]  # type: ignore[misc]
            timed = interleave(graphs, makers, passes, costs)
        finally:
            for graph in graphs:
                graph.close()
    return Speed({key: float(np.median(result.seconds)) * 1000 for key, result in timed.items()})
