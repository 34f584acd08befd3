"""The TensorRT backend up to the device boundary: what it does with contexts, buffers, profiles, batches and threads.

No GPU is involved; ``stand_ins`` says what stands in for it. studies/gpu_check.py runs the real one.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import FakeTrt, HostDevice
from variants import engine_in

from mmx.export.engine.profiles import profiles_for, read_profiles
from mmx.export.precision.samples import utterances
from mmx.export.variant_writer import made_now, new_variant
from mmx.runtime.backends import open_backend, tensorrt
from mmx.runtime.backends.onnxruntime_cuda import require_provider
from mmx.runtime.backends.tensorrt import TensorRtBackend
from mmx.runtime.bundle import Bundle
from mmx.runtime.device.probe import Gpu
from mmx.runtime.device.trt import FULL, RTX
from mmx.runtime.engines import Engine, EngineMismatch, mismatches, read_engine
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.extras import install_command
from mmx.runtime.records import EngineRecord
from mmx.runtime.splitting import batch_size, part


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def record(bundle: Bundle) -> EngineRecord:
    """What the record of an engine for this bundle's FP32 graph holds."""
    spec = bundle.manifest.graphs["fp32"]
    return EngineRecord(
        source=bundle.graph_sha256,
        files={"e.engine": "0" * 64},
        created="2026-01-01T00:00:00+00:00",
        engine="e.engine",
        size=0,
        key="k",
        flavour="tensorrt",
        version="10.9",
        target="native",
        capabilities=("8.9",),
        precision="fp32",
        graph=spec.file,
        graph_sha256=bundle.manifest.files[spec.file],
        inputs=spec.inputs,
        outputs=spec.outputs,
        profiles=profiles_for(bundle.manifest, batch=4),
    )


@pytest.fixture
def gpu() -> HostDevice:
    return HostDevice()


@pytest.fixture
def opened(bundle: Bundle, record: EngineRecord, gpu: HostDevice, monkeypatch: pytest.MonkeyPatch) -> TensorRtBackend:
    return _open(bundle, record, gpu, monkeypatch)


def _open(
    bundle: Bundle, record: EngineRecord, gpu: HostDevice, monkeypatch: pytest.MonkeyPatch, workers: int = 2
) -> TensorRtBackend:
    trt = FakeTrt(record, gpu)
    monkeypatch.setattr(type(FULL), "load", lambda self: trt)
    backend = TensorRtBackend(Engine(bundle.graph().path, record), FULL, gpu, workers)
    backend.trt = trt
    return backend


def _same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("graphs", [True, False])
def test_the_same_logits_whatever_the_order_of_shapes(
    bundle: Bundle, record: EngineRecord, monkeypatch: pytest.MonkeyPatch, graphs: bool
) -> None:
    """Small after large after small: stale buffers, addresses or captured graphs would show."""
    gpu = HostDevice(graphs)
    batches = [*utterances(bundle.manifest, 8, 3, seed=5)]
    with open_backend(bundle, "onnxruntime") as reference, _open(bundle, record, gpu, monkeypatch) as backend:
        for inputs in (*batches, *reversed(batches), *batches):
            _same(backend.run(inputs), reference.run(inputs))
        assert (gpu.captured > 0) == graphs
        assert len(set(backend.trt.contexts[0].profiles_used)) > 1
    assert gpu.open == 0


def test_the_smallest_profile_that_fits_is_taken(opened: TensorRtBackend, bundle: Bundle) -> None:
    short, typical, long = (profile.shapes for profile in opened._record.profiles)
    for number, shapes in enumerate((short, typical, long)):
        assert opened.profile_for({name: sizes.max for name, sizes in shapes.items()}) == number
    assert opened.profile_for({name: sizes.min for name, sizes in long.items()}) == 0
    assert opened.profile_for({name: tuple(n + 1 for n in sizes.max) for name, sizes in long.items()}) is None


