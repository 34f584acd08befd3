"""The GPU check where there is no GPU: it says what is missing; and its own logic, on stand-ins and the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_check
import gpu_device
import numpy as np
import pytest
from stand_ins import HostDevice

from mmx.benchmarks.contenders.bundles import BundleContender
from mmx.benchmarks.contenders.prepare import Prepared
from mmx.benchmarks.workload.utterances import make_sample, stratified, synthetic
from mmx.runtime.bundle import Bundle
from mmx.runtime.device.probe import find_gpu
from mmx.runtime.errors import EnvironmentMissing


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_and_writes_its_report(tmp_path: Path) -> None:
    assert gpu_check.main(["--out", str(tmp_path / "gpu")]) == gpu_check.NO_GPU
    found = json.loads((tmp_path / "gpu.json").read_text())["findings"]
    assert [(f["part"], f["status"]) for f in found if f["part"] == "machine"] == [("machine", "missing")]
    assert not [f for f in found if f["status"] in ("ok", "failed", "wrong")]
    assert {"machine", "device", "engine", "answers", "latency", "bench"} <= {f["part"] for f in found}
    text = (tmp_path / "gpu.md").read_text()
    assert "there is no NVIDIA driver" in text and "not run: it needs a GPU" in text


@pytest.mark.slow
@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_up_to_the_device_everything_runs_and_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that nothing can use: graphs are made, every GPU backend is rejected, mmx bench still runs."""
    monkeypatch.setattr(gpu_check, "_gpu", lambda: ("a GPU that nothing can use", {}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = ["--systems", "ours,fe2e", "--preset", "tiny", "--samples", "2", "--bench-minutes", "1"]
    assert gpu_check.main([*asked, "--out", str(tmp_path / "gpu")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())["findings"]
    status = {(f["part"], f["name"]): f["status"] for f in found}
    for system in ("ours", "fe2e"):
        assert status["export", system] == status["graph", f"{system} fp16"] == "ok"
        assert status["engine", f"{system} tensorrt-rtx fp16"] == "missing"
        for runner in ("tensorrt-rtx/fp16", "onnxruntime-cuda/fp32", "torch-eager/fp16", "torch-compile/fp16"):
            assert status["answers", f"{system}/{runner}"] == "missing"
    assert status["bench", "mmx bench"] == "ok" and "ours" in (tmp_path / "gpu-bench.md").read_text()


def test_device_checks_pass_on_a_device_that_works_and_fail_on_one_that_does_not() -> None:
    assert "unchanged" in _checked(gpu_device.check_copies, HostDevice())
    assert "replayed" in _checked(gpu_device.check_graph, HostDevice())
    assert "none" in _checked(gpu_device.check_graph, HostDevice(graphs=False))

    class Lossy(HostDevice):
        def d2h(self, target, source, size, stream) -> None:
            super().d2h(target, source, size - 1, stream)

    class Eager(HostDevice):
        def capture(self, stream, work):
            work()
            return lambda: None

    with pytest.raises(RuntimeError, match="bytes changed"):
        _checked(gpu_device.check_copies, Lossy())
    with pytest.raises(RuntimeError, match="capturing ran the work"):
        _checked(gpu_device.check_graph, Eager())


def test_copy_rates_are_timed_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_device, "COPY_BYTES", 2**20)
    rates = _checked(gpu_device.copy_rates, HostDevice())
    assert set(rates) == {"h2d_gb_s", "d2h_gb_s"} and all(0.01 < rate < 1000 for rate in rates.values())


def _checked(check: Callable[[HostDevice], Any], device: HostDevice) -> Any:
    with device.current():
        return check(device)


def test_a_right_contender_is_timed_a_wrong_or_missing_one_is_not(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    prepared = Prepared("ours", tiny_bundle.parent, bundle, "tiny", None)

    def right() -> BundleContender:
        return BundleContender("ours", bundle, "onnxruntime", "fp32", 1)

    def wrong() -> BundleContender:
        contender = right()
        contender.key, true_run = "ours/wrong/fp32", contender.run
        contender.run = lambda samples: true_run(samples) + np.float32(0.01)
        return contender

    def missing() -> BundleContender:
        raise EnvironmentMissing("no such thing here")

    samples = [make_sample(u) for u in stratified(synthetic("iemocap"), 4).utterances]
    report = gpu_check.Report()
    makers = [("ours/onnxruntime/fp32", right), ("ours/wrong/fp32", wrong), ("ours/none/fp32", missing)]
    gpu_check.check_system(report, prepared, samples, 1, [1, 2], makers)
    seen = {(finding.part, finding.name): finding for finding in report.findings}
    assert seen["answers", "ours/onnxruntime/fp32"].figures["max_error"] < 1e-4
    assert seen["answers", "ours/wrong/fp32"].status == "failed"
    assert "1.0e-02 off the CPU" in seen["answers", "ours/wrong/fp32"].detail
    assert seen["answers", "ours/none/fp32"].status == "missing"
    assert {name for part, name in seen if part in ("latency", "batches")} == {"ours/onnxruntime/fp32"}
    assert seen["latency", "ours/onnxruntime/fp32"].figures["count"] == 4
    assert set(seen["batches", "ours/onnxruntime/fp32"].figures["utterances_per_s"]) == {1, 2}
