"""``Network``: what it makes of a backend's answers and failures, streams side by side, and devices."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from variants import with_graph

from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BackendFailed, BadDataError, EnvironmentMissing, MmxError, UsageError
from mmx.runtime.network import Network
from mmx.runtime.packing import pack
from mmx.runtime.preprocess import Segment
from mmx.runtime.types import Sample, Span

NOTHING = Sample(None, np.empty((0, 3, 48, 48), np.float32), np.empty((0, 128, 32), np.float32))
Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    return [
        Sample(
            random.integers(5, 1000, 3 + n),
            random.uniform(0, 255, (2, 3, 48, 48)).astype(np.float32),
            random.uniform(0, 9, (3, 128, 32)).astype(np.float32),
        )
        for n in range(8)
    ]


@pytest.fixture
def network(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network, and what puts something between it and its backend."""
    opened = Network.open(bundle, "onnxruntime", threads=1)
    real = opened.backend.run

    def between(change: Callable[[Run, dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Network:
        monkeypatch.setattr(opened.backend, "run", lambda inputs: change(real, inputs))
        return opened

    return between


def test_it_gives_what_the_backend_gives(bundle: Bundle, samples: list[Sample]) -> None:
    with Network.open(bundle, "onnxruntime", threads=1) as network:
        expected = network.backend.run(pack(samples).inputs)
        for found in (network.outputs(samples), network.logits(samples)):
            assert all((found[name] == expected[name]).all() for name in expected)
        rows = network.each(samples)
        weights = bundle.manifest.fusion_weights
        fused = sum(weights[name] * expected[f"logits_{name}"] for name in weights)
        np.testing.assert_allclose(network.fused(samples), fused, rtol=1e-5, atol=1e-6)
    for number, row in enumerate(rows):
        assert isinstance(row, dict)
        assert all((row[name] == expected[name][number]).all() for name in expected)


def test_of_modalities_that_are_not_there_nothing_is_fused(bundle: Bundle, samples: list[Sample]) -> None:
    silent = Sample(samples[0].token_ids, samples[0].faces, NOTHING.pieces)
    with Network.open(bundle, "onnxruntime", threads=1) as network:
        outputs = network.outputs([silent])
        weights = bundle.manifest.fusion_weights
        expected = sum(weights[name] * outputs[f"logits_{name}"] for name in ("text", "visual"))
        np.testing.assert_allclose(network.fused([silent]), expected, rtol=1e-5, atol=1e-6)


def few(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[:-1] for name, values in run(inputs).items()}


def narrow(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[:, :2] for name, values in run(inputs).items()}


def flat(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.ravel() for name, values in run(inputs).items()}


def fewer_names(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"logits": run(inputs)["logits"]}


@pytest.mark.parametrize("change", [few, narrow, flat, fewer_names])
def test_outputs_of_the_wrong_shape_are_an_error_not_an_answer(
    network: Any, samples: list[Sample], change: Any
) -> None:
    opened = network(change)
    with pytest.raises(BadDataError, match=r"ours on onnxruntime \(fp32\) gives logits\w* of shape"):
        opened.outputs(samples[:3])
    assert all(isinstance(each, BadDataError) for each in opened.each(samples[:3]))


@pytest.mark.parametrize(
    "failure", [RuntimeError("Failed to allocate memory\nfor a buffer"), MemoryError(), KeyError()]
)
def test_what_a_backend_raises_is_one_line_for_the_sample_that_caused_it(
    network: Any, samples: list[Sample], failure: Exception
) -> None:
    def fails_on_5_tokens(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if (inputs["attention_mask"].sum(axis=1) == 5).any():
            raise failure
        return run(inputs)

    opened = network(fails_on_5_tokens)
    with pytest.raises(BackendFailed) as error:
        opened.logits(samples)
    assert error.value.exit_code == 5 and "\n" not in str(error.value) and error.value.__cause__ is failure
    assert str(failure).split("\n")[0] in error.value.message
    answers = opened.each(samples)
    assert [isinstance(each, MmxError) for each in answers] == [len(s.token_ids) == 5 for s in samples]


def test_a_graph_that_asks_for_more_memory_than_exists_is_one_line(
    tiny_bundle: Path, tmp_path: Path, samples: list[Sample]
) -> None:
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "ckpt.mmx"))
    model = onnx.load(bundle.graph().path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**50], np.int64), "petabytes"))
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "small"
    model.graph.node.extend(  # the size follows from an input, so that it is known only when the graph runs
        [
            helper.make_node("Shape", ["input_ids"], ["batch"], start=0, end=1),
            helper.make_node("Mul", ["batch", "petabytes"], ["count"]),
            helper.make_node("ConstantOfShape", ["count"], ["huge"]),
            helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0),
            helper.make_node("Add", ["small", "most"], ["logits"]),
        ]
    )
    hostile = with_graph(bundle, "int8", model)
    with Network.open(hostile, "onnxruntime", "int8", threads=1) as network, pytest.raises(BackendFailed) as error:
        network.logits(samples[:1])
    assert error.value.exit_code == 5 and "\n" not in str(error.value) and "failed on 1 segment" in str(error.value)