def test_a_batch_too_large_is_cut_and_put_together(opened: TensorRtBackend, bundle: Bundle) -> None:
    (inputs,) = utterances(bundle.manifest, 13, 13, seed=6)
    with open_backend(bundle, "onnxruntime") as reference:
        _same(opened.run(inputs), reference.run(inputs))
    assert sum(len(context.profiles_used) for context in opened.trt.contexts) >= 4


def test_one_segment_too_long_is_rejected_with_the_way_out(opened: TensorRtBackend, bundle: Bundle) -> None:
    (inputs,) = utterances(bundle.manifest, 1, 1)
    inputs["faces"] = np.zeros((2000, 3, 48, 48), np.float32)
    with pytest.raises(BadDataError, match="faces 2000x3x48x48") as error:
        opened.run(inputs)
    assert "--profiles" in error.value.hint


def test_parts_keep_what_their_samples_had(bundle: Bundle) -> None:
    """Also a sample without faces: its tower then still has one row, as the contract asks."""
    (inputs,) = utterances(bundle.manifest, 5, 5, seed=8)
    inputs["face_index"][1] = -1
    alone = part(inputs, 1, 2)
    assert batch_size(alone) == 1 and alone["faces"].shape[0] == 1 and (alone["face_index"] == [[-1]]).all()
    for start, stop in ((0, 2), (2, 5), (4, 5)):
        cut = part(inputs, start, stop)
        for row in range(stop - start):
            old, new = inputs["piece_index"][start + row], cut["piece_index"][row]
            np.testing.assert_array_equal(cut["pieces"][new[new >= 0]], inputs["pieces"][old[old >= 0]])
        used = cut["piece_index"]
        assert len(cut["pieces"]) == (used >= 0).sum()


