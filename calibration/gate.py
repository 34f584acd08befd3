"""The gate: an INT8 graph must be as good as FP32 on held-out data, and faster than what it would replace here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from mmx.evaluation.scores import MAX_SHIFT, decisions, flips, largest_shift, scorecard
from mmx.evaluation.statistics import Ratio, speedup
from mmx.evaluation.timing import Timeable, interleave_for
from mmx.export.precision.session import cpu_session
from mmx.runtime.backends import MODULES, Backend
from mmx.runtime.backends.onnxruntime import tensors_of
from mmx.runtime.bundle import Bundle
from mmx.runtime.engines import ENGINE_GRAPHS
from mmx.runtime.errors import BadDataError, EnvironmentMissing
from mmx.runtime.network import Network
from mmx.runtime.precisions import BF16_BACKENDS
from mmx.runtime.scratch import Scratch
from mmx.runtime.types import Sample

CPU_BACKENDS = ("onnxruntime", "openvino")
AS_WRITTEN = "as written"
"""In place of a backend: the graph's own arithmetic, which is the same on every machine."""

MAX_LOSS = 0.005
"""Mean F1 and mean accuracy may each lose half a point."""

SPEED_S = 60.0
"""The timing takes about so long by default: a slow system is timed on fewer utterances, evenly chosen."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """INT8 against FP32 on held-out samples; shares 0..1, means over the emotions.

    ``backend``: what ran INT8, or ``AS_WRITTEN``. ``labelled``: whether targets are known; if not, FP32's labels stand
    in for them.
    ``f1``, ``accuracy``: (FP32's, INT8's). ``error``: largest difference of a fused logit; ``relative``: that over the
    largest logit; ``shift``: the largest of a probability. ``flips``: labels that changed, of ``decisions``.
    """

    backend: str
    labelled: bool
    samples: int
    f1: tuple[float, float]
    accuracy: tuple[float, float]
    error: float
    relative: float
    shift: float
    flips: int
    decisions: int

    @property
    def holds(self) -> bool:
        """Whether neither mean lost more than ``MAX_LOSS``; without labels, no probability more than ``MAX_SHIFT``."""
        if not self.labelled:
            return self.shift <= MAX_SHIFT
        return self.f1[0] - self.f1[1] <= MAX_LOSS and self.accuracy[0] - self.accuracy[1] <= MAX_LOSS

    @property
    def failure(self) -> str:
        """What the gate says when it does not hold."""
        if not self.labelled:
            return f"agreement: a probability moves by {self.shift:.3f} in {self.backend}, {MAX_SHIFT} may be"
        return (
            f"accuracy: F1 {100 * self.f1[0]:.2f} -> {100 * self.f1[1]:.2f}, accuracy {100 * self.accuracy[0]:.2f} -> "
            f"{100 * self.accuracy[1]:.2f} in {self.backend}; {100 * MAX_LOSS:.1f} points may go"
        )


@dataclass(frozen=True)
class Speed:
    """Seconds [utterances, passes] by backend and precision: the same utterances, single-threaded and interleaved."""

    seconds: Mapping[str, NDArray[np.float64]]

    @property
    def milliseconds(self) -> dict[str, float]:
        """The medians."""
        return {key: float(np.median(each)) * 1000 for key, each in self.seconds.items()}

    @property
    def replaced(self) -> str:
        """The fastest of what the bundle has already."""
        return self._fastest(int8=False)

    @property
    def fastest(self) -> str:
        """The fastest backend for INT8."""
        return self._fastest(int8=True)

    @property
    def ratio(self) -> Ratio:
        """How many times faster than what it would replace, utterance by utterance."""
        return speedup(self.seconds[self.replaced], self.seconds[self.fastest])

    @property
    def holds(self) -> bool:
        """Whether it is faster beyond the noise of this measurement: the whole interval lies above 1."""
        return self.ratio.low > 1

    @property
    def hopeless(self) -> bool:
        """Whether it is slower beyond the noise: the whole interval lies below 1."""
        return self.ratio.high < 1

    @property
    def failure(self) -> str:
        """What the gate says when it does not hold."""
        times = self.milliseconds
        return (
            f"speed: INT8 takes {times[self.fastest]:.2f} ms ({self.fastest}), {self.replaced} "
            f"{times[self.replaced]:.2f} ms, which is {self.ratio} and must be above 1 in its whole interval"
        )

    def _fastest(self, int8: bool) -> str:
        times = self.milliseconds
        return min((key for key in times if key.endswith(" int8") is int8), key=times.__getitem__)


class Judge:
    """Compares graphs with a bundle's FP32 graph on the same held-out samples.

    Args:
        targets: int64 [samples, labels] in the bundle's order of labels; None: the FP32 graph's labels stand in for
            them, and agreement is judged.
    """

    def __init__(self, bundle: Bundle, samples: Sequence[Sample], targets: NDArray[np.int64] | None) -> None:
        self._manifest = bundle.manifest
        self._samples = samples
        self._bundle = bundle
        with _network(bundle, bundle.graph().path, CPU_BACKENDS[0], "fp32") as network:
            self._exact = self._logits(network)
        self._labelled = targets is not None
        if targets is None:
            targets = decisions(self._exact, self._manifest.thresholds).astype(np.int64)
        self._targets = targets

    def accuracy(self, model: onnx.ModelProto, backend: str = AS_WRITTEN) -> Accuracy:
        """How good an INT8 graph is beside FP32, as ``backend`` runs it here, or in its own arithmetic."""
        if backend == AS_WRITTEN:
            logits = self._logits(Network(self._bundle, _AsWritten(model)))
        else:
            with _saved(model) as path, _network(self._bundle, path, backend, "int8") as network:
                logits = self._logits(network)
        if not np.isfinite(logits).all():
            logits = np.nan_to_num(logits, nan=-1e4, posinf=1e4, neginf=-1e4)  # as wrong as can be, and finite
        labels, thresholds = self._manifest.labels, self._manifest.thresholds
        exact, found = (scorecard(x, self._targets, thresholds, labels) for x in (self._exact, logits))
        error = float(np.abs(logits - self._exact).max())
        return Accuracy(
            backend=backend,
            labelled=self._labelled,
            samples=len(logits),
            f1=(exact.mean("f1"), found.mean("f1")),
            accuracy=(exact.mean("accuracy"), found.mean("accuracy")),
            error=error,
            relative=error / max(float(np.abs(self._exact).max()), float(np.finfo(np.float32).tiny)),
            shift=largest_shift(logits, self._exact),
            flips=flips(logits, self._exact, thresholds),
            decisions=logits.size,
        )

    def _logits(self, network: Network) -> Logits:
        """The fused logits [samples, labels], one sample at a time."""
        return np.concatenate([network.fused([sample]) for sample in self._samples])


class _AsWritten(Backend):
    """An INT8 graph in its own arithmetic: floats between the quantisers."""

    name = AS_WRITTEN
    precision, device, why, streams = "int8", "CPU", "asked for", 1

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = cpu_session(model, as_written=True)
        self.inputs = tuple(node.name for node in self._session.get_inputs())
        self.outputs = tuple(node.name for node in self._session.get_outputs())
        self.tensors = tensors_of(self._session)

    def run(self, inputs: dict[str, NDArray]) -> dict[str, NDArray]:
        """See ``Backend.run``."""
        return dict(zip(self.outputs, self._session.run(list(self.outputs), inputs), strict=True))

    def close(self) -> None:
        """It goes with the object."""


def measure_speed(
    bundle: Bundle, model: onnx.ModelProto, samples: Sequence[Sample], passes: int = 3, seconds: float = SPEED_S
) -> Speed:
    """Time an INT8 graph beside every graph of the bundle, on every CPU backend and in each precision there is here."""
    stored = [name for name in bundle.precisions if name not in ("int8", *ENGINE_GRAPHS.values())]
    with _saved(model) as path, ExitStack() as opened:
        files = {name: bundle.graph(name).path for name in stored} | {"int8": path}
        graphs: list[Timeable] = []
        for backend in CPU_BACKENDS:
            more = {"bf16": files["fp32"]} if backend in BF16_BACKENDS and "bf16" not in files else {}
            for precision, file in (files | more).items():
                try:
                    network = opened.enter_context(_network(bundle, file, backend, precision))
                except (EnvironmentMissing, BadDataError):
                    if backend == CPU_BACKENDS[0] and precision in ("fp32", "int8"):  # this one comes with mmx
                        raise
                else:
                    graphs.append(Timeable(f"{backend} {precision}", network))
        timed = interleave_for(seconds, graphs, samples, passes)
    return Speed({key: result.seconds for key, result in timed.items()})


def _network(bundle: Bundle, path: Path, backend: str, precision: str) -> Network:
    """A graph of the bundle that need not be in it (yet)."""
    return Network(bundle, import_module(MODULES[backend]).load(path, precision, 1))


@contextmanager
def _saved(model: onnx.ModelProto) -> Iterator[Path]:
    """The graph as a file, for as long as the block runs."""
    with Scratch("calibrate") as scratch:
        path = scratch.path / "model.int8.onnx"
        onnx.save(model, path)
        yield path
