"""A report made of known figures, for everything that reads reports."""

import numpy as np
import pytest

from mmx.benchmarks.results import (
    OK,
    PARITY_FAILED,
    UNAVAILABLE,
    Offline,
    Report,
    Row,
    Server,
    WholeProgram,
    WorkloadInfo,
)
from mmx.benchmarks.workload.utterances import stratified, synthetic
from mmx.evaluation.environment import describe
from mmx.evaluation.statistics import Ratio, latency, total_speedup

SPEEDS = {  # seconds per second of speech
    "fe2e/eager/fp32": 0.14,
    "v2em/eager/fp32": 0.40,
    "v2em/openvino/fp32": 0.20,
    "ours/eager/fp32": 0.09,
    "ours/plain-onnx/fp32": 0.06,
    "ours/onnxruntime/fp32": 0.02,
    "ours/openvino/bf16": 0.01,
}


@pytest.fixture
def make_report():
    def make(change: dict[str, float] | None = None, dataset: str = "iemocap") -> Report:
        part = stratified(synthetic(dataset), 20)
        noise = np.random.default_rng(3)
        durations = np.array([u.duration for u in part.utterances])
        seconds = {
            key: (speed * (change or {}).get(key, 1.0) * durations * noise.lognormal(0, 0.05, 20))[:, None]
            for key, speed in SPEEDS.items()
        }
        rows = []
        for key, taken in seconds.items():
            system, runner, precision = key.split("/")
            own = seconds[f"{system}/eager/fp32"]
            total = part.extrapolate(taken[:, 0])
            rows.append(
                Row(
                    system,
                    runner,
                    precision,
                    1,
                    OK,
                    error=1e-6,
                    shift=0.01,
                    load_s=1.0,
                    latency=latency(taken),
                    first_sight_ms=50.0,
                    set_seconds=total,
                    realtime=part.seconds / total,
                    vs_baseline=total_speedup(seconds["v2em/eager/fp32"], taken, part.weights),
                    vs_own=total_speedup(own, taken, part.weights),
                    points=tuple(zip(durations.tolist(), (taken[:, 0] * 1e3).tolist(), strict=True)),
                )
            )
        rows.append(Row("ours", "openvino", "fp32", 1, PARITY_FAILED, "its logits are off by 3e-01", 0.3, 0.2))
        rows.append(Row("v2em", "openvino", "bf16", 1, UNAVAILABLE, "this CPU has no bf16 <&>"))
        return Report(
            schema_version=1,
            command="mmx bench iemocap",
            created="2026-01-01T00:00:00+00:00",
            scope="model",
            environment=describe(),
            workload=WorkloadInfo(dataset, "synthetic", part.total, 7027.0, 1),
            notes=("The workload is synthetic.",),
            rows=tuple(rows),
            offline={"ours/openvino/bf16": Offline({1: 10.0, 2: 12.0, 4: 13.0}, 4)},
            server={"ours/openvino/bf16": Server(500.0, 8.0, 9.0, 80, 450.0)},
            whole_program=(WholeProgram("v2em/eager/fp32", 2, 6, 5.0, 9.0, 1500.0, 1900.0),),
            stages={"ours/openvino/bf16": {"text": 18.0, "visual": 13.0, "audio": 23.0, "fusion": 0.1}},
            residual={"ONNX Runtime": Ratio(1.5, 1.4, 1.6)},
            parameters={
                "v2em": {"visual": 1811584, "audio": 67248744, "text": 11683584},
                "ours": {"visual": 733920, "audio": 49892752, "text": 11683584},
            },
        )

    return make