def test_threads_share_workers_and_get_their_own_answers(
    bundle: Bundle, record: EngineRecord, gpu: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [*utterances(bundle.manifest, 12, 1, seed=9)]
    with open_backend(bundle, "onnxruntime") as reference:
        wanted = [reference.run(inputs) for inputs in batches]
    with _open(bundle, record, gpu, monkeypatch, workers=3) as backend, ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for got, want in zip(pool.map(backend.run, batches), wanted, strict=True):
                _same(got, want)
        assert 1 <= backend._made <= 3
    assert gpu.open == 0


def test_closed_is_closed_and_waits_for_runs(opened: TensorRtBackend, bundle: Bundle, gpu: HostDevice) -> None:
    (inputs,) = utterances(bundle.manifest, 1, 1)
    with opened._worker():
        closing = threading.Thread(target=opened.close)
        closing.start()
        closing.join(timeout=0.2)
        assert closing.is_alive()  # a run is under way
    closing.join(timeout=10)
    assert not closing.is_alive() and gpu.open == 0
    opened.close()
    with pytest.raises(RuntimeError, match="closed"):
        opened.run(inputs)


def test_memory_that_ran_out_leaves_nothing_behind_and_the_next_run_is_right(
    bundle: Bundle, record: EngineRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the buffers there is no room for, on the first run and when they grow."""
    small, large = (next(iter(utterances(bundle.manifest, n, n, seed=11))) for n in (1, 4))
    with open_backend(bundle, "onnxruntime") as reference:
        wanted = [reference.run(small), reference.run(large)]
    failures = 0
    for first in (small, large):
        for room in range(0, 40, 5):
            gpu = HostDevice()
            with _open(bundle, record, gpu, monkeypatch, workers=1) as backend:
                if first is large:
                    backend.run(small)
                gpu.room = room
                try:
                    _same(backend.run(first), wanted[first is large])
                except EnvironmentMissing as e:
                    assert "out of memory" in e.message
                    failures += 1
                gpu.room = None
                _same(backend.run(small), wanted[0])
                _same(backend.run(large), wanted[1])
            assert gpu.open == 0
    assert failures > 5


def test_a_graph_that_cannot_be_captured_leaves_plain_runs(
    bundle: Bundle, record: EngineRecord, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Uncapturable(HostDevice):
        def capture(self, stream, work):
            super().capture(stream, work)
            raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    gpu = Uncapturable()
    (inputs,) = utterances(bundle.manifest, 2, 2)
    with open_backend(bundle, "onnxruntime") as reference, _open(bundle, record, gpu, monkeypatch) as backend:
        for _ in range(4):
            _same(backend.run(inputs), reference.run(inputs))
    assert gpu.captured == 1  # tried once, and not again
    assert [each.message for each in caplog.records if "CAPTURE_UNSUPPORTED" in each.message]
    assert gpu.open == 0


def test_a_run_that_fails_gives_its_worker_back(
    opened: TensorRtBackend, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inputs,) = utterances(bundle.manifest, 1, 1)
    opened.run(inputs)
    monkeypatch.setattr("stand_ins.FakeContext.execute_async_v3", lambda self, handle: False)
    for _ in range(3):
        with pytest.raises(EnvironmentMissing, match="could not queue"):
            opened.run(inputs)
    monkeypatch.undo()
    with open_backend(bundle, "onnxruntime") as reference:
        _same(opened.run(inputs), reference.run(inputs))


def test_an_engine_that_tensorrt_rejects_or_that_is_another(
    bundle: Bundle, record: EngineRecord, gpu: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(FULL), "load", lambda self: FakeTrt(record, gpu))
    bad = tmp_path / "e.engine"
    bad.write_bytes(b"bad")
    with pytest.raises(EnvironmentMissing, match="not compatible"):
        TensorRtBackend(Engine(bad, record), FULL, gpu)
    other = replace(record, outputs=record.outputs[:1])
    with pytest.raises(BadDataError, match="not those of its record"):
        TensorRtBackend(Engine(bundle.graph().path, other), FULL, gpu)


def test_mismatches_name_both_sides(bundle: Bundle, record: EngineRecord) -> None:
    assert mismatches(record, bundle, "10.9", "8.9") == []
    doctored = replace(record, version="10.3", capabilities=("8.6",), graph_sha256="f" * 64)
    found = [str(mismatch) for mismatch in mismatches(doctored, bundle, "10.9", "8.9")]
    assert found == [
        f"fp32 graph: the engine has {'f' * 12}, here is {bundle.manifest.files['model.onnx'][:12]}",
        "tensorrt version: the engine has 10.3, here is 10.9",
        "GPU compute capability: the engine has 8.6, here is 8.9",
    ]
    portable = replace(record, capabilities=())
    assert mismatches(portable, bundle, "10.9", "12.0") == []
    assert [mismatch.engine for mismatch in mismatches(portable, bundle, "10.9", "7.5")] == ["8.0 or later"]


@pytest.fixture
def doctored(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose engine was built by an older TensorRT, on a machine that seems to have the right GPU."""
    record = engine_in(own).with_name("record.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"version": "1.0.0"}))
    monkeypatch.setattr(tensorrt, "open_device", lambda index: HostDevice())
    return own


def test_on_mismatch_error_says_both_sides_before_loading(doctored: Path) -> None:
    with pytest.raises(EngineMismatch, match=r"the engine has 1\.0\.0, here is 1\.\d") as error:
        open_backend(Bundle.open(doctored), "tensorrt-rtx", "fp16")
    assert f"mmx build-engine --fp16 --flavour tensorrt-rtx {doctored}" in error.value.hint


def test_an_older_engine_that_fits_is_taken_before_a_newer_that_does_not(own: Path, built) -> None:
    newer = replace(built.record, capabilities=("8.6",), engine="newer.engine", size=0, key="other", **made_now())
    bundle, version = Bundle.open(own), built.record.version
    with new_variant(bundle) as folder:
        (folder.path / "newer.engine").write_bytes(b"")
        folder.publish("newer", newer)
    bundle = bundle.refreshed()
    for capability, name in (("8.9", built.record.engine), ("8.6", "newer.engine")):
        engine, found = tensorrt.find_engine(bundle, RTX, "fp16", version, capability)
        assert engine.path.name == name and not found
    engine, found = tensorrt.find_engine(bundle, RTX, "fp16", version, "12.0")
    assert engine.path.name == "newer.engine" and [mismatch.engine for mismatch in found] == ["8.6"]


def test_on_mismatch_onnx_runs_the_graph_and_says_so(doctored: Path) -> None:
    with open_backend(Bundle.open(doctored), "tensorrt-rtx", "fp16", on_mismatch="onnx") as backend:
        assert backend.name == "onnxruntime" and backend.precision == "fp16"
        assert backend.why.startswith("--on-mismatch onnx: ") and "the engine has 1.0.0" in backend.why


def test_on_mismatch_rebuild_builds_for_this_machine(doctored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its profiles, its settings and its verification."""
    commands, profiles, seen = [], [], []

    class Done:
        returncode = 4

    def run(command: list[str], *, env: dict[str, str], **_: object) -> Done:
        commands.append(command)
        seen.append(env["CUDA_VISIBLE_DEVICES"])
        profiles.append(read_profiles(Path(command[-2]), spec.inputs, bundle.manifest))
        return Done()

    bundle = Bundle.open(doctored)
    spec = bundle.manifest.graphs["fp32"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tensorrt.subprocess, "run", run)
    with pytest.raises(EnvironmentMissing, match="exit code 4"):
        open_backend(bundle, "tensorrt-rtx", "fp16", on_mismatch="rebuild")
    assert commands[0][3:-3] == [
        "build-engine", "--fp16", "--flavour", "tensorrt-rtx", "--workspace", "0", "--samples", "8",
        "--seconds", "1800", "--tolerance", "0.01", "--target", "native",
    ]  # fmt: skip
    assert commands[0][-3] == "--profiles" and commands[0][-1] == str(doctored)
    assert profiles == [read_engine(engine_in(doctored)).record.profiles]
    for visible in (None, "2,GPU-abc"):
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(EnvironmentMissing, match="exit code 4"):
            open_backend(bundle, "tensorrt-rtx", "fp16", on_mismatch="rebuild", device="cuda:1")
    assert seen == ["0", "1", "GPU-abc"]


def test_a_changed_engine_is_not_loaded(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "open_device", lambda index: HostDevice())
    engine = engine_in(own)
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    with pytest.raises(BadDataError, match="not the file that was built"):
        open_backend(Bundle.open(own), "tensorrt-rtx", "fp16")


def test_asked_for_and_absent_is_an_error(bundle: Bundle, built, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmx.runtime.device.probe import find_gpu

    if find_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentMissing, match="no NVIDIA driver"):
        open_backend(built.bundle, "tensorrt-rtx", "fp16")
    with pytest.raises(EnvironmentMissing, match="TensorRT is not installed") as absent:
        open_backend(built.bundle, "tensorrt", "fp16")
    assert absent.value.hint == install_command("tensorrt")
    with pytest.raises(EnvironmentMissing, match="no CUDA provider"):
        open_backend(bundle, "onnxruntime-cuda")
    monkeypatch.setattr(tensorrt, "open_device", lambda index: HostDevice())
    with pytest.raises(UsageError, match="has no fp32 engine for tensorrt-rtx") as none:
        open_backend(bundle, "tensorrt-rtx")
    assert f"mmx build-engine --fp32 --flavour tensorrt-rtx {bundle.path}" in none.value.hint


def test_a_provider_that_fell_back_is_an_error() -> None:
    require_provider(["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EnvironmentMissing, match="only CPUExecutionProvider"):
        require_provider(["CPUExecutionProvider"])


def test_onnxruntime_that_offers_cuda_without_a_driver(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmx.runtime.backends import onnxruntime_cuda
    from mmx.runtime.device.probe import DriverProblem

    def reject(index: int) -> Gpu:
        raise DriverProblem("the NVIDIA driver says to cuInit: no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime_cuda.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime_cuda, "ask_driver", reject)
    with pytest.raises(EnvironmentMissing, match="cuInit: no CUDA-capable device"):
        open_backend(bundle, "onnxruntime-cuda")