def test_one_sample_that_is_not_finite_spoils_no_other(network: Any, samples: list[Sample]) -> None:
    def spoils_the_batch(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        bad = (inputs["attention_mask"].sum(axis=1) == 5).any()
        return {name: values * (np.nan if bad else 1) for name, values in run(inputs).items()}

    opened = network(spoils_the_batch)
    with pytest.raises(BadDataError, match="not finite"):
        opened.logits(samples)
    assert not np.isfinite(opened.outputs(samples)["logits"]).any()
    answers = opened.each(samples)
    assert [isinstance(each, BadDataError) for each in answers] == [len(s.token_ids) == 5 for s in samples]


def test_segments_become_predictions_or_errors_in_order(network: Any, samples: list[Sample]) -> None:
    def fails_on_5_tokens(run: Run, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if (inputs["attention_mask"].sum(axis=1) == 5).any():
            raise RuntimeError("no")
        return run(inputs)

    def segment(number: int, sample: Sample) -> Segment:
        return Segment("a.mp4", Span(number, number + 1), sample, {}, (), 2, (), {"decode": 1.0})

    opened = network(fails_on_5_tokens)
    order = [samples[0], NOTHING, samples[2], samples[1]]
    first, empty, broken, last = opened.predict([segment(n, sample) for n, sample in enumerate(order)])
    assert isinstance(broken, MmxError)
    assert (first.start, empty.start, last.start) == (0, 1, 3)
    assert empty.flags == ("nothing_to_go_on", "untrained_model")  # its weights are seeded
    assert empty.probabilities == {} and empty.timings_ms["network"] == 0
    alone = opened.each([samples[1]])[0]["logits_text"]
    np.testing.assert_allclose(list(last.modality_logits["text"].values()), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("backend", "threads"), [("onnxruntime", 1), ("onnxruntime", 2), ("openvino", 1)])
def test_streams_side_by_side_give_what_one_gives(
    bundle: Bundle, samples: list[Sample], backend: str, threads: int
) -> None:
    pytest.importorskip(backend)
    with Network.open(bundle, "onnxruntime", threads=1) as alone:
        expected = [alone.logits([sample])["logits"][0] for sample in samples]
    network = Network.open(bundle, backend, threads=threads, streams=2)
    assert network.backend.streams == 2 and network.backend.name == backend
    with ThreadPoolExecutor(4) as pool:  # more at once than there are streams
        found = list(pool.map(lambda n: network.logits([samples[n % 8]])["logits"][0], range(32)))
    for number, logits in enumerate(found):
        assert logits == pytest.approx(expected[number % 8], abs=1e-4)
    network.close()
    network.close()
    with pytest.raises(MmxError, match="closed"):
        network.logits(samples[:1])


def test_streams_that_nobody_counted_share_the_cores(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmx.runtime import backends

    monkeypatch.setattr(backends, "usable_cores", lambda: 3)
    with open_backend(bundle, "onnxruntime", streams=None) as backend:
        assert backend.streams == 3
    with open_backend(bundle, "onnxruntime", streams=None, threads=2) as backend:
        assert backend.streams == 1


def test_a_device_is_had_or_the_error_says_why_not(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cpu", None):
        with open_backend(bundle, "onnxruntime", device=device) as backend:
            assert backend.device == "CPU"
    with open_backend(bundle, utterances=1, device="cpu") as backend:
        assert backend.name == "onnxruntime" and "tensorrt" not in backend.why
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(UsageError, match=f"{name} runs on the CPU, not on cuda:1"):
            open_backend(bundle, name, device="cuda:1")
    with pytest.raises(UsageError, match="tensorrt runs on the GPU, not on cpu"):
        open_backend(bundle, "tensorrt", device="cpu")
    for device in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", ""):
        with pytest.raises(UsageError, match="there is no device"):
            open_backend(bundle, device=device)
    with pytest.raises(UsageError, match="streams is 0"):
        open_backend(bundle, streams=0)

    from mmx.runtime.backends import onnxruntime_cuda
    from mmx.runtime.device.probe import DriverProblem

    asked = []

    def reject(index: int) -> None:
        asked.append(index)
        raise DriverProblem(f"there is no GPU {index}, the driver has 1")

    monkeypatch.setattr(onnxruntime_cuda.ort, "get_available_providers", lambda: [onnxruntime_cuda.PROVIDER])
    monkeypatch.setattr(onnxruntime_cuda, "ask_driver", reject)
    with pytest.raises(EnvironmentMissing, match="there is no GPU 3"):
        open_backend(bundle, "onnxruntime-cuda", device="cuda:3")
    with pytest.raises(EnvironmentMissing, match=r"nothing runs this bundle on the GPU: .*there is no GPU 2") as none:
        open_backend(bundle, device="cuda:2")
    assert none.value.hint == "--device cpu" and asked == [3, 2]
